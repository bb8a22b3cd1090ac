"""What an alignment returns: links, partners and scores over the flat batch, and a status per pair.

It knows the shape of the answer and nothing of how it was found.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from sinkhorn_align.spans import Spans


class PairStatus(IntEnum):
    """Why a pair has no links, where there is a reason; an `OK` pair has at least one, or without filtering partners."""

    OK = 0
    EMPTY_SIDE = 1
    NON_FINITE = 2


@dataclass
class Links:
    """The links of a batch of pairs. All indices are flat token indices into the batch's `hidden_TD`."""

    links_RT: Tensor
    """int32 [filter rounds, T]: the target token that a source token was linked to in that round, -1 for none. Only
    source tokens are filled; a row and a column gain at most one link a round, so this is every link, once. Without
    filtering, there are no rounds and so no links."""
    partner_T: Tensor
    """int32 [T], both sides: the other end of the token's heaviest link (equal masses: lowest index), -1 for none. Without
    filtering, of the heaviest cell of its row or column."""
    score_T: Tensor
    """float32 [T], both sides: log transport mass of that link; -inf, the logarithm of no mass, where there is none."""
    status_B: Tensor
    """int32 [B]: a `PairStatus` per pair."""

    def count(self) -> Tensor:
        """Number of links, a scalar; without filtering, of the cells that make some token's partner."""
        if len(self.links_RT):
            return (self.links_RT >= 0).sum()
        has_T = self.partner_T >= 0
        token_T = torch.arange(len(self.partner_T), device=self.partner_T.device)
        # A cell that is the heaviest of both its row and its column is seen from both ends.
        mutual_T = has_T & (self.partner_T[self.partner_T.clamp(min=0).long()] == token_T)
        return has_T.sum() - mutual_T.sum() // 2

    def local(self, spans: Spans) -> Tensor:
        """Every link as (pair, source token, target token), the tokens counted from the start of their side.

        Takes the spans that the links were made with. Returns int64 [L, 3], sorted, on the links' device.
        """
        device = self.links_RT.device
        source_start_B, source_length_B, target_start_B, _ = (vector.to(device, torch.int64) for vector in spans)
        pair_T = torch.full((self.links_RT.shape[1],), -1, dtype=torch.int64, device=device)
        pair_S = torch.repeat_interleave(torch.arange(len(source_start_B), device=device), source_length_B)
        first_S = (torch.cumsum(source_length_B, 0) - source_length_B)[pair_S]
        token_S = source_start_B[pair_S] + torch.arange(len(pair_S), device=device) - first_S
        pair_T[token_S] = pair_S

        round_L, source_L = torch.nonzero(self.links_RT >= 0, as_tuple=True)
        target_L = self.links_RT[round_L, source_L].to(torch.int64)
        pair_L = pair_T[source_L]
        triples_L3 = torch.stack([pair_L, source_L - source_start_B[pair_L], target_L - target_start_B[pair_L]], dim=1)
        return torch.unique(triples_L3, dim=0)
