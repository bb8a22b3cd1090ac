"""What a start on one host and one on many have in common: the command of DeepSpeed's launcher, signals, and the device."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pipeline import shipped
from pipeline.host.ports import free_port

SAFE_PATH = {"PYTHONSAFEPATH": "1"}
"""Of child processes: modules in the caller's folder, as a random.py, are not taken for Python's (from Python 3.11 on)."""
OUR_FOLDER = shipped.PACKAGE / "cluster"
LAUNCHER_FOLDER = "/"
"""Where DeepSpeed's launcher runs: it puts its folder on the ranks' module path, and there only root can put a module."""
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
WATCHED = "XLM_ALIGN_WATCHED"
"""Variable of ranks whose standard input ends with the process that watches over them, however that ends."""
GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA's, AMD's, and Windows's for Linux in it


class Interrupts:
    """Counts SIGTERM, Ctrl-C and Ctrl-\\: the first asks the ranks to save, a second one ends them at once.

    A closed terminal (SIGHUP) asks them to save, however often it is told: shell and kernel both tell. Ignored under nohup.
    """

    def __init__(self) -> None:
        self.count = 0
        self._arrived = threading.Event()
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGINT:
                signal.signal(number, self._handle)

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until the next one."""
        self._arrived.clear()
        self._arrived.wait(seconds)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count = max(self.count, 1) if number == signal.SIGHUP else self.count + 1
        self._arrived.set()


@contextmanager
def told_to_end_with_us(children: Collection[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Within, a SIGTERM to this process goes to all children that are in the collection then, and ends it by SystemExit.

    Without it they would work on, unseen. Ctrl-C needs no such thing: a terminal tells all processes. For the main thread.
    """

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in children:
            child.send_signal(number)  # nothing is sent to one that has ended
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def deepspeed_command(launcher: list[str], training: list[str], environment: tuple[str, str] = ("-", "-")) -> list[str]:
    """`deepspeed … pipeline/train.py …`, by the Python that runs this; to be started in LAUNCHER_FOLDER.

    environment: a JSON file of further variables for the ranks, and the SHA-256 of its content; "-": none.
    """
    return [*launcher_command(*launcher), str(OUR_FOLDER / "start_rank.py"), str(Path.cwd()), *environment, *training]


def launcher_command(*options: str) -> list[str]:
    """`deepspeed OPTIONS…`, to be followed by a script and its arguments; by the Python that runs this, wherever PATH leads."""
    return [sys.executable, str(OUR_FOLDER / "deepspeed_launcher.py"), *options]


def ranks_command(ranks: int) -> list[str]:
    """The same, for so many ranks on this host, at a port that is free now."""
    return launcher_command("--num_accelerators", str(ranks), "--master_port", str(free_port()))


def device_of(environment: MutableMapping[str, str]) -> str:
    """What this host trains on, "cpu" or "cuda"; where no GPU's driver is there, DeepSpeed is told so."""
    if not any(Path(path).exists() for path in GPU_DRIVERS):
        environment.setdefault("DS_ACCELERATOR", "cpu")
    return environment.get("DS_ACCELERATOR", "cuda")
