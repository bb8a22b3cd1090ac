"""The Triton backend, in Triton's interpreter where there is no GPU: the reference's links, whatever lies around a pair.

The interpreter takes some 25 ms a pair, so these batches are small; `kernels/gpu_checks.py` runs thousands.
"""

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sinkhorn_align import AlignmentSettings, Links, PairStatus, Spans, align
from sinkhorn_align.agreement import compare

tiles = pytest.importorskip("sinkhorn_align.gpu.tiles")
gpu_launch = pytest.importorskip("sinkhorn_align.gpu.launch", reason="needs the package triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = [
    AlignmentSettings(),
    AlignmentSettings(sinkhorn_iterations=0, filter_rounds=3),
    AlignmentSettings(cost="exp", temperature=4.0),
    AlignmentSettings(cost="exp", similarity="cosine", temperature=0.1, filter_rounds=3),
]
LONG = [(512, 3), (1, 400), (129, 2), (130, 70), (40, 257)]
"""Sides of pairs that only the streamed path takes."""


def by_triton(batch: tuple, settings: AlignmentSettings | None = None) -> Links:
    hidden_TD, spans = batch
    links = align(hidden_TD.to(DEVICE), spans, settings, backend="triton")
    return Links(*(getattr(links, field.name).cpu() for field in dataclasses.fields(Links)))


def same(first: Links, second: Links) -> bool:
    return all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in dataclasses.fields(Links))


def of_pair(links: Links, batch: tuple, pair: int) -> tuple:
    """What `links` says of one pair of a `lay_out` batch, in indices relative to its first source token."""
    begin, _, target_start, columns = (int(vector_B[pair]) for vector_B in batch[1])
    end = target_start + columns
    tokens = (links.links_RT[:, begin:end], links.partner_T[begin:end])
    links_R, partner = (torch.where(token >= 0, token - begin, -1).tolist() for token in tokens)
    return links_R, partner, links.score_T[begin:end].tolist(), int(links.status_B[pair])


def long_pairs(width: int = 32) -> list:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.rand(rows, width, generator=generator), torch.rand(columns, width, generator=generator))
        for rows, columns in LONG
    ]


@pytest.mark.parametrize(("settings", "pairs"), list(zip(SETTINGS, (150, 50, 50, 150), strict=True)), ids=str)
def test_triton_equals_reference_on_ragged_pairs(settings, pairs, correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=11, pairs=pairs))
    agreement = compare(by_triton(batch, settings), *batch, settings)
    assert agreement.wrong == ()
    assert len(agreement.too_close) <= pairs / 100


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_triton_equals_reference_on_long_pairs(settings, lay_out):
    batch = lay_out(long_pairs())
    agreement = compare(by_triton(batch, settings), *batch, settings)
    assert agreement.wrong == ()
    assert len(agreement.too_close) <= 1


def test_triton_equals_reference_on_the_longest_pair(correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=2, pairs=1, shortest=512, longest=512))
    assert compare(by_triton(batch), *batch).wrong == ()


@pytest.mark.parametrize("settings", SETTINGS[:3], ids=str)
def test_triton_equals_reference_on_adversarial_matrices(settings, adversarial_similarity, with_similarity, lay_out):
    batch = lay_out([with_similarity(adversarial_similarity)])
    triton, reference = by_triton(batch, settings), align(*batch, settings, backend="reference")
    assert torch.equal(triton.links_RT, reference.links_RT)
    assert torch.equal(triton.partner_T, reference.partner_T)
    torch.testing.assert_close(triton.score_T, reference.score_T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(140, 20), (20, 140)])
def test_streamed_ties_go_to_the_lowest_index(shape, lay_out, with_similarity):
    # Every block of rows has the same values: an equal value of a later block must not win.
    batch = lay_out([with_similarity(torch.full(shape, 3.0))])
    triton, reference = by_triton(batch), align(*batch, backend="reference")
    assert torch.equal(triton.links_RT, reference.links_RT)
    assert torch.equal(triton.partner_T, reference.partner_T)
    torch.testing.assert_close(triton.score_T, reference.score_T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3, 100])
