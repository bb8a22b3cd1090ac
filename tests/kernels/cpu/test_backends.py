"""The backends for CPUs: equal to the reference, whatever else is in the batch, wherever a pair lies, in every dtype."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import sinkhorn_align
from sinkhorn_align import AlignmentSettings, Links, PairStatus, Spans
from sinkhorn_align.agreement import compare
from sinkhorn_align.cpu import batched
from sinkhorn_align.cpu.buckets import LARGEST_BLOCK, blocks, padded_lengths
from sinkhorn_align.reference import log_kernel, similarity

SETTINGS = [
    AlignmentSettings(),
    AlignmentSettings(sinkhorn_iterations=0, filter_rounds=3),
    AlignmentSettings(cost="exp", temperature=4.0),
    AlignmentSettings(cost="exp", similarity="cosine", temperature=0.1, filter_rounds=3),
]
BACKENDS = ("native", "torch")


@pytest.fixture(params=BACKENDS)
def align(request):
    """The public call by one backend after the other."""
    return partial(sinkhorn_align.align, backend=request.param)


def same(first: Links, second: Links) -> bool:
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("links_RT", "partner_T", "score_T", "status_B")
    )


def pair_slice(links: Links, batch: tuple, pair: int) -> tuple:
    """What `links` says of one pair, in indices relative to the pair's first source token."""
    begin, _, target_start, columns = (int(vector_B[pair]) for vector_B in batch[1])
    end = target_start + columns
    tokens = (links.links_RT[:, begin:end], links.partner_T[begin:end])
    links_R, partner = (torch.where(token >= 0, token - begin, -1).tolist() for token in tokens)
    return links_R, partner, links.score_T[begin:end].tolist(), int(links.status_B[pair])


def pairs_too_close_to_call(align: partial, batch: tuple, settings: AlignmentSettings) -> int:
    """How many pairs differ from the reference; each must have had a decision too close to call."""
    agreement = compare(align(*batch, settings), *batch, settings)
    assert not agreement.wrong
    return len(agreement.too_close)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_links_equal_the_reference_on_600_ragged_pairs(align, settings, correlated_pairs, lay_out):
    pairs = correlated_pairs(seed=11, pairs=600)
    assert pairs_too_close_to_call(align, lay_out(pairs), settings) <= 3


def test_links_equal_the_reference_where_half_of_the_similarities_are_below_the_floor(align, correlated_pairs, lay_out):
    # Rows with one cell above the floor give all their mass to it: several such rows differ by less than fp32 resolves.
    pairs = correlated_pairs(seed=11, pairs=300, common=0.0)
    assert pairs_too_close_to_call(align, lay_out(pairs), AlignmentSettings()) <= 30


def test_kernels_of_any_range_beside_each_other_equal_the_reference(align, correlated_pairs, lay_out):
    pairs = correlated_pairs(seed=16, pairs=40, shortest=3)
    stretched = [(source_MD * 10.0 ** (pair % 3 - 1), target_ND) for pair, (source_MD, target_ND) in enumerate(pairs)]
    settings = AlignmentSettings(cost="exp", temperature=4.0)
    kernels = [log_kernel(similarity(*pair, settings), settings) for pair in stretched]
    wide = [float(kernel_MN.max() - kernel_MN.min()) > batched.WIDEST_PRODUCT_RANGE for kernel_MN in kernels]
    assert set(wide) == {True, False}, "both ways to the potentials are taken"
    # Rows that give all their mass to one cell are many here, and differ by less than fp32 resolves.
    assert pairs_too_close_to_call(align, lay_out(stretched), settings) <= 15


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_links_equal_the_reference_on_adversarial_matrices(
    align, settings, adversarial_similarity, with_similarity, lay_out
):
    batch = lay_out([with_similarity(adversarial_similarity)])
    links, reference = align(*batch, settings), align(*batch, settings, backend="reference")
    assert torch.equal(links.links_RT, reference.links_RT)
    assert torch.equal(links.partner_T, reference.partner_T)
    torch.testing.assert_close(links.score_T, reference.score_T, rtol=1e-5, atol=1e-4)


