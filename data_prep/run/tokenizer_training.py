"""Trains a tokenizer in a process of its own, which can be stopped at once and tells how far it is.

SentencePiece trains in C and holds the interpreter until it is done: nobody in its process could hear Ctrl-C or show anything.
Knows sources of lines; nothing of how they are read.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from data_prep.parallel.workers import without_interrupts
from data_prep.plan.source_plan import Source
from data_prep.progress import Activity
from data_prep.run.training_text import MAX_LINE_BYTES, training_lines
from data_prep.tokenizers.tokenizer import Tokenizer, train

POLL_SECONDS = 0.5
TOLD_LINES = 100_000
CANDIDATES = re.compile(rb"EM sub_iter=\d+ size=(\d+)")
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Trained:
    """A tokenizer, the lines that it was trained on, and what was left out, by reason."""

    tokenizer: Tokenizer
    lines: int
    left_out: Counter[str]


@dataclass
class _Work:
    """What the training process is sent."""

    sources: list[Source]
    vocab_size: int
    character_coverage: float
    max_bad_rate: float
    log: Connection
    """An open file without a name, which a kill cannot leave behind; as a connection it is handed to a new process."""
    lines: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def train_on(sources: list[Source], vocab_size: int, character_coverage: float, max_bad_rate: float = 0.0) -> Trained:
    """Train a tokenizer on all lines of these sources, in their order: the same lines give the same model.

    Raises:
        ValueError: see `tokenizer.train` and `training_lines`; or the training process was ended, as where memory runs out.
        KeyboardInterrupt: Ctrl-C; the training process is ended.
    """
    processes = multiprocessing.get_context("spawn")
    receiver, sender = processes.Pipe(duplex=False)
    with tempfile.TemporaryFile() as log, Connection(os.dup(log.fileno())) as handed, Activity() as activity:
        work = _Work(sources, vocab_size, character_coverage, max_bad_rate, handed)
        process = processes.Process(target=_train_apart, args=(sender, work), daemon=True)
        with without_interrupts():
            process.start()
        sender.close()
        try:
            return _await(receiver, work, activity)
        except EOFError:
            process.join()
            raise ValueError(
                f"the training process ended with {process.exitcode}, most likely out of memory; give less text or a smaller "
                "--vocab-size"
            ) from None
        finally:
            process.kill()
            process.join()


def _await(receiver: Connection, work: _Work, activity: Activity) -> Trained:
    lines = 0
    is_training = False
    while True:
        if receiver.poll(POLL_SECONDS):
            message, content = receiver.recv()
            if message == "done":
                model, lines, left_out = content
                return Trained(Tokenizer(model), lines, left_out)
            if message == "error":
                raise ValueError(content)
            if message == "fault":
                raise RuntimeError(content)
            lines, is_training = content, message == "training"
        activity.tell(_stage(work, lines) if is_training else f"reading, {lines:,} lines")


def _stage(work: _Work, lines: int) -> str:
    """What SentencePiece is at, by its log: it has many pieces at first and drops all but the best."""
    log = work.log.fileno()
    found = CANDIDATES.findall(os.pread(log, os.fstat(log).st_size, 0))
    left = f", {int(found[-1]):,} candidates left for {work.vocab_size:,} pieces" if found else ""
    return f"training on {lines:,} lines{left}"


def _train_apart(sender: Connection, work: _Work) -> None:
    """The training process: it ends with its parent, and what is printed in it goes to the log."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(work.log.fileno(), 1)
    os.dup2(work.log.fileno(), 2)
    try:
        lines = _told(sender, work)
        tokenizer = train(lines, work.vocab_size, work.character_coverage, MAX_LINE_BYTES, is_quiet=False)
        sender.send(("done", (tokenizer.model, work.lines, work.left_out)))
    except (ValueError, OSError) as error:
        sender.send(("error", str(error)))
    except Exception:
        sender.send(("fault", traceback.format_exc()))


def _told(sender: Connection, work: _Work) -> Iterator[str]:
    """All lines, while the parent is told how many there are. An error ends the process: SentencePiece would take it for the
    end of the text and train on what it has."""
    try:
        for source in work.sources:
            for line in training_lines(source, work.max_bad_rate, work.left_out):
                work.lines += 1
                if work.lines % TOLD_LINES == 0:
                    sender.send(("reading", work.lines))
                yield line
        if not work.lines:
            raise ValueError(f"{work.sources[0].name}: no line to train on; give files with text")
    except (ValueError, OSError) as error:
        sender.send(("error", str(error)))
        os._exit(1)
    sender.send(("training", work.lines))
