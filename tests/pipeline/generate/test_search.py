"""The search, which is Hugging Face's, against all that could be written."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
from transformers import EncoderDecoderModel

from pipeline.generate.search import NEVER, Search, Words, search
from tests.pipeline.generation_kit import module

VOCABULARY = 8
PIECES = (3, 4, 5, 6)
"""That may be written, beside `</s>`: five words."""
PADDING, END = 1, 2
ROWS = [[0, 4, 2], [0, 3, 6, 5, 2], [0, 5, 5, 5, 4, 3, 2]]
STARTS = [0, 7, 0]
MOST = 3


@pytest.fixture(scope="module")
def model() -> EncoderDecoderModel:
    return module(VOCABULARY, seed=11, width=16, spread=0.5)


@pytest.fixture
def words() -> Words:
    allowed_V = torch.zeros(VOCABULARY, dtype=torch.bool)
    allowed_V[[*PIECES, END]] = True
    return Words(PADDING, END, allowed_V)


def everything(model: EncoderDecoderModel, row: list[int], start: int, penalty: float) -> dict[tuple[int, ...], float]:
    """The score of every text of at most `MOST` tokens, by the definition: one forward pass each, no cache, no padding."""
    texts = [(*body, END) for length in range(MOST) for body in product(PIECES, repeat=length)]
    texts += list(product(PIECES, repeat=MOST))
    scores = {}
    for ids in texts:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([[start, *ids[:-1]]])).logits[
                0
            ]
        chosen = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
        scores[tuple(i for i in ids if i != END)] = float(chosen.sum()) / len(ids) ** penalty
    return scores


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0])
def test_a_beam_that_holds_everything_finds_the_best_of_everything(
    model: EncoderDecoderModel, words: Words, penalty: float
) -> None:
    beam = len(PIECES) ** MOST
    found = search(model, ROWS, STARTS, Search(beam, penalty, n_best=4, max_tokens=MOST), words)
    for row, start, best in zip(ROWS, STARTS, found, strict=True):
        expected = sorted(everything(model, row, start, penalty).items(), key=lambda entry: -entry[1])[:4]
        assert [tuple(each.ids) for each in best] == [ids for ids, _ in expected]
        assert [each.score for each in best] == pytest.approx([score for _, score in expected], abs=1e-5)


def test_greedy_search_takes_the_most_likely_word_and_tells_its_score(model: EncoderDecoderModel, words: Words) -> None:
    found = search(model, ROWS, STARTS, Search(1, 1.0, max_tokens=6), words)
    for row, start, (best,) in zip(ROWS, STARTS, found, strict=True):
        ids, total = [start], 0.0
        while len(ids) <= 6 and ids[-1] != END:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row]), decoder_input_ids=torch.tensor([ids])).logits[0, -1]
            logp = logits.log_softmax(-1)
            word = max((*PIECES, END), key=lambda i: float(logp[i]))
            total += float(logp[word])
            ids.append(word)
        assert best.ids == [i for i in ids[1:] if i != END] and best.ended == (ids[-1] == END)
        assert best.score == pytest.approx(total / (len(ids) - 1), abs=1e-5)


def test_hypotheses_come_in_order_of_their_scores_and_none_is_made_up(model: EncoderDecoderModel, words: Words) -> None:
    words.allowed_V[list(PIECES[1:])] = False  # few texts are left, fewer than the beam has places
    found = search(model, ROWS, STARTS, Search(5, 1.0, n_best=5, max_tokens=2), words)
    for of_row in found:
        scores = [each.score for each in of_row]
        assert scores == sorted(scores, reverse=True) and min(scores) > NEVER
        texts = [tuple(each.ids) for each in of_row]
        assert len(set(texts)) == len(texts) and set(texts) <= {(), (3,), (3, 3)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"beam": 0}, "--beam 0: must be 1 (greedy) or more"),
        ({"beam": 2, "n_best": 3}, "--n-best 3: a beam of 2 has 1 to 2; give a wider --beam"),
        ({"max_tokens": 0}, "--max-tokens 0: must be 1 or more"),
    ],
)
def test_a_search_that_cannot_be_is_refused(arguments: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        Search(**arguments)  # type: ignore[arg-type]
