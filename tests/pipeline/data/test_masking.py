"""15 % of ordinary tokens, of these 80 / 10 / 10; never a special token; a function of the sample's key alone."""

from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.batch import View
from pipeline.data.counter_random import hash_key
from pipeline.data.streams import Sequences
from pipeline.data.views.collate import collate
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.data.views.masking import FIRST_ORDINARY_ID, mask_tokens
from pipeline.settings.added_words import AddedWords

VOCAB_SIZE = 1000
MASK = VOCAB_SIZE - 1
TOKENS = 1_000_000


@pytest.fixture(scope="module")
def masked() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids_T, masked_ids_T, predicted_P) of a thousand sequences of a thousand ordinary tokens."""
    ids_T = np.random.default_rng(0).integers(FIRST_ORDINARY_ID, MASK, TOKENS)
    key_T, position_T = np.repeat(hash_key(1, np.arange(1000)), 1000), np.tile(np.arange(2, 1002), 1000)
    return ids_T, *mask_tokens(ids_T, position_T, key_T, VOCAB_SIZE)


def assert_share(hits: int, trials: int, share: float) -> None:
    assert abs(hits - trials * share) < 3 * sqrt(trials * share * (1 - share)), f"{hits / trials} is not {share}"


def test_fifteen_percent_are_predicted(masked: tuple) -> None:
    ids_T, _, predicted_P = masked
    assert_share(len(predicted_P), len(ids_T), 0.15)
    assert (np.diff(predicted_P) > 0).all()


def test_eighty_percent_of_these_become_the_mask(masked: tuple) -> None:
    _, masked_ids_T, predicted_P = masked
    assert_share(int((masked_ids_T[predicted_P] == MASK).sum()), len(predicted_P), 0.8)


def test_ten_percent_become_random_and_ten_percent_stay(masked: tuple) -> None:
    ids_T, masked_ids_T, predicted_P = masked
    now_P, was_P = masked_ids_T[predicted_P], ids_T[predicted_P]
    same_by_chance = 0.1 / (MASK - FIRST_ORDINARY_ID)
    assert_share(int((now_P == was_P).sum()), len(now_P), 0.1 + same_by_chance)
    assert_share(int(((now_P != was_P) & (now_P != MASK)).sum()), len(now_P), 0.1 - same_by_chance)


def test_random_tokens_are_drawn_evenly_from_all_ordinary_ones(masked: tuple) -> None:
    ids_T, masked_ids_T, predicted_P = masked
    now_P = masked_ids_T[predicted_P]
    drawn = now_P[(now_P != ids_T[predicted_P]) & (now_P != MASK)]
    counts = np.bincount(drawn, minlength=MASK)[FIRST_ORDINARY_ID:]
    expected = len(drawn) / len(counts)
    assert drawn.min() >= FIRST_ORDINARY_ID
    assert ((counts - expected) ** 2 / expected).sum() < len(counts) + 4 * sqrt(2 * len(counts))  # chi-square


def test_what_is_not_predicted_is_not_touched(masked: tuple) -> None:
    ids_T, masked_ids_T, predicted_P = masked
    untouched = np.ones(len(ids_T), dtype=bool)
    untouched[predicted_P] = False
    assert np.array_equal(ids_T[untouched], masked_ids_T[untouched])


def test_input_is_left_alone() -> None:
    ids_T = np.full(1000, 5)
    mask_tokens(ids_T, np.arange(1000), hash_key(1, np.zeros(1000, dtype=int)), VOCAB_SIZE)
    assert (ids_T == 5).all()


@given(ids=st.lists(st.sampled_from([0, 1, 2, 3, 4, MASK - 1, MASK]), min_size=1, max_size=300), key=st.integers(0))
@settings(max_examples=100, deadline=None)
def test_special_tokens_are_never_masked_nor_drawn(ids: list[int], key: int) -> None:
    ids_T = np.array(ids)
    key_T = np.repeat(hash_key(key % 2**63), len(ids))
    masked_T, predicted_P = mask_tokens(ids_T, np.arange(len(ids)), key_T, VOCAB_SIZE)
    special_T = (ids_T < FIRST_ORDINARY_ID) | (ids_T == MASK)
    assert not special_T[predicted_P].any()
    assert np.array_equal(masked_T[special_T], ids_T[special_T])
    assert not np.isin(masked_T[predicted_P], [0, 1, 2, 3]).any()


def test_smallest_vocabulary_has_one_id_to_draw() -> None:
    ids_T = np.full(10_000, 4)
    masked_T, _ = mask_tokens(ids_T, np.arange(10_000), hash_key(np.arange(10_000)), 6)
    assert set(masked_T.tolist()) == {4, 5}


def masks_by_sample(sequences: Sequences, order: list[int], seed: int = 1) -> dict[int, list[int]]:
    """Masked ids of each sample when only these, in this order, are in the batch."""
    batch = collate(
        Sequences(
            np.concatenate([sequences.ids[i] for i in order]),
            sequences.lengths_S[order],
            sequences.language_S[order],
            sequences.key_S[order],
            sequences.sample_S[order],
        ),
        seed,
        AddedWords(64),
        [View("mono", MaskedTokens.name)],
    )
    bounds, masked = batch.clean.offsets_S1, batch.view(MaskedTokens).packed
    return {i: masked.ids_T[bounds[n] : bounds[n + 1]].tolist() for n, i in enumerate(order)}


def test_a_sample_gets_the_same_mask_however_its_batch_is_composed(make_sequences: Callable[..., Sequences]) -> None:
    sequences = make_sequences([30, 7, 55, 1, 30, 12])
    whole = masks_by_sample(sequences, [0, 1, 2, 3, 4, 5])
    assert masks_by_sample(sequences, [5, 3, 1]) == {i: whole[i] for i in (5, 3, 1)}
    assert masks_by_sample(sequences, [4]) == {4: whole[4]}


def test_other_seeds_and_other_keys_give_other_masks(make_sequences: Callable[..., Sequences]) -> None:
    sequences = make_sequences([60, 60])
    sequences.ids[1][:] = sequences.ids[0]
    masks = masks_by_sample(sequences, [0, 1])
    assert masks[0] != masks[1]
    assert masks_by_sample(sequences, [0, 1], seed=2) != masks
