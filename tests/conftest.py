"""Fixtures that all tests share: the real corpora, and what they may be used for."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadFileScheduling

# Triton reads this when it is first imported, which any test may cause: without a GPU its interpreter runs the kernels.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What a script starts in the background has Ctrl-C and Ctrl-\ ignored, what nohup starts a closed terminal, and so have its
# children: those of the tests are to heed them.
for number, usual in {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGQUIT: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}.items():
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

MAY_BE_MISSING = "gpu"
"""The mark of tests that need what `.ci/run` cannot install."""

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real corpora beside the checkout; tests that need it are skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("the folder ../shared with real corpora is not here")
    return folder


@pytest.fixture(scope="session")
def xlmr_model(shared_dir: Path) -> Path:
    """XLM-R's SentencePiece model."""
    return shared_dir / "data" / "xlmr_tokenizer" / "sentencepiece.bpe.model"


class Together(LoadFileScheduling):
    """Gives the tests of a file, and all of those on several hosts, to one process: they share what they made."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "cluster" if file.startswith("tests/cluster/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Where XLM_ALIGN_NO_SKIPS is set, a test that was skipped without the mark `MAY_BE_MISSING` fails the run."""
    if not os.environ.get("XLM_ALIGN_NO_SKIPS"):
        return
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if MAY_BE_MISSING not in r.keywords]
    for report in skipped:
        terminalreporter.write_line(f"ERROR must not be skipped here: {report.nodeid}")
    if skipped:
        terminalreporter._session.exitstatus = pytest.ExitCode.TESTS_FAILED  # type: ignore[union-attr]
