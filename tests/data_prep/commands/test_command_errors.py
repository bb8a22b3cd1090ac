"""Wrong input: one line that names file, value and mend, a code that is not 0, and nothing that a reader accepts."""

import gzip
import lzma
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import train

Run = Callable[..., tuple[int, str, str]]

TEXT = b"the cat sees\na dog\n" * 40


def assert_refused(result: tuple[int, str, str], *parts: str, code: int = 1) -> None:
    """The command ended with `code` and exactly one error line, which holds all `parts`."""
    assert result[0] == code, result
    errors = [line for line in result[2].splitlines() if not re.match("(reading|encoding): ", line)]
    assert len(errors) == 1, result[2]
    assert errors[0].startswith("error: ")
    for part in parts:
        assert part in errors[0]


def assert_unreadable(data_dir: Path) -> None:
    """Nothing of a failed run is accepted by the reader, and no token file is left."""
    with pytest.raises(ValueError, match=r"manifest\.json: no such file"):
        Manifest.load(data_dir)
    assert not list(data_dir.rglob("*.bin"))


@pytest.fixture
def mono(run: Run, tokenizer_dir: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run `mono` on a file of this name and content."""

    def run_mono(name: str, content: bytes | None, *options: object) -> tuple[int, str, str]:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        options = options or ("--lang", "de")
        return run("mono", tmp_path / name, "--tokenizer", tokenizer_dir, "--out", tmp_path / "data", *options)

    return run_mono


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("text", b"good\nb\xc3d\n", ("text:2: invalid_utf8", r"b'b\xc3d", "--max-bad-rate")),
        ("text", b"good\nb\x00d\n", ("text:2: nul", "--max-bad-rate")),
        ("text", b"", ("text: empty file", "give one with text")),
        ("text", b"\n \n\n", ("text: holds no text",)),
        ("text", b"\xef\xbb\xbf", ("text: holds no text",)),
        ("text.gz", gzip.compress(b"", mtime=0), ("text.gz: holds no text",)),
        ("text", None, ("text: no such file", "check the path")),
        ("text.gz", TEXT, ("text.gz: named as .gz", "rename")),
        ("text", lzma.compress(TEXT), ("text: named as plain text", ".xz")),
        ("text.xz", lzma.compress(TEXT)[:-8], ("text.xz: truncated archive", "fetch")),
        ("text.gz", gzip.compress(TEXT, mtime=0)[:-8], ("text.gz: truncated archive",)),
        ("text.zst", zstandard.ZstdCompressor().compress(TEXT)[:-8], ("text.zst: truncated archive",)),
    ],
)
def test_unusable_text_is_refused_and_leaves_nothing(
    name: str, content: bytes | None, parts: tuple[str, ...], mono: Run, tmp_path: Path
) -> None:
    assert_refused(mono(name, content), *parts)
    assert_unreadable(tmp_path / "data")


def test_a_folder_as_input_is_refused(run: Run, tokenizer_dir: Path, tmp_path: Path) -> None:
    result = run("mono", tmp_path, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert_refused(result, str(tmp_path), "a folder without files")


@pytest.mark.parametrize(
    ("lines", "counts"), [((3, 5), ("3 lines", "5 lines")), ((3000, 2), ("3000 lines", "2 lines"))]
)
def test_unequal_line_counts_name_both_files(
    lines: tuple[int, int], counts: tuple[str, str], run: Run, tokenizer_dir: Path, tmp_path: Path
) -> None:
    files = tmp_path / "x.en", tmp_path / "x.de"
    for file, count in zip(files, lines, strict=True):
        file.write_text("the cat\n" * count)
    result = run("parallel", *files, "--pair", "en-de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert_refused(result, f"x.en has {counts[0]}", f"x.de has {counts[1]}", "complete the shorter")
    assert_unreadable(tmp_path / "data")


def test_a_tsv_line_of_another_shape_names_file_and_line(run: Run, tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "w.tsv").write_text("1.1\ta\tb\n1.2\ta b\n")
    options = ("--pair", "en-de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert_refused(run("parallel", tmp_path / "w.tsv", "--tsv", *options), "w.tsv:2: columns", "1.2")
    assert_unreadable(tmp_path / "data")


@pytest.mark.parametrize("lang", ["german", "DE", "d", "de_", "../x", ""])
def test_a_wrong_language_code_is_refused(lang: str, mono: Run, tmp_path: Path) -> None:
    assert_refused(mono("text", TEXT, "--lang", lang), f"--lang {lang}", "as de or zh_Hans")
    assert_unreadable(tmp_path / "data")


@pytest.mark.parametrize("pair", ["ende", "en-es-LA", "en-EN", "en-en", "en-"])
def test_a_wrong_pair_is_refused(
    pair: str, pair_files: tuple[Path, Path], run: Run, tokenizer_dir: Path, tmp_path: Path
) -> None:
    options = ("--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert_refused(run("parallel", *pair_files, "--pair", pair, *options), "--pair")


def test_a_hyphen_in_a_language_is_taken_as_an_underscore_and_said(mono: Run, tmp_path: Path) -> None:
    code, _, err = mono("zh-Hans.txt", TEXT, "--lang", "zh-Hans")
    assert (code, err.splitlines()[0]) == (0, "--lang zh-Hans: taken as zh_Hans")
    assert list(Manifest.load(tmp_path / "data").mono) == ["zh_Hans"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--workers", 0), "--workers 0"),
        (("--shard-bytes", 0), "--shard-bytes 0"),
        (("--max-bad-rate", 1.5), "--max-bad-rate 1.5"),
        (("--max-tokens", 0), "--max-tokens 0"),
        (("--max-ratio", 0.1), "--max-ratio 0.1"),
        (("--min-score", 1), "has no score"),
        (("--tsv",), "2 files given"),
    ],
)
def test_an_option_out_of_range_is_named(
    options: tuple[object, ...], part: str, pair_files: tuple[Path, Path], run: Run, tokenizer_dir: Path, tmp_path: Path
) -> None:
    fixed = ("--pair", "en-de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert_refused(run("parallel", *pair_files, *fixed, *options), part)
    assert_unreadable(tmp_path / "data")


def test_a_missing_tokenizer_is_named_with_the_command_that_makes_one(
    mono_file: Path, run: Run, tmp_path: Path
) -> None:
    result = run("mono", mono_file, "--lang", "de", "--tokenizer", tmp_path / "none", "--out", tmp_path / "data")
    assert_refused(result, "none: no such folder", "tokenizer import")
    assert_unreadable(tmp_path / "data")


def test_another_tokenizer_than_the_folders_is_refused_with_both_hashes(
    mono_file: Path, pair_files: tuple[Path, Path], run: Run, tokenizer_dir: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    assert run("mono", mono_file, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", data)[0] == 0
    other = train(mono_file.read_text().split("\n"), 45, 1.0, 4192)
    other.save(tmp_path / "other")
    before = Manifest.load(data)
    result = run("mono", pair_files[0], "--lang", "en", "--tokenizer", tmp_path / "other", "--out", data)
    assert_refused(result, other.sha256, before.tokenizer_sha256, str(data / "tokenizer"))
    assert Manifest.load(data).digest() == before.digest()


def test_a_second_run_on_the_same_source_at_the_same_time_is_refused(
    mono_file: Path, run: Run, tokenizer_dir: Path, tmp_path: Path
) -> None:
    command = ("mono", mono_file, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert run(*command)[0] == 0
    (lock,) = (tmp_path / "data" / "locks").glob("mono-*.lock")
    holder = (
        f"import fcntl,sys; f=open({str(lock)!r}); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert_refused(run(*command), str(lock), "another run")
        process.stdin.close()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(("mono",), "files"), (("binarize",), "binarize"), (("inspect", "x", "--jso"), "--jso")],
)
def test_wrong_usage_is_one_line_too(arguments: tuple[str, ...], part: str, run: Run) -> None:
    assert_refused(run(*arguments), part.strip(), code=2)


def test_errors_of_the_system_are_one_line_too(mono_file: Path, run: Run, tokenizer_dir: Path) -> None:
    result = run("mono", mono_file, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", mono_file / "data")
    assert_refused(result, "Not a directory")


@pytest.mark.parametrize(
    "command", ["mono", "parallel", "inspect", "verify", "sample", "tokenizer train", "tokenizer import"]
)
def test_every_command_has_help_with_an_example(command: str, run: Run) -> None:
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert f"Example: python -m data_prep {command}" in " ".join(out.split())


def test_tokenizer_commands_make_folders_that_load_and_refuse_wrong_input(
    mono_file: Path, run: Run, tokenizer_dir: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "text.xz"
    packed.write_bytes(lzma.compress(mono_file.read_bytes()))
    for file, out in ((mono_file, "a"), (packed, "b")):
        assert run("tokenizer", "train", file, "--vocab-size", 46, "--out", tmp_path / out)[0] == 0
    assert (tmp_path / "a/tokenizer_meta.json").read_bytes() == (tmp_path / "b/tokenizer_meta.json").read_bytes()
    model = tokenizer_dir / "sentencepiece.bpe.model"
    assert run("tokenizer", "import", model, "--out", tmp_path / "c")[0] == 0
    assert (tmp_path / "c/sentencepiece.bpe.model").read_bytes() == model.read_bytes()
    assert_refused(run("tokenizer", "import", model, "--out", tmp_path / "a"), "holds another tokenizer")
    assert_refused(run("tokenizer", "import", mono_file, "--out", tmp_path / "d"), "not a SentencePiece model")
    too_large = run("tokenizer", "train", mono_file, "--vocab-size", 9000, "--out", tmp_path / "d")
    assert_refused(too_large, "--vocab-size 9000", "at most")
    assert not (tmp_path / "d").exists()


def test_training_counts_the_lines_that_are_too_long(run: Run, tmp_path: Path, mono_file: Path) -> None:
    (tmp_path / "long").write_bytes(mono_file.read_bytes() + b"the cat " * 600 + b"\n")
    code, out, _ = run("tokenizer", "train", tmp_path / "long", "--vocab-size", 46, "--out", tmp_path / "t")
    assert (code, out.splitlines()[-1]) == (0, "lines left out: longer than 4192 bytes 1")