def test_every_dtype_and_odd_widths_equal_the_reference(dtype, width, correlated_pairs, lay_out):
    hidden_TD, spans = lay_out(correlated_pairs(seed=8, pairs=12, width=width))
    batch = (hidden_TD.to(dtype), spans)
    assert compare(by_triton(batch), *batch).wrong == ()
    cosine = SETTINGS[3]
    assert compare(by_triton(batch, cosine), *batch, cosine).wrong == ()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("rows", [20, 140])
def test_a_pair_beyond_range_says_so_and_leaves_its_neighbours_alone(value, rows, correlated_pairs, lay_out):
    pairs = correlated_pairs(seed=4, pairs=3, shortest=rows, longest=rows)
    pairs[1][0][rows - 1, 5] = value
    pairs[1][1][rows // 2, 5] = 1e30
    batch = lay_out(pairs)
    links = by_triton(batch)
    assert links.status_B.tolist() == [PairStatus.OK, PairStatus.NON_FINITE, PairStatus.OK]
    assert compare(links, *batch).wrong == ()


def test_huge_and_tiny_vectors_have_the_cosines_of_their_directions(correlated_pairs, lay_out):
    settings = SETTINGS[3]
    for rows in (20, 140):
        ((source_MD, target_ND),) = correlated_pairs(seed=9, pairs=1, shortest=rows, longest=rows)
        expected = by_triton(lay_out([(source_MD, target_ND)]), settings)
        scaled = by_triton(lay_out([(source_MD * 2.0**100, target_ND * 2.0**-100)]), settings)
        assert torch.equal(scaled.links_RT, expected.links_RT)


def test_pairs_without_links_and_batches_without_pairs(lay_out):
    nothing = Spans(*[torch.zeros(0, dtype=torch.int32)] * 4)
    none = by_triton((torch.zeros(7, 4), nothing))
    assert none.links_RT.shape == (2, 7)
    assert (none.partner_T == -1).all()
    assert none.status_B.shape == (0,)
    empty, full = torch.zeros(0, 4), torch.ones(3, 4)
    batch = lay_out([(empty, full), (full, empty), (empty, empty), (full, full)])
    links = by_triton(batch)
    assert links.status_B.tolist() == [PairStatus.EMPTY_SIDE] * 3 + [PairStatus.OK]
    assert same(links, align(*batch, backend="reference")) or compare(links, *batch).wrong == ()


def test_links_do_not_depend_on_neighbours_or_place(correlated_pairs, lay_out):
    pairs = correlated_pairs(seed=5, pairs=30, width=48, longest=70) + long_pairs(48)[2:4]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(9)).tolist()
    batch, shuffled = lay_out(pairs), lay_out([pairs[i] for i in order])
    together, moved = by_triton(batch), by_triton(shuffled)
    for place, pair in enumerate(order):
        expected = of_pair(together, batch, pair)
        assert of_pair(moved, shuffled, place) == expected
        if pair % 4 == 0:
            alone = lay_out([pairs[pair]])
            assert of_pair(by_triton(alone), alone, 0) == expected


def test_same_batch_gives_the_same_bits(correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=6, pairs=20) + long_pairs()[2:4])
    assert same(by_triton(batch), by_triton(batch))


def test_padded_and_packed_batches_give_the_same_links(correlated_pairs, lay_out):
    pairs = correlated_pairs(seed=7, pairs=8)
    packed = lay_out(pairs)
    length = max(len(source_MD) + len(target_ND) + 3 for source_MD, target_ND in pairs)
    padded_BLD = torch.full((len(pairs), length, 32), math.nan)
    starts = torch.arange(len(pairs), dtype=torch.int32) * length
    for row, (source_MD, target_ND) in enumerate(pairs):
        padded_BLD[row, 1 : 1 + len(source_MD)] = source_MD
        padded_BLD[row, 2 + len(source_MD) : 2 + len(source_MD) + len(target_ND)] = target_ND
    _, rows_B, _, columns_B = packed[1]
    padded = (padded_BLD.flatten(0, 1), Spans(starts + 1, rows_B, starts + 2 + rows_B, columns_B))
    links, padded_links = by_triton(packed), by_triton(padded)
    for pair in range(len(pairs)):
        assert of_pair(padded_links, padded, pair) == of_pair(links, packed, pair)


