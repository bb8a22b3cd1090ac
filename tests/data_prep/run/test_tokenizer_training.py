"""`tokenizer train`: from all that mono and parallel read, with a sign of life, and gone at once on Ctrl-C."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from data_prep import progress
from data_prep.plan.formats import Reading
from data_prep.run import tokenizer_training
from data_prep.run.tokenizer_training import train_on
from data_prep.run.training_text import MAX_LINE_BYTES, training_lines, training_sources
from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer, train
from tests.data_prep.conftest import make_sentences
from tests.data_prep.source_kit import write_jsonl, write_tmx, write_zip

Run = Callable[..., tuple[int, str, str]]

EN, DE = make_sentences(200, 1), make_sentences(200, 2)


def lines_of(*locations: object, **options: object) -> list[str]:
    sources = training_sources([str(location) for location in locations], Reading(**options))  # type: ignore[arg-type]
    return [line for source in sources for line in training_lines(source, 0.0, Counter())]


def test_the_model_is_that_of_the_same_lines_in_this_process(mono_file: Path, run: Run, tmp_path: Path) -> None:
    lines = [line for line in mono_file.read_text().split("\n") if line]
    expected = train(lines, 46, 0.9995, MAX_LINE_BYTES)
    code, out, _ = run("tokenizer", "train", mono_file, "--vocab-size", 46, "--out", tmp_path / "t")
    assert (code, out) == (0, f"{tmp_path / 't'}: 46 pieces from {len(lines):,} lines, vocabulary 48\n")
    assert (tmp_path / "t" / MODEL_NAME).read_bytes() == expected.model
    assert Tokenizer.load(tmp_path / "t").sha256 == expected.sha256


def test_every_format_gives_the_lines_of_its_text(tmp_path: Path) -> None:
    both = [line for pair in zip(EN, DE, strict=True) for line in pair]
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0.txt.gz").write_bytes(gzip.compress("\n".join(EN).encode()))
    (tmp_path / "parts" / "1.txt").write_text("\ufeff" + "\n\n".join(DE))
    assert lines_of(tmp_path / "parts") == EN + DE
    (tmp_path / "x.tsv").write_text("".join(f"1.1\t{en}\t{de}\n" for en, de in zip(EN, DE, strict=True)))
    assert lines_of(tmp_path / "x.tsv") == both
    tmx = write_tmx(tmp_path / "x.tmx", [{"en-GB": en, "de": de} for en, de in zip(EN, DE, strict=True)])
    assert lines_of(tmx, fields=("en", "de")) == EN + DE
    packed = write_zip(tmp_path / "x.zip", {"x.en": "\n".join(EN), "x.de": "\n".join(DE)})
    assert lines_of(packed, fields=("de",)) == DE
    jsonl = write_jsonl(tmp_path / "x.jsonl", [{"text": "\n".join(EN)}, {"text": "\n".join(DE)}])
    assert lines_of(jsonl) == EN + DE
    (tmp_path / "x.csv").write_text("id,en\n" + "".join(f'{n},"{en}"\n' for n, en in enumerate(EN)))
    assert lines_of(tmp_path / "x.csv", fields=("en",)) == EN


def test_a_mix_gives_its_text_but_for_what_its_filters_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("de.txt").write_text("the cat\n" + "long " * 9 + "\n\na dog\n")
    Path("x.en").write_text("red\nsame\n")
    Path("x.de").write_text("old\nsame\n")
    Path("w.tsv").write_text("1.2\tgood\tfine\n0.9\tbad\tpoor\n")
    corpora = [
        {"mono": "de", "files": "de.txt", "filters": {"max_characters": 20}},
        {"pair": "en-de", "source_files": "x.en", "target_files": "x.de"},
        {"pair": "en-de", "files": "w.tsv", "filters": {"min_score": 1.0}},
    ]
    Path("mix.yaml").write_text(json.dumps({"corpora": corpora}))
    left_out: Counter[str] = Counter()
    sources = training_sources(["mix.yaml"], Reading())
    found = [line for source in sources for line in training_lines(source, 0.0, left_out)]
    assert found == ["the cat", "a dog", "red", "old", "good", "fine"]
    assert left_out == {"too_long": 1, "identical": 1, "low_score": 1}


def test_what_is_missing_or_means_nothing_is_told(run: Run, tmp_path: Path) -> None:
    tmx = write_tmx(tmp_path / "m.tmx", [{"en": "cat"}])
    (tmp_path / "x.txt").write_text("the cat\n")
    (tmp_path / "y.tsv").write_text("the cat\ta dog\n")
    for arguments, told in [
        ((tmx,), "m.tmx: name the languages to take"),
        ((tmx, "--fields", "fr"), "no unit has fr; its languages are en"),
        ((tmp_path / "x.txt", "--fields", "en"), "--fields en: means nothing"),
        ((tmp_path / "y.tsv",), "--columns source,target"),
        ((tmp_path / "none.txt",), "none.txt: no such file"),
        ((tmp_path / "none.yaml",), "none.yaml: cannot read the mix"),
        ((tmp_path / "x.txt", "--format", "dataset"), "describe the dataset in a mix"),
        ((tmp_path / "x.txt", "--max-bad-rate", 2), "--max-bad-rate 2.0"),
    ]:
        code, _, err = run("tokenizer", "train", *arguments, "--vocab-size", 30, "--out", tmp_path / "t")
        assert (code, err.count("error:")) == (1, 1), err
        assert told in err
    assert not (tmp_path / "t").exists()


def test_bad_lines_fail_at_once_or_are_left_out_and_counted(mono_file: Path, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(mono_file.read_bytes() + b"\nb\xffd\n" + "größe\n".encode())
    command = ("tokenizer", "train", path, "--vocab-size", 46, "--out", tmp_path / "t")
    code, _, err = run(*command)
    assert (code, "invalid_utf8 in b'b\\xffd'" in err) == (1, True)
    assert not (tmp_path / "t").exists()
    code, out, _ = run(*command, "--max-bad-rate", 0.1)
    assert (code, out.splitlines()[-1]) == (0, "lines left out: unusable 1")


def test_a_training_process_that_dies_is_one_line(mono_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = training_sources([str(mono_file)], Reading())
    monkeypatch.setattr(tokenizer_training, "_train_apart", os._exit)
    with pytest.raises(ValueError, match=r"the training process ended with \d+, most likely out of memory"):
        train_on(sources, 46, 1.0)


@pytest.fixture
def slow_text(tmp_path: Path) -> Path:
    """Text that takes SentencePiece many seconds."""
    draw = random.Random(1)
    words = [f"w{draw.getrandbits(16):x}" for _ in range(20_000)]
    path = tmp_path / "slow.txt"
    path.write_text("".join(" ".join(draw.choices(words, k=12)) + "\n" for _ in range(120_000)))
    return path


def is_training(process: psutil.Process) -> bool:
    """Whether it is the training process and SentencePiece, which is C++, is past its lines and at work, by the log."""
    log = Path(f"/proc/{process.pid}/fd/1")
    try:
        is_begun = "spawn_main" in " ".join(process.cmdline()) and str(log.readlink()).endswith("(deleted)")
        return is_begun and b"Extracting " in log.read_bytes()
    except (psutil.NoSuchProcess, OSError):
        return False


def start_training(text: Path, out: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """The command and its training process, once that is at work in C++."""
    command = [sys.executable, "-m", "data_prep", "tokenizer", "train", text, "--vocab-size", 3000, "--out", out]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for child in filter(is_training, psutil.Process(process.pid).children()):
            return process, child
        time.sleep(0.05)
    raise AssertionError("the training process has not begun, or is done")


def test_an_interrupt_ends_training_at_once_and_leaves_nothing(slow_text: Path, tmp_path: Path) -> None:
    process, child = start_training(slow_text, tmp_path / "t")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert not child.is_running()
    assert not (tmp_path / "t").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's end on Linux")
def test_a_killed_command_takes_its_training_process_with_it(slow_text: Path, tmp_path: Path) -> None:
    process, child = start_training(slow_text, tmp_path / "t")
    process.kill()
    process.communicate()
    child.wait(timeout=30)


def test_training_tells_what_it_is_at(
    slow_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(tokenizer_training, "POLL_SECONDS", 0.01)
    text = tmp_path / "part.txt"
    text.write_text("".join(slow_text.open().readlines()[:15_000]))
    train_on(training_sources([str(text)], Reading()), 1000, 1.0)
    err = capfd.readouterr().err
    assert "reading, 0 lines" in err
    assert "training on 15,000 lines" in err
    assert "candidates left for 1,000 pieces" in err
