"""The public call: what it refuses, in which words, and its convenience for aligners."""

import random
import sys
from collections import Counter
from contextlib import nullcontext
from itertools import accumulate

import pytest
import torch

from sinkhorn_align import AlignmentSettings, Spans, align


def spans(*values: list[int]) -> Spans:
    return Spans(*(torch.tensor(value, dtype=torch.int32) for value in values))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cost", "sinkhorn"),
        ("similarity", "euclid"),
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("sinkhorn_iterations", -1),
        ("filter_rounds", -1),
        ("discount", 0.0),
        ("discount", 1.5),
    ],
)
def test_settings_out_of_range_name_the_field_and_the_value(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value!r}"):
        AlignmentSettings(**{"cost": "exp", field: value})


@pytest.mark.parametrize(("field", "value"), [("similarity", "cosine"), ("temperature", 0.1)])
def test_settings_without_effect_on_clip_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value!r}, .*cost=clip"):
        AlignmentSettings(**{field: value})


def test_triton_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="'triton' needs a CUDA device and hidden_TD is on cpu; use 'auto' or 'torch'"):
        align(torch.zeros(4, 2), spans([0], [2], [2], [2]), backend="triton")


def test_triton_is_refused_where_it_is_not_installed(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, "sinkhorn_align.gpu.launch", raising=False)
    for module in ("fused", "streamed", "similarity", "arithmetic"):
        monkeypatch.delitem(sys.modules, f"sinkhorn_align.gpu.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(ValueError, match="needs the package triton; install it, or use backend='torch'"):
        align(torch.zeros(4, 2), spans([0], [2], [2], [2]), backend="triton")


def test_unknown_backend_names_those_that_exist():
    with pytest.raises(ValueError, match="backend is 'cuda', it must be one of auto, native, torch, reference, triton"):
        align(torch.zeros(4, 2), spans([0], [2], [2], [2]), backend="cuda")


def test_hidden_states_that_are_not_flat_are_refused():
    with pytest.raises(ValueError, match=r"hidden_TD is torch.float32 \[1, 4, 2\]"):
        align(torch.zeros(1, 4, 2), spans([0], [2], [2], [2]))


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        (([0], [2], [2], [3]), r"the target of pair 0 \(start 2, length 3\) is outside the 4 tokens"),
        (([-1], [2], [2], [2]), r"the source of pair 0 \(start -1, length 2\) is outside"),
        (([0, 2], [2, 1], [2, 3], [1, 1]), r"the (source|target) of pair [01] .* and .* share tokens"),
        (([0, 1], [2], [2], [2]), r"source_length_B is torch.int32 \[1\], it must be int32 \[2\]"),
    ],
)
def test_sides_that_do_not_fit_are_named(sides, message):
    with pytest.raises(ValueError, match=message):
        align(torch.zeros(4, 2), spans(*sides))


def test_sides_are_refused_where_one_leaves_the_tokens_or_two_share_one():
    drawn = random.Random(5)
    verdicts = []
    for number in range(600):
        sides = [(drawn.randint(-1, 9), drawn.randint(-1, 4)) for _ in range(2 * drawn.randint(0, 2))]
        if number % 2:  # one after the other, as pretraining's lie
            places = accumulate((abs(start) % 2 + length for start, length in sides), initial=0)
            sides = [(place, length) for place, (_, length) in zip(places, sides, strict=False)]
        inside = all(start >= 0 and length >= 0 and start + length <= 10 for start, length in sides)
        held = Counter(token for start, length in sides for token in range(start, start + length))
        verdicts.append((number % 2, inside and max(held.values(), default=1) == 1))
        given = spans(*([side[part] for side in sides[which::2]] for which in (0, 1) for part in (0, 1)))
        with nullcontext() if verdicts[-1][1] else pytest.raises(ValueError, match=r"is outside|share tokens"):
            assert torch.equal(torch.stack(given.checked(10)), torch.stack(given).long())
    assert min(Counter(verdicts).values()) > 50 and len(set(verdicts)) == 4


def test_index_vectors_must_be_integers():
    start, *others = spans([0], [2], [2], [2])
    with pytest.raises(ValueError, match=r"source_start_B is torch.float32"):
        align(torch.zeros(4, 2), Spans(start.float(), *others))


def test_local_gives_every_link_of_every_pair_in_order():
    # Pair 0 lies behind pair 1 and its target before its source: nothing may depend on the layout.
    identity = torch.eye(3)
    hidden_TD = torch.cat([identity.flip(0), identity, torch.zeros(1, 3), identity, identity, torch.zeros(2, 3)])
    sides = spans([10, 0, 6], [3, 3, 1], [7, 3, 13], [3, 3, 0])
    links = align(hidden_TD, sides)
    assert links.local(sides).tolist() == [[0, 0, 0], [0, 1, 1], [0, 2, 2], [1, 0, 2], [1, 1, 1], [1, 2, 0]]


def test_no_gradient_flows_through_links():
    hidden_TD = torch.eye(4, requires_grad=True)
    assert not align(hidden_TD, spans([0], [2], [2], [2])).score_T.requires_grad


@pytest.mark.parametrize("backend", ["auto", "native", "torch", "reference"])
@pytest.mark.parametrize(("start", "length"), [(1, 2**63 - 1), (2**63 - 1, 1), (2**62, 2**62), (2**63 - 1, 2**63 - 1)])
def test_a_side_whose_end_is_beyond_the_integers_is_outside(start, length, backend):
    sides = Spans(*(torch.tensor([number]) for number in (start, length, 0, 1)))
    for swapped in (sides, Spans(*sides[2:], *sides[:2])):
        with pytest.raises(ValueError, match="is outside the 4 tokens"):
            align(torch.zeros(4, 2), swapped, backend=backend)


@pytest.mark.parametrize("backend", ["auto", "native", "torch", "reference"])
def test_states_without_numbers_are_refused(backend):
    with pytest.raises(ValueError, match=r"hidden_TD is \[4, 0\]: its states have no numbers, D must be 1 or more"):
        align(torch.zeros(4, 0), spans([0], [2], [2], [2]), backend=backend)
