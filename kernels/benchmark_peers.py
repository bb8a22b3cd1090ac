"""What `benchmark` times beside `align`: the released algorithm, plain PyTorch on a padded batch, and POT's batched solver.

Each takes a `Case` and returns its links as (source token, target token) indices into the flat batch, or, for POT, a plan.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sinkhorn_align import Spans

Links = set[tuple[int, int]]
DISCOUNT, FLOOR = 0.9, 1e-6
LOG_LENGTH, LOG_LENGTH_SPREAD, LOG_RATIO, LOG_RATIO_SPREAD = 3.03, 0.58, 0.17, 0.21
"""XLM-R tokens a side of 12,000 pairs of Multi30k en-de, en-cs and TICO-19 en-fr, en-hi: mean and spread of the source
side's log length, and of the log of target over source."""


@dataclass
class Case:
    """A batch of pairs `<s> source </s> target </s>`, packed; its spans int32 on the CPU."""

    name: str
    hidden_TD: Tensor
    spans: Spans

    @property
    def is_square(self) -> bool:
        """All sides of all pairs have one length."""
        return len(torch.unique(torch.cat([self.spans.source_length_B, self.spans.target_length_B]))) == 1

    def first(self, pairs: int) -> "Case":
        """Its first pairs alone; their tokens keep their places."""
        if self.spans.pairs <= pairs:
            return self
        spans = Spans(*(vector[:pairs] for vector in self.spans))
        tokens = int(spans.source_length_B.sum() + spans.target_length_B.sum()) + 3 * pairs
        return Case(self.name, self.hidden_TD[:tokens], spans)

    @property
    def least_bytes(self) -> int:
        """Each side's hidden states, read once."""
        tokens = int((self.spans.source_length_B + self.spans.target_length_B).sum())
        return tokens * self.hidden_TD.shape[1] * self.hidden_TD.element_size()


def real_lengths(pairs: int) -> tuple[Tensor, Tensor]:
    """Source and target lengths [pairs], int64, as those of real corpora; always the same."""
    generator = torch.Generator().manual_seed(2)
    log_length_B = LOG_LENGTH + LOG_LENGTH_SPREAD * torch.randn(pairs, generator=generator)
    log_ratio_B = LOG_RATIO + LOG_RATIO_SPREAD * torch.randn(pairs, generator=generator)
    source_B, target_B = (
        torch.exp(log_B).round().long().clamp(1, 254) for log_B in (log_length_B, log_length_B + log_ratio_B)
    )
    return source_B, target_B


def padded_sequences(case: Case) -> Tensor:
    """The packed batch as whole padded sequences [B, L, D], as the released code's encoder gives them."""
    lengths_B = case.spans.source_length_B + case.spans.target_length_B + 3
    return torch.nn.utils.rnn.pad_sequence(torch.split(case.hidden_TD, lengths_B.tolist()), batch_first=True)


def released_product(padded_BLD: Tensor) -> Tensor:
    """The Gram matrix of whole sequences in fp32, of which the released code uses one block per pair.

    A bf16 matrix would round similarities of some thousands to multiples of 8 or 16, and so give other links.
    """
    padded_BLD = padded_BLD.float()
    return torch.bmm(padded_BLD, padded_BLD.transpose(1, 2))


def released_labels(case: Case, gram_BLL: Tensor) -> Links:
    """The released labelling, pair by pair: Sinkhorn on sums, itermax over one-hot matrices, links by a double loop.

    After `infoxlm/tasks/xlm_align.py` and the aligner of the XLM-Align repository, in our words.
    """
    found: Links = set()
    for gram_LL, source, rows, target, columns in zip(gram_BLL, *(v.tolist() for v in case.spans), strict=True):
        plan_MN = gram_LL[1 : 1 + rows, 2 + rows : 2 + rows + columns].clone()
        plan_MN[plan_MN <= 0] = FLOOR
        for _ in range(2):
            plan_MN = plan_MN / plan_MN.sum(dim=0, keepdim=True)
            plan_MN = plan_MN / plan_MN.sum(dim=1, keepdim=True)
        links_MN = _itermax(plan_MN.cpu().numpy())
        for i in range(rows):
            for j in range(columns):
                if links_MN[i, j] > 0:
                    found.add((source + i, target + j))
    return found


