"""The view "links": the word links that came with pairs, in tokens of their sides.

Knows a stream's batch; nothing of objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.data.batch import Change, StreamBatch, ViewBatch
from pipeline.data.counter_random import GIVEN_LINKS
from pipeline.data.streams import Sequences
from pipeline.settings.added_words import AddedWords


@dataclass
class GivenLinks(ViewBatch):
    """K links of B pairs, ascending; a link of two words is one of each token of the one with each of the other."""

    name: ClassVar[str] = "links"
    counter: ClassVar[int] = GIVEN_LINKS

    pair_K: Tensor  # int64
    first_K: Tensor  # int64: token of the pair's first side, counted from its first one
    second_K: Tensor  # int64: and of its second side
    linked: Tensor  # int64 scalar: tokens of both sides that have a link

    @classmethod
    def make(
        cls, stream: StreamBatch, sequences: Sequences, key_S: np.ndarray, words: AddedWords, options: None
    ) -> GivenLinks:
        links_K3 = sequences.links_K3
        assert links_K3 is not None, "the stream was opened with links"
        linked = sum(len(np.unique(links_K3[:, [0, side]], axis=0)) for side in (1, 2))
        pair_K, first_K, second_K = (torch.from_numpy(np.ascontiguousarray(column)) for column in links_K3.T)
        return cls(pair_K, first_K, second_K, torch.tensor(linked))

    def map(self, change: Change) -> GivenLinks:
        return GivenLinks(change(self.pair_K), change(self.first_K), change(self.second_K), change(self.linked))
