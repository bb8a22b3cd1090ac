"""The words of sentence pairs, aligned: from hidden states to links between words.

`from pipeline.align import Aligner` is the library. It is imported when it is asked for: the modules on files of links need
no PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.align.aligner import Aligner

__all__ = ["Aligner"]


def __getattr__(name: str) -> Any:
    if name != "Aligner":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.align.aligner import Aligner

    return Aligner
