"""Which tokens are predicted and what stands in their place (BERT's 15 % / 80-10-10), as a function of the sample's key.

Knows token ids only; the same sample gets the same mask on any rank, worker or world size.
"""

from __future__ import annotations

import numpy as np

from data_prep.tokenizers.special_ids import UNK
from pipeline.data.assembly import FIRST_POSITION
from pipeline.data.counter_random import MASK, hash_key, integers, uniform
from pipeline.data.streams import Sequences

FIRST_ORDINARY_ID = UNK + 1
MASK_RATE = 0.15
MASK_TOKEN_SHARE, RANDOM_TOKEN_SHARE = 0.8, 0.1  # the rest stays as it is


def mask_sequences(sequences: Sequences, mask_seed: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(masked_ids_T int64, predicted_P int64) of sequences, whose keys and places alone decide; see `mask_tokens`."""
    return mask_by_keys(sequences, hash_key(mask_seed, MASK, sequences.key_S), vocab_size)


def mask_by_keys(sequences: Sequences, key_S: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by keys (uint64, one a sequence) that were made for masks."""
    return mask_tokens(sequences.ids_T, *places(sequences, key_S), vocab_size)


def places(sequences: Sequences, key_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(position_T int64, key_T uint64): each token's place in its sequence, and its sequence's key."""
    lengths_S = sequences.lengths_S
    first_S = np.cumsum(lengths_S) - lengths_S
    position_T = np.arange(lengths_S.sum()) - np.repeat(first_S, lengths_S) + FIRST_POSITION
    return position_T, np.repeat(key_S, lengths_S)


def mask_tokens(
    ids_T: np.ndarray, position_T: np.ndarray, key_T: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mask a packed batch.

    ids_T: int64 token ids; position_T: place of each token in its sequence; key_T: uint64 key of each token's sequence
    (a hash of seed, epoch and sample index); the last id of the vocabulary is <mask>.
    Returns (masked_ids_T int64, predicted_P int64: indices into T of the tokens to predict, ascending).
    """
    mask_id = vocab_size - 1
    predicted_P = choose_tokens(ids_T, position_T, key_T, vocab_size)
    key_P, position_P = key_T[predicted_P], position_T[predicted_P]

    fate_P = uniform(hash_key(key_P, position_P, 1))
    random_P = integers(hash_key(key_P, position_P, 2), FIRST_ORDINARY_ID, mask_id)
    kept_P = ids_T[predicted_P]
    masked_T = ids_T.copy()
    masked_T[predicted_P] = np.where(
        fate_P < MASK_TOKEN_SHARE, mask_id, np.where(fate_P < MASK_TOKEN_SHARE + RANDOM_TOKEN_SHARE, random_P, kept_P)
    )
    return masked_T, predicted_P


def choose_tokens(ids_T: np.ndarray, position_T: np.ndarray, key_T: np.ndarray, vocab_size: int) -> np.ndarray:
    """The tokens to predict: int64 indices into T, ascending; about 15 % of those that are no special ones."""
    ordinary_T = (ids_T >= FIRST_ORDINARY_ID) & (ids_T < vocab_size - 1)
    return np.flatnonzero(ordinary_T & (uniform(hash_key(key_T, position_T, 0)) < MASK_RATE))