def test_hidden_states_need_not_be_contiguous(correlated_pairs, lay_out):
    hidden_TD, spans = lay_out(correlated_pairs(seed=7, pairs=8))
    strided_TD = torch.stack([hidden_TD, torch.full_like(hidden_TD, math.nan)], dim=2)[:, :, 0]
    assert same(by_triton((strided_TD, spans)), by_triton((hidden_TD, spans)))


def guarded(shape: tuple[int, ...], inside: float, outside: float, dtype: torch.dtype) -> tuple:
    """A tensor that lies inside a larger one of other values: (the tensor, the values around it)."""
    numbers, guard = math.prod(shape), 64
    around = torch.full((numbers + 2 * guard,), outside, dtype=dtype, device=DEVICE)
    tensor = around[guard : guard + numbers].view(shape)
    tensor.fill_(inside)
    return tensor, lambda: torch.cat([around[:guard], around[-guard:]])


def test_nothing_around_a_buffer_is_read_or_written(correlated_pairs, lay_out, monkeypatch):
    settings = AlignmentSettings()
    pairs = correlated_pairs(seed=10, pairs=12, longest=30) + long_pairs()[2:4]
    hidden_TD, spans = batch = lay_out(pairs)
    inside_TD, _ = guarded(hidden_TD.shape, 0.0, math.nan, torch.float32)
    inside_TD.copy_(hidden_TD)
    plan = tiles.Plan.of(spans.checked(len(hidden_TD)), torch.device(DEVICE))
    shapes = {
        "links_RT": (settings.filter_rounds, len(hidden_TD)),
        "partner_T": (len(hidden_TD),),
        "status_B": (len(pairs),),
    }
    buffers = {name: guarded(shape, -1, 77, torch.int32) for name, shape in shapes.items()}
    buffers["status_B"][0].fill_(int(PairStatus.EMPTY_SIDE))
    buffers["score_T"] = guarded((len(hidden_TD),), -math.inf, 77, torch.float32)
    answer = Links(**{name: tensor for name, (tensor, _) in buffers.items()})

    # Scratch is whatever memory holds: here what would do most harm, with more of it on both sides.
    scratch = []

    def poisoned(shape, dtype=torch.float32, device=None):
        value = math.nan if dtype.is_floating_point else 2**30
        scratch.append((value, guarded(shape, value, value, dtype)))
        return scratch[-1][1][0]

    with monkeypatch.context() as patch:
        patch.setattr(gpu_launch.torch, "empty", poisoned)
        gpu_launch.launch_into(answer, inside_TD, plan, settings)
    assert len(scratch) == 4 * sum(not launch.fused for launch in plan.launches) > 0
    assert compare(answer, *batch).wrong == ()
    assert all((around() == 77).all() for _, around in buffers.values())
    assert all((around() == value).all() or around().isnan().all() for value, (_, around) in scratch)


def test_a_side_beyond_the_longest_tile_names_the_pair_and_the_mend():
    sides = Spans(*(torch.tensor([value], dtype=torch.int32) for value in (0, 513, 513, 2)))
    with pytest.raises(ValueError, match=r"pair 0 has a side of 513 tokens, the triton backend takes 512; .*'torch'"):
        align(torch.zeros(515, 2, device=DEVICE), sides, backend="triton")


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=str)
def test_labels_are_those_of_the_batched_backend(settings, correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=21, pairs=60))
    triton, batched = by_triton(batch, settings), align(*batch, settings, backend="torch")
    other_T = triton.partner_T != batched.partner_T
    other_B = torch.tensor([bool(other_T[s : t + n].any()) for s, _, t, n in zip(*batch[1], strict=True)])
    assert other_B.sum() <= 1


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 512), st.integers(0, 512)), max_size=40))
def test_every_filled_pair_is_in_one_launch_that_its_own_lengths_choose(lengths):
    length_S = torch.tensor(lengths, dtype=torch.int32).view(-1, 2).flatten()
    start_S = length_S.cumsum(0).int() - length_S
    spans = Spans(start_S[0::2], length_S[0::2], start_S[1::2], length_S[1::2])
    plan = tiles.Plan.of(spans.checked(int(length_S.sum())), torch.device("cpu"))
    assert plan.pairs == len(lengths)
    seen = []
    for launch in plan.launches:
        assert launch.first == len(seen)
        for column in range(launch.first, launch.first + launch.pairs):
            pair, source, rows, target, columns = plan.vectors_5B[:, column].tolist()
            assert (source, rows) == (spans.source_start_B[pair], lengths[pair][0])
            assert (target, columns) == (spans.target_start_B[pair], lengths[pair][1])
            tile = next((side for side in (32, 64, 128) if max(rows, columns) <= side), None)
            assert launch.fused == (tile is not None)
            if launch.fused:
                assert launch.rows == launch.columns == tile
            else:
                assert rows <= launch.rows <= 512
                assert columns <= launch.columns <= 512
            seen.append(pair)
    assert sorted(seen) == [pair for pair, sides in enumerate(lengths) if min(sides) > 0]


