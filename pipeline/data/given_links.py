"""The word links that were given with pairs, of samples as training sees them: their sides turned round, and cut.

Knows token files; nothing of what is learned from links.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.token_files.manifest import Manifest
from pipeline.data.shards import ShardLanguage


def check_links(manifest: Manifest) -> None:
    """ValueError where the manifest lists pairs that came without links."""
    for name, shards in manifest.pairs.items():
        for shard in shards:
            if not shard.has_links:
                raise ValueError(
                    f"{shard.stem}: these pairs ({name}) have no word links, which labels = links asks for; make them again by "
                    "`python -m data_prep parallel … --links FILE --replace`, or label otherwise"
                )


def read_links(
    languages: Sequence[ShardLanguage], language_S: np.ndarray, index_S: np.ndarray, swap_S: np.ndarray, limit: int
) -> np.ndarray:
    """The links of pairs: int64 (K, 3), the pair's place, a token of its first side and one of its second.

    Args:
        language_S, index_S: which pairs.
        swap_S: whether a pair's target is its first side.
        limit: tokens of a side; links beyond are left out with them.

    Raises:
        ValueError: a file of links is missing or damaged.
    """
    parts = [np.empty((0, 3), dtype=np.int64)]
    for language in np.unique(language_S):
        mine = np.flatnonzero(language_S == language)
        for file, _, places, pairs in languages[language].locate(index_S[mine]):
            _, lengths_B2 = file.read_pairs(pairs)
            place_K, links_K2 = file.links.read(pairs, lengths_B2)
            sample_K = mine[places[place_K]]
            turned = swap_S[sample_K]
            links_K2[turned] = links_K2[turned, ::-1]
            kept = (links_K2 < limit).all(axis=1)
            parts.append(np.column_stack([sample_K, links_K2])[kept])
    found = np.concatenate(parts)
    return found[np.lexsort(found.T[::-1])]
