"""What the tests of data_prep share: a tiny tokenizer, small texts, and a way to run a command."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.tokenizers.tokenizer import Tokenizer, train

Run = Callable[..., tuple[int, str, str]]

VOCABULARY = "the cat dog bird sees hears likes a small big red old house tree river and on under with ß é 日本 語"
WORDS = VOCABULARY.split()


def make_sentences(count: int, seed: int = 0) -> list[str]:
    """Seeded sentences of 2 to 12 known words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(2, 12))) for _ in range(count)]


def make_documents(count: int, seed: int = 0) -> bytes:
    """Text in CC-100 layout: documents of 1 to 6 sentences, apart by a blank line."""
    draw = random.Random(seed)
    sentences = iter(make_sentences(6 * count, seed))
    return "\n".join("".join(f"{next(sentences)}\n" for _ in range(draw.randint(1, 6))) for _ in range(count)).encode()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A tokenizer of 48 pieces over `WORDS`."""
    return train(make_sentences(400, seed=7), 48, 1.0, 4192)


@pytest.fixture(scope="session")
def tokenizer_dir(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny tokenizer as a TOKENIZER_DIR."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder


@pytest.fixture
def mono_file(tmp_path: Path) -> Path:
    """200 documents in `text.txt`."""
    path = tmp_path / "text.txt"
    path.write_bytes(make_documents(200))
    return path


@pytest.fixture
def pair_files(tmp_path: Path) -> tuple[Path, Path]:
    """300 pairs in `train.en` and `train.de`."""
    paths = tmp_path / "train.en", tmp_path / "train.de"
    for seed, path in enumerate(paths, start=1):
        path.write_text("".join(f"{sentence}\n" for sentence in make_sentences(300, seed)))
    return paths


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command of `python -m data_prep` in this process: exit code, standard output, standard error."""

    def run_command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run_command


@pytest.fixture
def files_under() -> Callable[[Path], dict[str, bytes]]:
    """Read a whole folder: relative name → bytes."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def documents_text() -> Callable[[int, int], bytes]:
    """`make_documents`, for tests that want other sizes."""
    return make_documents


@pytest.fixture
def parallel(run: Run, tokenizer_dir: Path, tmp_path: Path) -> Run:
    """Run `parallel` into `data`."""

    def run_parallel(*arguments: object, pair: str = "en-de") -> tuple[int, str, str]:
        fixed = ("--pair", pair, "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
        return run("parallel", *arguments, *fixed)

    return run_parallel


@pytest.fixture
def mono(run: Run, tokenizer_dir: Path, tmp_path: Path) -> Run:
    """Run `mono` into `data`."""

    def run_mono(*arguments: object, lang: str = "de") -> tuple[int, str, str]:
        return run("mono", *arguments, "--lang", lang, "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")

    return run_mono
