"""Without filtering every token's partner is the heaviest of its row or column, whether or not that leads back."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sinkhorn_align import AlignmentSettings, PairStatus, Spans, align
from sinkhorn_align.agreement import compare

UNFILTERED = [
    AlignmentSettings(filter_rounds=0),
    AlignmentSettings(sinkhorn_iterations=0, filter_rounds=0),
    AlignmentSettings(cost="exp", similarity="cosine", temperature=0.1, filter_rounds=0),
]


@pytest.mark.parametrize("settings", UNFILTERED, ids=str)
def test_partners_equal_the_reference_on_600_ragged_pairs(settings, correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=21, pairs=600))
    links = align(*batch, settings)
    agreement = compare(links, *batch, settings)
    assert not agreement.wrong and len(agreement.too_close) <= 3
    assert links.links_RT.shape == (0, len(batch[0]))


@pytest.mark.parametrize("settings", UNFILTERED[:2], ids=str)
def test_partners_equal_the_reference_on_adversarial_matrices(
    settings, adversarial_similarity, with_similarity, lay_out
):
    batch = lay_out([with_similarity(adversarial_similarity)])
    links, reference = align(*batch, settings), align(*batch, settings, backend="reference")
    assert torch.equal(links.partner_T, reference.partner_T)
    torch.testing.assert_close(links.score_T, reference.score_T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@hypothesis_settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 4), min_size=3, max_size=3), min_size=1, max_size=5))
def test_partners_are_the_first_largest_of_row_and_column_and_cells_are_counted_once(backend, similarity):
    rows = len(similarity)
    hidden_TD = torch.cat([torch.tensor(similarity).float(), torch.eye(3)])
    spans = Spans(*(torch.tensor([v], dtype=torch.int32) for v in (0, rows, rows, 3)))
    links = align(hidden_TD, spans, AlignmentSettings(sinkhorn_iterations=0, filter_rounds=0), backend=backend)
    of_row = [row.index(max(row)) for row in similarity]
    of_column = [column.index(max(column)) for column in zip(*similarity, strict=True)]
    assert links.partner_T.tolist() == [rows + j for j in of_row] + of_column
    largest = [max(row) for row in similarity] + [max(column) for column in zip(*similarity, strict=True)]
    assert links.score_T.tolist() == pytest.approx([math.log(value) for value in largest])
    assert int(links.count()) == len(set(enumerate(of_row)) | {(i, j) for j, i in enumerate(of_column)})


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_empty_and_non_finite_pairs_have_no_partners(backend, lay_out):
    full, broken = torch.ones(3, 4), torch.tensor([[math.inf] * 4])
    batch = lay_out([(torch.zeros(0, 4), full), (full, broken), (full, full)])
    links = align(*batch, UNFILTERED[0], backend=backend)
    assert links.status_B.tolist() == [PairStatus.EMPTY_SIDE, PairStatus.NON_FINITE, PairStatus.OK]
    assert int((links.partner_T >= 0).sum()) == 6 and int((links.score_T > -math.inf).sum()) == 6
    nothing = torch.zeros(0, dtype=torch.int32)
    assert (
        align(torch.zeros(7, 4), Spans(*[nothing] * 4), UNFILTERED[0], backend=backend).partner_T.tolist() == [-1] * 7
    )


@pytest.mark.parametrize("backend", ["native", "triton"])
def test_backends_that_can_only_filter_say_so(backend, correlated_pairs, lay_out):
    with pytest.raises(ValueError, match=f"backend '{backend}' has no filter_rounds=0; use 'auto' or 'torch'"):
        align(*lay_out(correlated_pairs(seed=1, pairs=2)), UNFILTERED[0], backend=backend)


def test_links_of_filtered_pairs_are_counted_as_they_are(correlated_pairs, lay_out):
    links = align(*lay_out(correlated_pairs(seed=2, pairs=20)), dataclasses.replace(UNFILTERED[0], filter_rounds=2))
    assert int(links.count()) == int((links.links_RT >= 0).sum()) > 0