def test_a_batch_of_real_lengths_is_four_launches_with_the_longest_pairs_first():
    generator = torch.Generator().manual_seed(2)
    length_2B = torch.exp(3.1 + 0.6 * torch.randn(2, 2048, generator=generator)).long().clamp(1, 254)
    start_S = length_2B.flatten().cumsum(0) - length_2B.flatten()
    spans = Spans(start_S[:2048], length_2B[0], start_S[2048:], length_2B[1])
    plan = tiles.Plan.of(spans.checked(int(length_2B.sum())), torch.device("cpu"))
    assert [launch.fused for launch in plan.launches] == [False, True, True, True]
    assert [launch.rows for launch in plan.launches[1:]] == [128, 64, 32]
    for launch in plan.launches:
        tokens_B = plan.vectors_5B[[2, 4], launch.first : launch.first + launch.pairs].sum(dim=0)
        assert torch.equal(tokens_B, tokens_B.sort(descending=True).values)


def test_long_pairs_are_launched_in_parts_that_the_scratch_holds(monkeypatch):
    monkeypatch.setattr(tiles, "LARGEST_SCRATCH", 3 * 200 * 10)
    start_B = torch.arange(7, dtype=torch.int32) * 210
    spans = Spans(start_B, torch.full((7,), 200), start_B + 200, torch.full((7,), 10))
    launches = tiles.Plan.of(spans.checked(1470), torch.device("cpu")).launches
    assert [(launch.first, launch.pairs) for launch in launches] == [(0, 3), (3, 3), (6, 1)]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_gpu_s_approximate_functions_change_links_in_ties_only(settings, correlated_pairs, lay_out):
    if DEVICE == "cuda":
        pytest.skip("the GPU has its own")
    from tests.tools.special_functions import approximated

    batch = lay_out(correlated_pairs(seed=31, pairs=20) + long_pairs()[4:])
    with approximated():
        approximate = by_triton(batch, settings)
    assert not torch.equal(approximate.score_T, by_triton(batch, settings).score_T)
    assert compare(approximate, *batch, settings).wrong == ()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e8])
@pytest.mark.parametrize("cost", ["clip", "exp"])
def test_potentials_by_products_and_by_logarithms_give_the_same_plan(cost, scale, with_similarity, lay_out):
    # Of these scales the largest is beyond what products can hold, with either cost.
    similarity_MN = torch.rand(20, 17, generator=torch.Generator().manual_seed(1)) * scale
    similarity_MN[3, 4] = 3e3 * scale
    batch, settings = lay_out([with_similarity(similarity_MN)]), AlignmentSettings(cost=cost, sinkhorn_iterations=4)
    assert compare(by_triton(batch, settings), *batch, settings).wrong == ()


def test_warming_up_runs_every_kernel_that_a_batch_may_need(monkeypatch):
    run = []
    monkeypatch.setattr(gpu_launch, "_launch_fused", lambda answer, hidden, plan, launch, *_: run.append(launch.rows))
    monkeypatch.setattr(
        gpu_launch, "_launch_streamed", lambda answer, hidden, plan, launch, *_: run.append(launch.rows)
    )
    gpu_launch.warm_up(64, torch.float16, torch.device(DEVICE), AlignmentSettings())
    assert run == [129, 128, 64, 32]
