"""The methods of the word aligner against explicit loops over one pair."""

from itertools import permutations

import numpy as np
import pytest
import torch

from pipeline.align.link_methods import check_method, find_links
from pipeline.settings.align_options import METHODS
from sinkhorn_align import AlignmentSettings, Spans

LENGTHS = [(1, 1), (1, 5), (7, 2), (3, 3), (17, 20), (40, 33), (16, 16), (63, 70)]


def flat(seed: int, shift: float = 0.0) -> tuple[torch.Tensor, Spans]:
    """Hidden states of a packed batch with a token between the sides, and its spans."""
    generator = torch.Generator().manual_seed(seed)
    starts, at = [], 0
    for source, target in LENGTHS:
        starts.append((at + 1, at + 2 + source))
        at += source + target + 3
    hidden_TD = torch.randn(at, 24, generator=generator) + shift
    start_B2, length_B2 = torch.tensor(starts), torch.tensor(LENGTHS)
    return hidden_TD, Spans(start_B2[:, 0], length_B2[:, 0], start_B2[:, 1], length_B2[:, 1])


def sides(hidden_TD: torch.Tensor, spans: Spans, pair: int) -> tuple[np.ndarray, np.ndarray]:
    source, rows, target, columns = (int(vector[pair]) for vector in spans)
    hidden = hidden_TD.double().numpy()
    return hidden[source : source + rows], hidden[target : target + columns]


def mutual(by_row: np.ndarray, by_column: np.ndarray) -> set[tuple[int, int]]:
    best = [(i, int(by_row[i].argmax())) for i in range(len(by_row))]
    return {(i, j) for i, j in best if by_column[:, j].argmax() == i}


def released(similarity: np.ndarray) -> set[tuple[int, int]]:
    """The released aligner's loop: the row's largest in the plan, the column's in the plan before the last row step."""
    plan = np.maximum(similarity, 1e-6)
    for _ in range(2):
        before = plan / plan.sum(axis=0, keepdims=True)
        plan = before / before.sum(axis=1, keepdims=True)
    return mutual(plan, before)


def found(
    hidden_TD: torch.Tensor, spans: Spans, method: str, scored: bool = False
) -> list[dict[tuple[int, int], float]]:
    links = find_links(hidden_TD, spans, method, AlignmentSettings(), scored)  # type: ignore[arg-type]
    scores = links.score_L.tolist() if links.score_L is not None else [0.0] * len(links.triple_L3)
    pairs: list[dict[tuple[int, int], float]] = [{} for _ in LENGTHS]
    for (pair, i, j), score in zip(links.triple_L3.tolist(), scores, strict=True):
        pairs[pair][i, j] = score
    return pairs


@pytest.mark.parametrize("shift", [0.0, 1.0], ids=["many similarities below 0", "all similarities above 0"])
def test_ot_links_as_the_released_aligner(shift):
    for seed in range(5):
        hidden_TD, spans = flat(seed, shift)
        links = found(hidden_TD, spans, "ot")
        for pair in range(len(LENGTHS)):
            source_MD, target_ND = sides(hidden_TD, spans, pair)
            if min(LENGTHS[pair]) > 1:
                assert set(links[pair]) == released(source_MD @ target_ND.T)
    assert set(links[1]) == {(0, 0)}, "one token has the same mass with every other: the first is taken"


def test_ot_differs_from_a_mutual_argmax_of_the_last_plan():
    """Which is what makes the half-step matter."""
    different = 0
    for seed in range(5):
        hidden_TD, spans = flat(seed, 1.0)
        links = found(hidden_TD, spans, "ot")
        for pair in range(len(LENGTHS)):
            source_MD, target_ND = sides(hidden_TD, spans, pair)
            plan = source_MD @ target_ND.T
            for _ in range(2):
                plan = plan / plan.sum(axis=0, keepdims=True)
                plan = plan / plan.sum(axis=1, keepdims=True)
            different += set(links[pair]) != mutual(plan, plan)
    assert different > 0


def test_argmax_is_mutual_and_by_cosine_and_scores_are_cosines():
    hidden_TD, spans = flat(0)
    hidden_TD[5] *= 100  # a long vector is no better than its direction
    plain = found(hidden_TD, spans, "argmax")
    for pair, links in enumerate(found(hidden_TD, spans, "argmax", scored=True)):
        source_MD, target_ND = sides(hidden_TD, spans, pair)
        cosine = (source_MD / np.linalg.norm(source_MD, axis=1)[:, None]) @ (
            target_ND / np.linalg.norm(target_ND, axis=1)[:, None]
        ).T
        assert set(links) == mutual(cosine, cosine) == set(plain[pair])
        assert links == pytest.approx({link: cosine[link] for link in links}, abs=1e-5)


def affinity_of(hidden_TD: torch.Tensor, spans: Spans, pair: int) -> np.ndarray:
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides(hidden_TD, spans, pair)]
    return (unit[0] @ unit[1].T + 1) / 2


