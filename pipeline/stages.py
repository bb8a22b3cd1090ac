"""Public commands run one after another as stages of a longer way, each shown as a user would type it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

from rich.console import Console

from pipeline.host.process import SAFE_PATH, told_to_end_with_us

PYTHON = [sys.executable, "-I", "-m"]
"""Isolated: nothing in the caller's folder is taken for a module."""


def run_stage(what: str, command: list[str], threads: int | None = 1) -> None:
    """Show a command and run it; nothing is hidden of what it prints. A SIGTERM to this process is told it too.

    Args:
        threads: that it may have; None: as the environment says, else all cores.

    Raises:
        ValueError: it failed.
    """
    Console(stderr=True).rule(what, align="left")
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    asked = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count() or 1)) if threads is None else str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": asked, **SAFE_PATH}
    with subprocess.Popen(command, env=environment) as process, told_to_end_with_us([process]):
        try:
            process.wait()
        except KeyboardInterrupt:  # which the command has got as well: training saves before it ends
            process.wait()
            raise
    if process.returncode:
        raise ValueError(f"{what} failed; its output stands above, and what it made in the --out folder")
