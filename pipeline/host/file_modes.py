"""Modes of files that a library made readable by their owner alone, as safetensors does."""

from __future__ import annotations

import os
from pathlib import Path


def give_usual_modes(folder: Path) -> None:
    """Give every file of a folder the mode that a new file has, by the process's umask."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        if path.is_file():
            path.chmod(0o666 & ~mask)
