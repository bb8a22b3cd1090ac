"""Batches that the kernel tests share: ragged pairs of correlated hidden states, and pairs with a given similarity."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sinkhorn_align import Spans

Batch = tuple[Tensor, Spans]


@pytest.fixture
def lay_out() -> Callable[[Sequence[tuple[Tensor, Tensor]]], Batch]:
    """Pairs of hidden states as one packed batch `<s> source </s> target </s>`; special tokens are NaN, to poison."""

    def build(pairs: Sequence[tuple[Tensor, Tensor]]) -> Batch:
        width = pairs[0][0].shape[1]
        special = torch.full((1, width), float("nan"))
        parts, vectors, at = [], [], 0
        for source_MD, target_ND in pairs:
            parts += [special, source_MD, special, target_ND, special]
            vectors.append((at + 1, len(source_MD), at + 2 + len(source_MD), len(target_ND)))
            at += len(source_MD) + len(target_ND) + 3
        index_B4 = torch.tensor(vectors, dtype=torch.int32)
        return torch.cat(parts).float(), Spans(*index_B4.unbind(dim=1))

    return build


@pytest.fixture
def correlated_pairs() -> Callable[..., list[tuple[Tensor, Tensor]]]:
    """Random pairs whose tokens share directions, as translations do, so that most links are clear but not all.

    `common` is the size of a direction that all tokens share, as an encoder's hidden states do: most similarities are
    positive. Without it, half of them lie below the floor of the `clip` cost.
    """

    def draw(
        seed: int, pairs: int, width: int = 32, shortest: int = 0, longest: int = 40, common: float = 1.5
    ) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        meaning_VD = torch.randn(100, width, generator=generator) + common

        def side() -> Tensor:
            length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
            word_L = torch.randint(len(meaning_VD), (length,), generator=generator)
            return meaning_VD[word_L] + 0.7 * torch.randn(length, width, generator=generator)

        return [(side(), side()) for _ in range(pairs)]

    return draw


@pytest.fixture
def with_similarity() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A pair whose dot products are exactly the given [M, N] matrix."""

    def build(similarity_MN: Tensor) -> tuple[Tensor, Tensor]:
        return similarity_MN, torch.eye(similarity_MN.shape[1])

    return build


def _adversarial() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    random_MN = torch.rand(6, 7, generator=generator) + 0.1
    return {
        "all equal": torch.full((5, 5), 3.0),
        "all equal, wide": torch.full((3, 8), 3.0),
        "all equal, tall": torch.full((8, 3), 3.0),
        "all zero": torch.zeros(4, 6),
        "all negative": torch.full((6, 4), -2.0),
        "one token each": torch.tensor([[2.0]]),
        "one source token": torch.tensor([[1.0, 5.0, 3.0]]),
        "one target token": torch.tensor([[1.0], [5.0], [3.0]]),
        "two source tokens": torch.tensor([[1.0, 5.0, 3.0, 2.0], [4.0, 6.0, 1.0, 3.0]]),
        "two target tokens": torch.tensor([[1.0, 5.0], [3.0, 2.0], [4.0, 6.0]]),
        "equal rows": random_MN[[0, 1, 1, 2, 2, 2]],
        "equal columns": random_MN[:, [3, 3, 0, 0, 1, 2]],
        "equal rows and columns": random_MN[[0, 0, 1, 1]][:, [0, 0, 1, 1]],
        "identity": torch.eye(5),
        "reversed": torch.eye(5).flip(0),
        "one row below the floor": torch.cat([random_MN, torch.full((1, 7), -1.0)]),
        "one side long": torch.rand(3, 60, generator=generator) + 0.1,
        "other side long": torch.rand(60, 3, generator=generator) + 0.1,
        "huge": random_MN * 1e30,
        "tiny": random_MN * 1e-4,
        "below the floor": random_MN * -5,
        "huge and tiny": torch.tensor([[1e30, 1.0, 1e-5], [2.0, 1e20, 3.0], [1e-4, 5.0, 7.0]]),
    }


@pytest.fixture(params=_adversarial().items(), ids=lambda item: item[0])
def adversarial_similarity(request: pytest.FixtureRequest) -> Tensor:
    """One similarity matrix after another of those that break careless code."""
    return request.param[1]
