"""Room for a checkpoint: looked for before it is written, and named where the disk became full on the way.

A checkpoint that was not finished does not count; this only says why there is none, and gives its bytes back.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
_PEER_LOST = ("Connection closed by peer", "Connection reset by peer")
"""What gloo says on the ranks that wait for another."""


class NotWrittenError(OSError):
    """A rank could not write its part of a checkpoint; the other ranks may not know."""


def check(folder: Path, needed: int) -> None:
    """OSError where `needed` bytes, the least that a checkpoint takes, are not free; its folder is removed then."""
    free = _free(folder)
    if free < needed:
        _remove(folder)
        raise OSError(_message(folder, needed, free))


@contextmanager
def told(folder: Path, needed: int, every_rank_knows: bool = False) -> Iterator[None]:
    """A disk that becomes full in a block that writes a checkpoint, in one line; what it has written is removed.

    PyTorch has no error of its own for that: it reports that a file is not as long as it should be by then.

    Raises:
        NotWrittenError: on the rank whose disk is full.
        OSError: the same where every rank fails alike (`every_rank_knows`), so that rank 0 tells it for all.
        ConnectionError: on ranks that were waiting for one that ended.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if any(words in str(error) for words in _PEER_LOST):
            raise ConnectionError(f"{folder}: was not written: a rank ended meanwhile, and has said why") from None
        if getattr(error, "errno", None) not in FULL and not _is_writer(error):
            raise
        _remove(folder)
        kind = OSError if every_rank_knows else NotWrittenError
        raise kind(_message(folder, needed, _free(folder))) from None


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def _is_writer(error: Exception) -> bool:
    return any(
        words in str(error) for words in ("PytorchStreamWriter", "unexpected pos", "No space left", "write failed")
    )


def _message(folder: Path, needed: int, free: int) -> str:
    lacks = f"{max(needed - free, 0):,} bytes lack" if needed > free else "more than that is needed"
    return (
        f"{folder}: the disk is full: a checkpoint takes at least {needed:,} bytes, {free:,} are free, {lacks}; make room, "
        "and go on from the one before it with --resume auto"
    )


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
