"""Workers that die, whenever they do, end the run with a line instead of a wait."""

import multiprocessing.spawn
import os
import pickle
import signal
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from data_prep.parallel.workers import run_tasks
from data_prep.tokenizers.tokenizer import Tokenizer

PIPE_BYTES = 1 << 16


def use(tokenizer: Tokenizer, text: str) -> list[int]:
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return tokenizer.encode(text)


def test_a_kept_tokenizer_is_sent_by_name(tokenizer: Tokenizer, tokenizer_dir: Path) -> None:
    sent = pickle.dumps(tokenizer.kept_in(tokenizer_dir))
    assert len(sent) < 1000
    received = pickle.loads(sent)
    assert received.model == tokenizer.model
    assert pickle.dumps(received) == sent, "a rank passes it on to its workers"
    assert len(pickle.dumps(tokenizer)) > len(tokenizer.model)


def test_another_tokenizer_in_its_place_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    sent = pickle.dumps(tokenizer.kept_in(tmp_path)).replace(tokenizer.sha256.encode(), b"0" * 64)
    with pytest.raises(ValueError, match="changed while it was used"):
        pickle.loads(sent)


def test_a_worker_that_dies_at_work_ends_the_run(tokenizer: Tokenizer, tokenizer_dir: Path) -> None:
    with pytest.raises(ValueError, match="a worker died"):
        list(run_tasks(use, ["a cat", "die"], 2, tokenizer.kept_in(tokenizer_dir)))


@pytest.mark.timeout(60)
def test_a_worker_that_dies_before_it_takes_its_context_ends_the_run(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tokenizer.kept_in(tmp_path)
    large.model += bytes(2 * PIPE_BYTES)
    resource_tracker.ensure_running()
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", b"/bin/false")
    with pytest.raises(ValueError, match="a worker died"):
        list(run_tasks(use, ["a cat", "a dog"], 2, large))