def test_links_do_not_depend_on_neighbours_or_place(align, correlated_pairs, lay_out):
    pairs = correlated_pairs(seed=5, pairs=150, width=48, longest=70)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(9)).tolist()
    batch, shuffled = lay_out(pairs), lay_out([pairs[i] for i in order])
    together, moved = align(*batch), align(*shuffled)
    for place, pair in enumerate(order):
        expected = pair_slice(together, batch, pair)
        assert pair_slice(moved, shuffled, place) == expected
        if pair % 5 == 0:
            alone = lay_out([pairs[pair]])
            assert pair_slice(align(*alone), alone, 0) == expected


def test_same_batch_gives_the_same_bits(align, correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=6, pairs=100))
    assert same(align(*batch), align(*batch))


def test_padded_and_packed_batches_give_the_same_links(align, correlated_pairs, lay_out):
    pairs = correlated_pairs(seed=7, pairs=12)
    packed = lay_out(pairs)
    length = max(len(source_MD) + len(target_ND) + 3 for source_MD, target_ND in pairs)
    padded_BLD = torch.zeros(len(pairs), length, 32)
    starts = torch.arange(len(pairs), dtype=torch.int32) * length
    for row, (source_MD, target_ND) in enumerate(pairs):
        padded_BLD[row, 1 : 1 + len(source_MD)] = source_MD
        padded_BLD[row, 2 + len(source_MD) : 2 + len(source_MD) + len(target_ND)] = target_ND
    _, rows_B, _, columns_B = packed[1]
    padded = (padded_BLD.flatten(0, 1), Spans(starts + 1, rows_B, starts + 2 + rows_B, columns_B))
    links, padded_links = align(*packed), align(*padded)
    for pair in range(len(pairs)):
        assert pair_slice(padded_links, padded, pair) == pair_slice(links, packed, pair)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_lower_precision_is_read_exactly_and_accumulated_in_fp32(align, dtype, correlated_pairs, lay_out):
    hidden_TD, spans = lay_out(correlated_pairs(seed=8, pairs=40))
    rounded_TD = hidden_TD.to(dtype)
    links = align(rounded_TD, spans)
    assert same(links, align(rounded_TD.float(), spans))
    assert links.score_T.dtype == torch.float32


def test_autocast_does_not_reach_the_similarities(align, correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=9, pairs=40))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = align(*batch)
    assert same(inside, align(*batch))


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_empty_batches_and_empty_sides_give_no_links(backend, lay_out):
    align = partial(sinkhorn_align.align, backend=backend)
    nothing = Spans(*[torch.zeros(0, dtype=torch.int32)] * 4)
    none = align(torch.zeros(7, 4), nothing)
    assert none.links_RT.shape == (2, 7)
    assert none.status_B.shape == (0,)
    assert (none.partner_T == -1).all()
    assert len(align(torch.zeros(0, 4), nothing).partner_T) == 0
    empty, full = torch.zeros(0, 4), torch.ones(3, 4)
    links = align(*lay_out([(empty, full), (full, empty), (empty, empty), (full, full)]))
    assert links.status_B.tolist() == [PairStatus.EMPTY_SIDE] * 3 + [PairStatus.OK]
    assert int((links.links_RT >= 0).sum()) == 2


