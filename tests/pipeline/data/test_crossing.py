"""Every token of a target may look at all tokens of its own source, and at no other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.crossing import Crossing, cross
from pipeline.data.packing import Packed, pack
from tests.pipeline.data.text_to_text_kit import tensors


def packed_of(lengths: list[int], first: int = 4) -> Packed:
    """Sequences of these lengths whose ids are all different."""
    ends = np.cumsum(lengths) + first
    return pack([np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)])


def read_by_groups(crossing: Crossing, source: Packed, target: Packed) -> dict[int, set[int]]:
    """For each of the targets' tokens the sources' ids that it may look at, by the groups."""
    found = {}
    assert len(crossing.groups) == len(target.groups)
    for of_target, of_source in zip(target.groups, crossing.groups, strict=True):
        ids_GL = source.ids_T[of_source.index_GL]
        real_GL = torch.ones_like(ids_GL, dtype=torch.bool)
        if of_source.mask_G11L is not None:
            real_GL = of_source.mask_G11L[:, 0, 0]
            assert not real_GL.all(), "a mask that hides nothing is none"
        for tokens, ids, real in zip(of_target.index_GL.tolist(), ids_GL, real_GL, strict=True):
            assert len(set(ids[real].tolist())) == int(real.sum())
            found |= {token: set(ids[real].tolist()) for token in tokens}
    return found


def read_by_bounds(crossing: Crossing, source: Packed, target: Packed) -> dict[int, set[int]]:
    """The same by the flat layout."""
    ids_U = source.ids_T if crossing.index_U is None else source.ids_T[crossing.index_U]
    assert len(ids_U) == crossing.bounds_R1[-1] and crossing.bounds_R1.dtype == torch.int32
    found = {}
    for number, (begin, end) in enumerate(zip(crossing.bounds_R1[:-1], crossing.bounds_R1[1:], strict=True)):
        tokens = range(*target.offsets_S1[number : number + 2])
        found |= {token: set(ids_U[begin:end].tolist()) for token in tokens}
    return found


@given(
    sources=st.lists(st.integers(1, 70), min_size=1, max_size=8),
    targets=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 7)), min_size=1, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_every_token_reads_its_own_source_whole(sources: list[int], targets: list[tuple[int, int]]) -> None:
    owner_R = np.array([owner % len(sources) for _, owner in targets])
    source, target = packed_of(sources), packed_of([length for length, _ in targets])
    crossing = cross(source, target, owner_R)
    ids = [set(part.tolist()) for part in source.ids_T.split(sources)]
    owner_T = np.repeat(owner_R, target.sequence_lengths)
    expected = {token: ids[owner] for token, owner in enumerate(owner_T.tolist())}
    assert read_by_groups(crossing, source, target) == read_by_bounds(crossing, source, target) == expected
    assert crossing.longest == max(sources[owner] for owner in owner_R)
    assert crossing.owner_R.tolist() == owner_R.tolist()


def test_sources_that_lie_as_they_are_read_are_not_gathered() -> None:
    source, target = packed_of([3, 9, 4]), packed_of([2, 2, 5])
    assert cross(source, target, np.arange(3)).index_U is None
    for owner_R in ([0, 2, 1], [0, 0, 1], [0, 1, 1]):
        assert cross(source, target, np.array(owner_R)).index_U is not None
    assert cross(source, packed_of([2, 2]), np.arange(2)).index_U is not None, "one is read by nobody"


def test_a_move_takes_all_tensors_along() -> None:
    crossing = cross(packed_of([3, 40]), packed_of([2, 2, 30]), np.array([1, 0, 0]))
    moved = crossing.map(lambda tensor: tensor.to("meta"))
    assert len(tensors(moved)) == len(tensors(crossing)) > 3
    assert all(tensor.device == torch.device("meta") for tensor in tensors(moved))


def test_every_target_needs_a_source() -> None:
    with pytest.raises(AssertionError, match="every target has a source"):
        cross(packed_of([3]), packed_of([2, 2]), np.array([0]))
