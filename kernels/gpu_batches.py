"""The batches that `gpu_checks` and `gpu_speed` align, and how much of everything a run does."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sinkhorn_align import AlignmentSettings, Links, Spans, align
from sinkhorn_align.gpu.tiles import Plan

SETTINGS = {
    "clip": AlignmentSettings(),
    "exp": AlignmentSettings(cost="exp", temperature=8.0),
    "cosine": AlignmentSettings(cost="exp", similarity="cosine", temperature=0.1),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MOST_TOO_CLOSE = 0.01
"""Share of pairs that may differ from the reference where two candidates are closer than fp32 resolves."""


@dataclass
class Sizes:
    """How much a run does; a dry run does as little as reaches every line."""

    pairs: int
    width: int
    longest: int
    repeats: int
    timed_pairs: int
    timed_lengths: tuple[int, ...]
    real_pairs: tuple[int, ...]
    """Batches of pairs with the lengths of real corpora."""
    tuned_shapes: tuple[tuple[int, int], ...]


REAL = Sizes(600, 256, 512, 20, 2048, (16, 32, 64, 128), (2048, 256), ((64, 64), (32, 32), (128, 128)))
DRY = Sizes(12, 32, 40, 1, 2, (16,), (3,), ((32, 32),))
SANITIZED = Sizes(60, 64, 200, 1, 1, (), (), ())


@dataclass
class Batch:
    """A packed batch on the device, its spans on the CPU, as a collator leaves them."""

    hidden_TD: Tensor
    spans: Spans

    def align(self, settings: AlignmentSettings, backend: str = "triton") -> Links:
        return align(self.hidden_TD, self.spans, settings, backend=backend)  # type: ignore[arg-type]

    def plan(self) -> Plan:
        return Plan.of(self.spans.checked(len(self.hidden_TD)), self.hidden_TD.device)


def make_batch(source_B: Tensor, target_B: Tensor, width: int, dtype: torch.dtype, device: str, seed: int = 1) -> Batch:
    """Pairs of these lengths that share directions, as hidden states of translations do; special tokens are NaN."""
    generator = torch.Generator().manual_seed(seed)
    sequence_B = source_B + target_B + 3  # <s> source </s> target </s>
    first_B = sequence_B.cumsum(0) - sequence_B
    vectors = (first_B + 1, source_B, first_B + 2 + source_B, target_B)
    tokens = int(sequence_B.sum())
    meaning_VD = torch.randn(500, width, generator=generator) + 1.5
    word_T = torch.randint(len(meaning_VD), (tokens,), generator=generator)
    hidden_TD = meaning_VD[word_T] + 0.7 * torch.randn(tokens, width, generator=generator)
    hidden_TD /= width**0.5 / 4  # dot products of some tens at every width
    hidden_TD[torch.cat([first_B, first_B + 1 + source_B, first_B + 2 + source_B + target_B])] = float("nan")
    return Batch(hidden_TD.to(device, dtype), Spans(*(vector.int() for vector in vectors)))


def ragged_lengths(pairs: int, longest: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mostly sentences of up to 64 tokens, empty sides among them, and one pair in fifty of any length."""
    generator = torch.Generator().manual_seed(seed)
    lengths_2B = torch.randint(0, min(longest, 64) + 1, (2, pairs), generator=generator)
    lengths_2B[:, ::50] = torch.randint(0, longest + 1, lengths_2B[:, ::50].shape, generator=generator)
    return lengths_2B[0], lengths_2B[1]
