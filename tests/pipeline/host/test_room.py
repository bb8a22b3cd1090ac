"""A checkpoint that finds no room is told of in one line, by the rank that knows, or by one for all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pipeline.host import room


@pytest.mark.parametrize(
    ("error", "every_rank_knows", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), False, room.NotWrittenError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True, OSError),
        (RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0"), False, room.NotWrittenError),
        (RuntimeError("pair.cc:553] Connection closed by peer [127.0.0.1]:1"), False, ConnectionError),
    ],
)
def test_a_full_disk_is_one_line_of_the_rank_that_knows(
    tmp_path: Path, error: Exception, every_rank_knows: bool, kind: type[Exception]
) -> None:
    folder = tmp_path / "step_00000001"
    folder.mkdir()
    with pytest.raises(kind) as caught, room.told(folder, 10, every_rank_knows):
        raise error
    assert caught.type is kind and "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert folder.exists() == (kind is ConnectionError), "another rank may still be writing there"


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), room.told(tmp_path, 10):
        raise RuntimeError("something else")
    assert tmp_path.exists()


def test_a_lack_that_every_rank_is_told_of_is_not_one_rank_s_own(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is full") as caught:
        room.check(tmp_path / "step_00000001", 2**62)
    assert caught.type is OSError, "or each rank would print it"
