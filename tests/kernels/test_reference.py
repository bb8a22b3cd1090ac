"""The float64 reference against a second implementation of the definition, and against cases worked by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sinkhorn_align import AlignmentSettings, PairStatus, align
from sinkhorn_align.reference import align_pair, log_kernel, transport_plan

SETTINGS = [
    AlignmentSettings(),
    AlignmentSettings(sinkhorn_iterations=0),
    AlignmentSettings(sinkhorn_iterations=5, filter_rounds=4, discount=0.5),
    AlignmentSettings(cost="exp"),
    AlignmentSettings(cost="exp", temperature=0.5, filter_rounds=3),
    AlignmentSettings(cost="exp", sinkhorn_iterations=0, filter_rounds=1),
]


def links_by_definition(similarity: list[list[float]], settings: AlignmentSettings) -> list[set[tuple[int, int]]]:
    """Per round the new links, by plain loops over cells."""
    rows, columns = range(len(similarity)), range(len(similarity[0]))
    if settings.cost == "clip":
        kernel = [[math.log(max(cell, 1e-6)) for cell in row] for row in similarity]
    else:
        kernel = [[cell / settings.temperature for cell in row] for row in similarity]
    f, g = [0.0 for _ in rows], [0.0 for _ in columns]

    def log_sum(values: list[float]) -> float:
        top = max(values)
        return top + math.log(sum(math.exp(value - top) for value in values))

    for _ in range(settings.sinkhorn_iterations):
        for step in ("columns", "rows") if settings.cost == "clip" else ("rows", "columns"):
            if step == "columns":
                g = [-log_sum([kernel[i][j] + f[i] for i in rows]) for j in columns]
            else:
                f = [-log_sum([kernel[i][j] + g[j] for j in columns]) for i in rows]
    plan = {(i, j): kernel[i][j] + f[i] + g[j] for i in rows for j in columns}
    if settings.sinkhorn_iterations and min(len(rows), len(columns)) == 1:
        plan = dict.fromkeys(plan, 0.0)  # one row or column of unit marginals: equal masses, but for rounding

    def first_of_largest(cells: list[tuple[int, int]], mass: dict[tuple[int, int], float]) -> tuple[int, int] | None:
        top = max((mass[cell] for cell in cells), default=-math.inf)
        return next((cell for cell in cells if mass[cell] == top), None)

    found: list[set[tuple[int, int]]] = []
    for round_ in range(settings.filter_rounds):
        linked_rows = {i for links in found for i, _ in links}
        linked_columns = {j for links in found for _, j in links}
        full = len(linked_rows) == len(rows) or len(linked_columns) == len(columns)
        if full or (round_ > 0 and min(len(rows), len(columns)) <= 2):
            found.append(set())
            continue
        mass = {}
        for (i, j), value in plan.items():
            links_already = (i in linked_rows) + (j in linked_columns)
            if links_already < 2:
                mass[i, j] = value + links_already * math.log(settings.discount)
        of_row = {first_of_largest([(i, j) for j in columns if (i, j) in mass], mass) for i in rows}
        of_column = {first_of_largest([(i, j) for i in rows if (i, j) in mass], mass) for j in columns}
        found.append({cell for cell in of_row & of_column if cell is not None})
    return found


def links_of(column_RM: Tensor) -> list[set[tuple[int, int]]]:
    return [{(i, j) for i, j in enumerate(row) if j >= 0} for row in column_RM.tolist()]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_reference_equals_the_definition_on_random_matrices(settings, with_similarity):
    generator = torch.Generator().manual_seed(3)
    for _ in range(100):
        rows, columns = torch.randint(1, 10, (2,), generator=generator).tolist()
        similarity_MN = 2 * torch.randn(rows, columns, generator=generator) + 1
        answer = align_pair(*with_similarity(similarity_MN), settings)
        assert links_of(answer.column_RM) == links_by_definition(similarity_MN.tolist(), settings)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_reference_equals_the_definition_on_adversarial_matrices(settings, adversarial_similarity, with_similarity):
    answer = align_pair(*with_similarity(adversarial_similarity), settings)
    assert answer.status == PairStatus.OK
    assert links_of(answer.column_RM) == links_by_definition(adversarial_similarity.tolist(), settings)


def test_similarity_is_the_dot_product_or_the_cosine():
    source_MD, target_ND = (
        torch.tensor([[3.0, 4.0], [0.0, 0.0]]),
        torch.tensor([[3.0, 4.0], [-1e-30, 0.0], [1e30, 1e30]]),
    )
    kernel_only = {"cost": "exp", "sinkhorn_iterations": 0}
    dot = align_pair(source_MD, target_ND[:2], AlignmentSettings(**kernel_only))
    torch.testing.assert_close(dot.log_plan_MN, torch.tensor([[25.0, -3e-30], [0.0, 0.0]]).double())
    cosine = align_pair(source_MD, target_ND, AlignmentSettings(**kernel_only, similarity="cosine"))
    expected = torch.tensor([[1.0, -0.6, 1.4 / math.sqrt(2)], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(cosine.log_plan_MN, expected.double(), rtol=0, atol=1e-7)


def test_last_step_makes_row_sums_exact_for_clip_and_column_sums_for_exp():
    similarity_MN = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)).double() + 0.1
    for cost, dim in (("clip", 1), ("exp", 0)):
        settings = AlignmentSettings(cost=cost)
        plan_MN = transport_plan(log_kernel(similarity_MN, settings), settings).exp()
        torch.testing.assert_close(plan_MN.sum(dim), torch.ones(plan_MN.shape[1 - dim]).double())
        assert (plan_MN.sum(1 - dim) - 1).abs().max() > 1e-3


def test_discount_decides_between_a_linked_and_a_free_column(with_similarity):
    similarity_MN = torch.tensor([[10.0, 1.0, 1.0], [9.5, 9.0, 1.0], [1.0, 1.0, 0.5]])
    plain = AlignmentSettings(sinkhorn_iterations=0, filter_rounds=2, discount=1.0)
    assert links_of(align_pair(*with_similarity(similarity_MN), plain).column_RM)[1] == {(1, 0)}
    discounted = AlignmentSettings(sinkhorn_iterations=0, filter_rounds=2, discount=0.9)
    assert links_of(align_pair(*with_similarity(similarity_MN), discounted).column_RM)[1] == {(1, 1)}


def test_ties_go_to_the_lowest_index(with_similarity):
    answer = align_pair(*with_similarity(torch.ones(4, 4)), AlignmentSettings(filter_rounds=3))
    assert links_of(answer.column_RM) == [{(0, 0)}, {(1, 1)}, {(2, 2)}]


@pytest.mark.parametrize("shape", [(2, 9), (9, 2), (1, 5), (2, 2)])
def test_nothing_is_added_to_a_side_of_two_tokens(shape, with_similarity):
    similarity_MN = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.1
    first, *further = links_of(
        align_pair(*with_similarity(similarity_MN), AlignmentSettings(filter_rounds=4)).column_RM
    )
    assert first
    assert not any(further)


def test_nothing_is_added_once_all_columns_have_a_link(with_similarity):
    similarity_MN = torch.cat([torch.eye(3) * 9 + 1, torch.full((2, 3), 1.5)])
    first, *further = links_of(
        align_pair(*with_similarity(similarity_MN), AlignmentSettings(filter_rounds=5)).column_RM
    )
    assert first == {(0, 0), (1, 1), (2, 2)}
    assert not any(further)


@pytest.mark.parametrize("backend", ["reference", "torch", "native"])
def test_partner_is_the_heaviest_of_several_links(backend, lay_out, with_similarity):
    # Round 0 links (0, 0), (1, 1), round 1 adds (2, 0): column 0 has two links, the first weighs more.
    similarity_MN = torch.tensor([[10.0, 1.0, 0.1], [1.0, 8.0, 0.1], [6.0, 1.0, 0.5]])
    settings = AlignmentSettings(sinkhorn_iterations=0, discount=1.0)
    links = align(*lay_out([with_similarity(similarity_MN)]), settings, backend=backend)
    assert links.links_RT[:, 1:4].tolist() == [[5, 6, -1], [-1, -1, 5]]
    assert links.partner_T.tolist() == [-1, 5, 6, 5, -1, 1, 2, -1, -1]
    torch.testing.assert_close(links.score_T[[1, 2, 3, 5, 6]].exp(), torch.tensor([10.0, 8.0, 6.0, 10.0, 8.0]))
    assert links.score_T[[0, 4, 7, 8]].tolist() == [-math.inf] * 4


@pytest.mark.parametrize("backend", ["reference", "torch", "native"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("cost", ["clip", "exp"])
def test_non_finite_similarity_gives_no_links_and_a_status(backend, value, cost, lay_out, correlated_pairs):
    clean: Callable = correlated_pairs
    pairs = clean(seed=2, pairs=5, shortest=3)
    alone = align(*lay_out(pairs), AlignmentSettings(cost=cost), backend=backend)
    poisoned_MD = pairs[2][0].clone()
    poisoned_MD[1, 3] = value
    batch = lay_out([*pairs[:2], (poisoned_MD, pairs[2][1]), *pairs[3:]])
    links = align(*batch, AlignmentSettings(cost=cost), backend=backend)
    assert links.status_B.tolist() == [0, 0, int(PairStatus.NON_FINITE), 0, 0]
    begin, _, target_start, columns = (int(vector_B[2]) for vector_B in batch[1])
    end = target_start + columns
    assert (links.links_RT[:, begin:end] == -1).all()
    assert (links.partner_T[begin:end] == -1).all()
    others = torch.ones(len(batch[0]), dtype=torch.bool)
    others[begin:end] = False
    assert torch.equal(links.links_RT[:, others], alone.links_RT[:, others])