def _itermax(plan_MN: np.ndarray) -> np.ndarray:
    rows, columns = plan_MN.shape
    links_MN = np.eye(columns)[plan_MN.argmax(axis=1)] * np.eye(rows)[plan_MN.argmax(axis=0)].T
    if min(rows, columns) <= 2:
        return links_MN
    open_row_MN = 1.0 - np.tile(links_MN.sum(axis=1)[:, None], (1, columns))
    open_column_MN = 1.0 - np.tile(links_MN.sum(axis=0)[None, :], (rows, 1))
    if open_row_MN.sum() < 1 or open_column_MN.sum() < 1:
        return links_MN
    candidate_MN = plan_MN * (DISCOUNT * open_row_MN + DISCOUNT * open_column_MN).clip(0, 1)
    possible_MN = 1.0 - (1.0 - open_row_MN) * (1.0 - open_column_MN)
    forward_MN = np.eye(columns)[candidate_MN.argmax(axis=1)] * possible_MN
    return links_MN + forward_MN * np.eye(rows)[candidate_MN.argmax(axis=0)].T * possible_MN


def padded_labels(
    source_BMD: Tensor, target_BND: Tensor, real_BM: Tensor, real_BN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Plain batched PyTorch over one padded block: log-domain Sinkhorn, two rounds of mutual argmax.

    Returns (links bool [B, M, N] of both rounds; log plan [B, M, N]; the mask of real cells), for eager use or a compiler.
    """
    real_BMN = real_BM[:, :, None] & real_BN[:, None, :]
    similarity_BMN = torch.bmm(source_BMD.float(), target_BND.float().transpose(1, 2))
    plan_BMN = similarity_BMN.clamp(min=FLOOR).log().masked_fill(~real_BMN, -1e30)
    for _ in range(2):
        plan_BMN = (plan_BMN - torch.logsumexp(plan_BMN, dim=1, keepdim=True)).masked_fill(~real_BMN, -1e30)
        plan_BMN = (plan_BMN - torch.logsumexp(plan_BMN, dim=2, keepdim=True)).masked_fill(~real_BMN, -1e30)
    links_BMN = _mutual(plan_BMN) & real_BMN
    row_BM1, column_B1N = links_BMN.any(2, keepdim=True), links_BMN.any(1, keepdim=True)
    candidate_BMN = torch.where(row_BM1 ^ column_B1N, plan_BMN + float(np.log(DISCOUNT)), plan_BMN)
    again_BMN = _mutual(candidate_BMN.masked_fill((row_BM1 & column_B1N) | ~real_BMN, -1e30))
    open_B11 = (real_BM & ~row_BM1[:, :, 0]).any(1) & (real_BN & ~column_B1N[:, 0]).any(1)
    more_B11 = open_B11 & (torch.minimum(real_BM.sum(1), real_BN.sum(1)) > 2)
    again_BMN = again_BMN & real_BMN & ~(row_BM1 & column_B1N) & more_B11[:, None, None]
    return links_BMN | again_BMN, plan_BMN, real_BMN


def _mutual(value_BMN: Tensor) -> Tensor:
    position_M = torch.arange(value_BMN.shape[1], device=value_BMN.device)
    position_N = torch.arange(value_BMN.shape[2], device=value_BMN.device)
    by_row_BMN = value_BMN.argmax(2)[:, :, None] == position_N
    return by_row_BMN & (value_BMN.argmax(1)[:, None, :] == position_M[:, None])


def padded_sides(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both sides gathered into blocks of the longest side, and which of their tokens are real."""
    gathered, real = [], []
    for start_B, length_B in (case.spans[:2], case.spans[2:]):
        position_L = torch.arange(int(length_B.max()))
        real_BL = position_L < length_B[:, None]
        token_BL = torch.where(real_BL, start_B[:, None] + position_L, start_B[:, None])
        gathered.append(case.hidden_TD[token_BL.to(case.hidden_TD.device)])
        real.append(real_BL.to(case.hidden_TD.device))
    return gathered[0], gathered[1], real[0], real[1]


def links_of_mask(case: Case, links_BMN: Tensor) -> Links:
    """A [B, M, N] mask as flat links."""
    pair_L, row_L, column_L = links_BMN.cpu().nonzero(as_tuple=True)
    source_L, target_L = case.spans.source_start_B[pair_L] + row_L, case.spans.target_start_B[pair_L] + column_L
    return set(zip(source_L.tolist(), target_L.tolist(), strict=True))


def pot_plan() -> Callable[[Case], Tensor] | None:
    """POT's batched log-domain Sinkhorn with our marginals and iterations, from hidden states to plan; None without POT."""
    try:
        from ot.batch import bregman_log_projection_batch
    except ImportError:
        return None

    def solve(case: Case) -> Tensor:
        source_BMD, target_BND, real_BM, real_BN = padded_sides(case)
        log_kernel_BMN = torch.bmm(source_BMD.float(), target_BND.float().transpose(1, 2)).clamp(min=FLOOR).log()
        # its row step comes first, ours on the transposed problem: the same as our column step first
        answer = bregman_log_projection_batch(
            log_kernel_BMN.transpose(1, 2), real_BN.float(), real_BM.float(), max_iter=2, tol=0.0
        )
        plan_BMN: Tensor = answer["log_T"].transpose(1, 2)
        return plan_BMN

    return solve
