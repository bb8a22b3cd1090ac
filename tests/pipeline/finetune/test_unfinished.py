"""A call of finetune that was killed: what it had finished is kept, and the same call makes what an undisturbed one makes."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.finetune import run as running
from pipeline.finetune.output import write_predictions
from pipeline.finetune.unfinished import BEGUN, LOCK, held
from tests.pipeline.finetune.conftest import QUICK, Done, conll, sentences

FIRST = 3


@pytest.fixture
def words(write: Callable[[str, str], Path], model_dir: Path, tmp_path: Path) -> list[str]:
    """Two seeds of a training of a step or two, in `tmp_path`/out."""
    train, test = write("train-en.tsv", conll(sentences(9, 1))), write("test-de.tsv", conll(sentences(3, 2)))
    seeds = ["--seed", str(FIRST), "--seeds", "2", "--epochs", "1"]
    given = ["--train", str(train), "--test", str(test), "--out", str(tmp_path / "out")]
    return ["finetune", "tag", str(model_dir), *given, *QUICK, *seeds]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """The seeds that are trained; what the folder holds as each of them has been is copied to `tmp_path`/SEED."""
    seeds: list[int] = []
    fine_tune = running.fine_tune

    def watched(task: Any, start: Any, settings: Any, seed: int, *more: Any) -> Any:
        trainer = fine_tune(task, start, settings, seed, *more)
        shutil.copytree(tmp_path / "out", tmp_path / str(seed))
        seeds.append(seed)
        return trainer

    monkeypatch.setattr(running, "fine_tune", watched)
    return seeds


def bytes_under(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_seed_that_is_done_is_not_done_again(
    use: Callable[..., Done], words: list[str], trained: list[int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    straight = use(*words)
    assert straight.code == 0 and trained == [FIRST, FIRST + 1], straight.err
    expected = bytes_under(out)
    assert not [name for name in expected if name.startswith(".")], "nothing says that it was begun"

    killed = tmp_path / str(FIRST + 1)  # as the second seed was trained
    half = killed / f"seed-{FIRST + 1}"
    for left in (half / ".model.999999999.tmp", half / "predictions", half / "trainer" / "checkpoint-1"):
        left.mkdir(parents=True, exist_ok=True)
        (left / "half").write_bytes(b"")
    shutil.rmtree(out)
    shutil.move(killed, out)
    again = use(*words)
    assert again.code == 0 and trained[2:] == [FIRST + 1], again.err
    assert f"seed {FIRST}: was done before" in again.err
    assert again.out == straight.out and bytes_under(out) == expected
    assert f"--out {out}: is not empty; give a new folder" in use(*words).error


def test_what_was_begun_is_not_gone_on_with_as_something_else(
    use: Callable[..., Done], words: list[str], trained: list[int], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert use(*words).code == 0
    shutil.rmtree(out)
    shutil.move(tmp_path / str(FIRST), out)
    (out / LOCK).unlink()
    before = bytes_under(out)
    other = use(*words, "--lr", "1e-3")
    assert f"--out {out}: was begun with other settings and is not finished; give a new folder" in other.error
    (tmp_path / "train-en.tsv").write_text(conll(sentences(9, 7)), encoding="utf-8")
    assert "was begun with other contents of files and is not finished" in use(*words).error
    assert bytes_under(out) == before and len(trained) == 2


def test_ctrl_c_in_a_later_seed_keeps_the_first(
    use: Callable[..., Done], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine_tune, seeds = running.fine_tune, []

    def interrupted(task: Any, start: Any, settings: Any, seed: int, *more: Any) -> Any:
        seeds.append(seed)
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return fine_tune(task, start, settings, seed, *more)

    monkeypatch.setattr(running, "fine_tune", interrupted)
    assert use(*words).code == 130
    (run,) = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["runs"]
    assert run["seed"] == FIRST
    assert use(*words).code == 0 and seeds == [FIRST, FIRST + 1, FIRST + 1]


def test_a_model_or_predictions_are_there_when_they_are_whole(
    use: Callable[..., Done], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(running, "write_record", broken)
    done = use(*words)
    assert done.code == 1 and not (tmp_path / "out" / f"seed-{FIRST}" / "model").exists()
    path = write_predictions(tmp_path, "pos", "de", "tsv", "old\n")
    monkeypatch.setattr("data_prep.files.publish", broken)
    with pytest.raises(OSError, match="disk gone"):
        write_predictions(tmp_path, "pos", "de", "tsv", "new\n")
    assert path.read_text(encoding="utf-8") == "old\n" and len(list(path.parent.iterdir())) == 1


def test_two_at_once_and_what_killed_ones_left(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{BEGUN}.999999999.tmp").write_text("{", encoding="utf-8")
    with held(out, {"seeds": [1]}):
        assert sorted(path.name for path in out.iterdir()) == [BEGUN, LOCK]
        with pytest.raises(ValueError, match="held by another run"), held(out, {"seeds": [1]}):
            pass
        (out / "results.json").write_text("{}", encoding="utf-8")
    assert [path.name for path in out.iterdir()] == ["results.json"]
    with (out / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="held by another run"), held(out, {"seeds": [1]}):
            pass
