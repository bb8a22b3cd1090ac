"""Files that are read where they lie in memory, without a copy; and what to say where one is not what was written."""

from __future__ import annotations

import mmap
from pathlib import Path

MEND = "run again the command that made it, or restore the file"
VERIFY = "`python -m data_prep verify` tells what is damaged; restore the file, or delete it and run again what made it"


def mapped(path: Path) -> mmap.mmap:
    """A file's bytes, read-only and without copying them; `np.memmap` takes several times as long to open one.

    Raises:
        ValueError: it is missing or empty.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        # ValueError: nothing to map in an empty file
        raise ValueError(f"{path}: missing or empty; {MEND}") from None