def simalign_itermax(affinity: np.ndarray, rounds: int = 2, alpha: float = 0.9) -> set[tuple[int, int]]:
    """SimAlign's loop, cell by cell, from the paper's algorithm 1: a cell counts 1 where neither its row nor its column has
    a link, alpha where one has, 0 where both have."""
    links = mutual(affinity, affinity)
    rows, columns = affinity.shape
    for _ in range(rounds - 1):
        linked_rows, linked_columns = {i for i, _ in links}, {j for _, j in links}
        if min(rows, columns) <= 2 or len(linked_rows) == rows or len(linked_columns) == columns:
            break
        weight = np.array(
            [[(1, alpha, 0)[(i in linked_rows) + (j in linked_columns)] for j in range(columns)] for i in range(rows)]
        )
        links = links | {(i, j) for i, j in mutual(affinity * weight, affinity * weight) if weight[i, j] > 0}
    return links


def test_itermax_links_as_simalign_and_finds_more_than_argmax():
    more = 0
    for seed in range(8):
        hidden_TD, spans = flat(seed, 0.3)
        links, first = found(hidden_TD, spans, "itermax"), found(hidden_TD, spans, "argmax")
        for pair in range(len(LENGTHS)):
            assert set(links[pair]) == simalign_itermax(affinity_of(hidden_TD, spans, pair))
            assert set(first[pair]) <= set(links[pair])
            more += len(links[pair]) - len(first[pair])
    assert more > 100


def test_itermax_is_symmetric():
    hidden_TD, spans = flat(2)
    turned = Spans(spans.target_start_B, spans.target_length_B, spans.source_start_B, spans.source_length_B)
    there, back = found(hidden_TD, spans, "itermax"), found(hidden_TD, turned, "itermax")
    assert [{(j, i) for i, j in links} for links in back] == [set(links) for links in there]


def test_match_is_one_to_one_with_the_largest_sum():
    hidden_TD, spans = flat(4)
    for pair, links in enumerate(found(hidden_TD, spans, "match")):
        affinity = affinity_of(hidden_TD, spans, pair)
        short = min(LENGTHS[pair])
        assert len(links) == len({i for i, _ in links}) == len({j for _, j in links}) == short
        total = sum(affinity[i, j] for i, j in links)
        if short <= 3:
            wide = affinity if LENGTHS[pair][0] <= LENGTHS[pair][1] else affinity.T
            ways = permutations(range(wide.shape[1]), short)
            assert total == pytest.approx(max(sum(wide[i, j] for i, j in enumerate(way)) for way in ways))
        else:
            argmax = sum(affinity[i, j] for i, j in mutual(affinity, affinity))
            assert total > argmax


def test_softmax_links_what_both_directions_choose_above_the_threshold():
    """Cell by cell; among similar tokens one may have several links."""
    many = 0
    for seed in range(5):
        hidden_TD, spans = flat(seed, 1.0)
        for pair, links in enumerate(found(hidden_TD, spans, "softmax")):
            weight = np.exp((affinity_of(hidden_TD, spans, pair) * 2 - 1) / 0.05)
            rows, columns = weight.sum(1), weight.sum(0)
            assert set(links) == {
                (i, j)
                for i in range(len(rows))
                for j in range(len(columns))
                if weight[i, j] / rows[i] > 0.3 and weight[i, j] / columns[j] > 0.3
            }
            many += len(links) - len({i for i, _ in links})
    assert many > 0


def test_ot_filter_holds_the_links_that_its_settings_give():
    hidden_TD, spans = flat(3, 1.0)
    one_round = find_links(hidden_TD, spans, "ot-filter", AlignmentSettings(filter_rounds=1), scored=False)
    two_rounds = find_links(hidden_TD, spans, "ot-filter", AlignmentSettings(), scored=False)
    first, both = (set(map(tuple, links.triple_L3.tolist())) for links in (one_round, two_rounds))
    assert first < both


def test_links_without_filter_rounds_are_refused():
    with pytest.raises(ValueError, match="filter_rounds = 0 gives partners and no links"):
        check_method("ot-filter", AlignmentSettings(filter_rounds=0))


@pytest.mark.parametrize("method", METHODS)
def test_a_non_finite_pair_has_no_links_and_says_so_and_no_other_changes(method):
    hidden_TD, spans = flat(1, 1.0)
    before = found(hidden_TD, spans, method)
    hidden_TD[int(spans.source_start_B[3])] = float("nan")
    links = find_links(hidden_TD, spans, method, AlignmentSettings(), scored=False)
    assert links.non_finite_B.tolist() == [pair == 3 for pair in range(len(LENGTHS))]
    after = found(hidden_TD, spans, method)
    assert after[3] == {} and after[:3] + after[4:] == before[:3] + before[4:]