@pytest.mark.parametrize("backend", BACKENDS)
@hypothesis_settings(deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    values=st.randoms(use_true_random=False),
    levels=st.integers(1, 30),
    cost=st.sampled_from(["clip", "exp"]),
    iterations=st.integers(0, 3),
    rounds=st.integers(1, 5),
)
def test_every_filtered_plan_is_a_partial_matching_per_round(
    backend, rows, columns, values, levels, cost, iterations, rounds
):
    # Few levels make many ties.
    similarity_MN = torch.tensor([[float(values.randint(-2, levels)) for _ in range(columns)] for _ in range(rows)])
    hidden_TD = torch.cat([similarity_MN, torch.eye(columns)])
    spans = Spans(*(torch.tensor([v], dtype=torch.int32) for v in (0, rows, rows, columns)))
    settings = AlignmentSettings(cost=cost, sinkhorn_iterations=iterations, filter_rounds=rounds)
    links = sinkhorn_align.align(hidden_TD, spans, settings, backend=backend)

    found = [[(i, j) for i, j in enumerate(row[:rows]) if j >= 0] for row in links.links_RT.tolist()]
    assert found[0], "the heaviest cell is always a link"
    every = [link for links_of_round in found for link in links_of_round]
    assert len(set(every)) == len(every)
    for links_of_round in found:
        assert len({j for _, j in links_of_round}) == len(links_of_round)
    assert (links.links_RT[:, rows:] == -1).all()
    for token, partner in enumerate(links.partner_T.tolist()):
        other_ends = {j for i, j in every if i == token} | {i for i, j in every if j == token}
        assert (partner in other_ends) if other_ends else partner == -1
    if min(rows, columns) <= 2:
        assert not any(found[1:])


def test_without_sinkhorn_transposed_pairs_have_transposed_links(align, correlated_pairs, lay_out):
    pairs = correlated_pairs(seed=12, pairs=60)
    forward, backward = lay_out(pairs), lay_out([(target_ND, source_MD) for source_MD, target_ND in pairs])
    settings = AlignmentSettings(cost="exp", sinkhorn_iterations=0, filter_rounds=3)
    links = align(*forward, settings).local(forward[1])
    transposed = align(*backward, settings).local(backward[1])
    assert sorted(links.tolist()) == sorted([pair, j, i] for pair, i, j in transposed.tolist())


def test_permuted_tokens_have_permuted_links(align, correlated_pairs, lay_out):
    (source_MD, target_ND), *_ = correlated_pairs(seed=13, pairs=1, shortest=20)
    order = torch.randperm(len(source_MD), generator=torch.Generator().manual_seed(1))
    batch, permuted = lay_out([(source_MD, target_ND)]), lay_out([(source_MD[order], target_ND)])
    links = align(*batch).local(batch[1]).tolist()
    moved = align(*permuted).local(permuted[1]).tolist()
    assert sorted((int(order[i]), j) for _, i, j in moved) == sorted((i, j) for _, i, j in links)


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 700)), max_size=40))
def test_every_filled_pair_is_in_one_block_that_holds_it(lengths):
    lengths_B2 = torch.tensor(lengths, dtype=torch.int64).view(-1, 2)
    seen = []
    for pair_B, padded in blocks(lengths_B2[:, 0], lengths_B2[:, 1]):
        assert len(pair_B) == 1 or len(pair_B) * padded * padded <= LARGEST_BLOCK
        for pair in pair_B.tolist():
            alone = padded_lengths(lengths_B2[pair].max()[None])
            assert padded == int(alone), "the shape must follow from the pair alone"
            assert padded >= max(lengths[pair])
            seen.append(pair)
    assert sorted(seen) == [pair for pair, sides in enumerate(lengths) if min(sides) > 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_links_of_the_cpu(correlated_pairs, lay_out):
    hidden_TD, spans = lay_out(correlated_pairs(seed=14, pairs=300))
    on_cpu = sinkhorn_align.align(hidden_TD, spans)
    on_cuda = sinkhorn_align.align(hidden_TD.cuda(), Spans(*(vector_B.cuda() for vector_B in spans)))
    assert on_cuda.links_RT.device.type == "cuda"
    differing = (on_cuda.links_RT.cpu() != on_cpu.links_RT).any(dim=0).sum()
    assert differing <= 0.001 * len(hidden_TD)
