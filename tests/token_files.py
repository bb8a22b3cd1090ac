"""Token files as tests write them: a sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.token_files.token_file import TokenFileWriter


def add_sequence(writer: TokenFileWriter, ids: Sequence[int], mode: int = 0) -> None:
    """Append one sequence in the language with index `mode`."""
    writer.add_sequences(np.array(ids, dtype=np.int32), np.array([len(ids)]), np.array([mode]))
