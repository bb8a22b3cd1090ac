"""InfoNCE against its definition in float64 with gradients by differences, the queue against a deque, pooling by hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.data.packing import pack
from pipeline.model.contrast import Candidates, SentenceQueue, info_nce, sentence_vectors

B, Q, D, TEMPERATURE = 5, 7, 4, 0.25
Vector = np.ndarray


def by_definition(
    query_BD: Vector, key_BD: Vector, text_B2: Vector, others_KD: Vector, text_K: Vector, there_K: Vector
) -> float:
    """−Σ log softmax, one number at a time."""
    total = 0.0
    for query, key, texts in zip(query_BD, key_BD, text_B2, strict=True):
        scores = [float(query @ key)]
        for other, text, there in zip(others_KD, text_K, there_K, strict=True):
            if there and text not in texts:
                scores.append(float(query @ other))
        scaled = np.array(scores) / TEMPERATURE
        total += float(np.log(np.exp(scaled - scaled.max()).sum()) + scaled.max() - scaled[0])
    return total


def differences(function: Callable[[Vector], float], at: Vector, step: float = 1e-5) -> Vector:
    """The gradient by central differences."""
    found = np.empty_like(at)
    for place in np.ndindex(*at.shape):
        values = []
        for sign in (1, -1):
            moved = at.copy()
            moved[place] += sign * step
            values.append(function(moved))
        found[place] = (values[0] - values[1]) / (2 * step)
    return found


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("duplicates", [False, True])
def test_the_loss_and_its_gradients_equal_the_definition_in_float64(similarity: str, duplicates: bool) -> None:
    """Gradients by the hidden vectors and by the projection of the queries; keys and queue get none."""
    draw = np.random.default_rng(3)
    hidden_BD, matrix_DD, key_BD, queue_QD = (draw.normal(size=size) for size in ((B, D), (D, D), (B, D), (Q, D)))
    text_B2 = np.arange(2 * B).reshape(B, 2)
    text_Q = np.arange(100, 100 + Q)
    if duplicates:
        text_Q[[1, 4]], text_Q[2] = text_B2[3, 1], text_B2[0, 0]
    there_Q = np.arange(Q) < Q - 2
    unit = (lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)) if similarity == "cosine" else (lambda v: v)

    def slow(hidden: Vector, matrix: Vector) -> float:
        return by_definition(unit(hidden @ matrix.T), unit(key_BD), text_B2, unit(queue_QD), text_Q, there_Q)

    hidden, matrix = (torch.tensor(v, dtype=torch.double, requires_grad=True) for v in (hidden_BD, matrix_DD))
    keys, queue = (torch.tensor(unit(v), dtype=torch.double) for v in (key_BD, queue_QD))
    query = hidden @ matrix.T
    query = F.normalize(query, dim=-1) if similarity == "cosine" else query
    candidates = Candidates(queue, torch.tensor(text_Q), torch.tensor(there_Q))
    found = info_nce(query, keys, torch.tensor(text_B2), [candidates], TEMPERATURE)
    found.loss_BQ.sum().backward()
    assert found.loss_BQ.sum().item() == pytest.approx(slow(hidden_BD, matrix_DD), rel=1e-9)
    assert found.negatives_BQ.tolist() == ([4, 5, 5, 3, 5] if duplicates else [5] * B)
    np.testing.assert_allclose(hidden.grad, differences(lambda v: slow(v, matrix_DD), hidden_BD), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(matrix.grad, differences(lambda v: slow(hidden_BD, v), matrix_DD), rtol=1e-6, atol=1e-6)
    assert not keys.requires_grad and not queue.requires_grad


def test_a_query_s_own_key_among_the_candidates_is_no_negative_and_several_kinds_of_them_add_up() -> None:
    torch.manual_seed(1)
    query, key, queue = torch.randn(B, D), torch.randn(B, D), torch.randn(Q, D)
    texts = torch.arange(2 * B).view(B, 2)
    others = [Candidates(key, texts[:, 1]), Candidates(queue, 100 + torch.arange(Q))]
    found = info_nce(query, key, texts, others, TEMPERATURE)
    scores = torch.cat([query @ key.T, query @ queue.T], dim=1) / TEMPERATURE
    torch.testing.assert_close(found.loss_BQ, F.cross_entropy(scores, torch.arange(B), reduction="none"))
    assert found.negatives_BQ.tolist() == [B - 1 + Q] * B
    assert found.found_BQ.tolist() == (scores.argmax(1) == torch.arange(B)).tolist()
    torch.testing.assert_close(found.similarity_BQ, (query * key).sum(1))


def test_without_any_candidate_there_is_nothing_to_lose() -> None:
    query = torch.randn(B, D, requires_grad=True)
    empty = SentenceQueue(Q, D)
    found = info_nce(query, torch.randn(B, D), torch.zeros(B, 2, dtype=torch.int64), [empty.candidates()], 0.1)
    found.loss_BQ.sum().backward()
    assert not found.loss_BQ.any() and query.grad is not None and not query.grad.any()


def contents(queue: SentenceQueue) -> list[tuple[float, int]]:
    """(key, text) of what is in it, oldest first."""
    total, size = int(queue.enqueued), len(queue.keys_QD)
    order = [(total - min(total, size) + age) % size for age in range(min(total, size))]
    there = queue.candidates().there_K
    assert there is not None and sorted(there.nonzero().flatten().tolist()) == sorted(order)
    return [(float(queue.keys_QD[place, 0]), int(queue.text_Q[place])) for place in order]


@pytest.mark.parametrize("batches", [[3], [4], [12], [5, 1, 7], [12, 1]])
def test_the_queue_is_a_ring_of_the_last_keys(batches: list[int]) -> None:
    queue, expected = SentenceQueue(12, D), deque[tuple[float, int]](maxlen=12)
    for step in range(50):
        size = batches[step % len(batches)]
        values = torch.arange(size) + 1000.0 * step
        queue.enqueue(values[:, None].expand(-1, D), values.long())
        expected.extend(zip(values.tolist(), values.long().tolist(), strict=True))
        assert contents(queue) == list(expected)


def test_more_keys_than_the_queue_holds_are_refused() -> None:
    with pytest.raises(AssertionError, match="13 keys do not fit into a queue of 12"):
        SentenceQueue(12, D).enqueue(torch.zeros(13, D), torch.zeros(13, dtype=torch.int64))


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_a_sentence_s_vector_is_its_first_token_s_or_the_mean(pooling: str) -> None:
    packed = pack([[0, 5, 2], [0, 2], [0, 7, 8, 9, 2]])
    hidden = torch.randn(packed.tokens, D, dtype=torch.double, requires_grad=True)
    bounds = packed.offsets_S1.tolist()
    expected: list[Tensor] = [
        hidden[start] if pooling == "first" else hidden[start:end].float().mean(0) for start, end in pairwise(bounds)
    ]
    found = sentence_vectors(hidden, packed, pooling)
    torch.testing.assert_close(found, torch.stack(expected))
    weight = torch.randn_like(found)
    gradients = [torch.autograd.grad((v * weight).sum(), hidden)[0] for v in (found, torch.stack(expected))]
    torch.testing.assert_close(*gradients)
