"""What libraries say of themselves is hidden by default: a command shows what its user can act on, `--verbose` shows all.

DeepSpeed, PyTorch, Transformers and Triton log, warn and print at their import and after. Their errors are always shown, as
are this project's own warnings. Knows nothing of what a command does.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

VERBOSE = "XLM_ALIGN_VERBOSE"
"""Environment variable that makes a command and the processes that it starts verbose; empty or 0: not."""
_OWN_MODULES = r"(data_prep|pipeline|sinkhorn_align)(\.|$)"
_USERS_OWN = (r"CUDA initialization",)
"""Beginnings of libraries' warnings that a user can act on: a driver too old, which leaves the work to the CPU."""


def is_verbose() -> bool:
    """Whether what libraries say is shown."""
    return os.environ.get(VERBOSE, "") not in ("", "0")


@contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Hide libraries' log lines below errors, and their warnings, until the block ends; with `verbose` nothing is hidden.

    Begin it before DeepSpeed, PyTorch or Transformers are imported: they log while they are. `verbose` holds for child
    processes too, as does the environment variable `XLM_ALIGN_VERBOSE`. Blocks may be nested.
    """
    with ExitStack() as ends:
        if verbose:
            ends.enter_context(_environment(VERBOSE, "1"))
        if not is_verbose():
            ends.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.WARNING)
            # PyTorch's C++ half; read when it is imported
            ends.enter_context(_environment("TORCH_CPP_LOG_LEVEL", os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")))
            if not sys.warnoptions:  # `python -W …` and PYTHONWARNINGS say what is wanted
                ends.enter_context(_own_warnings())
        yield


@contextmanager
def prints_hidden() -> Iterator[None]:
    """Hold back what is printed from Python within the block, for library calls that print or draw bars on their way.

    Where the block ends in an error all of it is printed to standard error; so it is, as it comes, in verbose mode.
    """
    if is_verbose():
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    held = io.StringIO()
    try:
        with contextlib.redirect_stdout(held), contextlib.redirect_stderr(held):
            yield
    except Exception:
        sys.stderr.write(held.getvalue())
        raise


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Warnings of this project, each as one line, and those that a user can act on; others are ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for beginning in _USERS_OWN:
            warnings.filterwarnings("default", message=beginning)
        warnings.filterwarnings("default", category=UserWarning, module=_OWN_MODULES)
        warnings.filterwarnings("default", category=RuntimeWarning, module=_OWN_MODULES)
        warnings.showwarning = _one_line
        yield


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {message}", file=file or sys.stderr)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
