"""Words to word links, with a tokenizer and an encoder small enough to know every answer."""

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_prep.tokenizers.template import XLM_R
from pipeline.align import word_alignment
from pipeline.align.windows import Side, cut_into_parts
from pipeline.align.word_alignment import AlignmentReport, WordAligner
from pipeline.data.packing import Packed
from pipeline.settings.align_options import Way
from sinkhorn_align import AlignmentSettings

CHARACTERS = "abcdefghijklmnopqrstuvwxyz"
SETTINGS = AlignmentSettings(sinkhorn_iterations=0, filter_rounds=1)
WAY = Way(settings=SETTINGS)


class Letters:
    """Every letter is a token; its id follows from the letter, upper and lower case alike."""

    template = XLM_R

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        ids = [4 + CHARACTERS.index(letter.lower()) for word in words for letter in word]
        return ids, [index for index, word in enumerate(words) for _ in word]


class OneHot:
    """Layer 0 links equal letters; layer 1 links each letter to the next in the alphabet. Remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[Packed] = []

    def __call__(self, packed: Packed) -> list[torch.Tensor]:
        self.batches.append(packed)
        same_TD = torch.eye(40)[packed.ids_T]
        # The second half of the sequence is shifted: the target follows the first </s>.
        shifted_TD = same_TD.clone()
        for begin, end in zip(packed.offsets_S1[:-1], packed.offsets_S1[1:], strict=True):
            border = begin + int(np.flatnonzero(packed.ids_T[begin:end].numpy() == 2)[0])
            shifted_TD[border:end] = torch.eye(40)[packed.ids_T[border:end] - 1]
        return [same_TD, shifted_TD]


def test_pairs_are_packed_as_pretraining_packs_them():
    encoder = OneHot()
    list(WordAligner(Letters(), encoder, WAY).align([(["ab", "c"], ["d"])]))
    assert encoder.batches[0].ids_T.tolist() == [0, 4, 5, 6, 2, 7, 2]
    assert encoder.batches[0].positions_T.tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_word_links_are_the_union_over_subwords_in_order_for_every_layer():
    # Subwords: "xy" and "ab" are parts of both words on the other side.
    source, target = ["xa", "yb", "c"], ["C", "AB", "XY"]
    same, shifted = next(WordAligner(Letters(), OneHot(), WAY).align([(source, target)]))
    assert same == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 0)]
    assert shifted == [(0, 1), (0, 2), (1, 0)]


def permuted_pairs() -> tuple[list[tuple[list[str], list[str]]], list[list[tuple[int, int]]]]:
    """Sixty pairs of the same letters in other orders, and their links."""
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(60):
        letters = generator.permutation(list(CHARACTERS))[: generator.integers(3, 20)]
        pairs.append((letters.tolist(), generator.permutation(letters).tolist()))
    return pairs, [sorted((i, target.index(letter)) for i, letter in enumerate(source)) for source, target in pairs]


def test_every_pair_keeps_its_place_whatever_the_batches(monkeypatch):
    pairs, expected = permuted_pairs()
    monkeypatch.setattr(word_alignment, "FIRST_AHEAD", 100)
    whole = OneHot()
    assert [layers[0] for layers in WordAligner(Letters(), whole, WAY).align(iter(pairs))] == expected
    assert len(whole.batches) == 1
    monkeypatch.setattr(word_alignment, "READ_AHEAD", 7)
    cut = OneHot()
    aligner = WordAligner(Letters(), cut, WAY, batch_tokens=50)
    assert [layers[0] for layers in aligner.align(pairs)] == expected
    assert aligner.report.pairs == 60
    assert all(packed.tokens <= 50 for packed in cut.batches)
    assert len(cut.batches) > 20


def test_batches_side_by_side_give_the_same_links_in_the_same_places(monkeypatch):
    pairs, expected = permuted_pairs()
    for number in (17, 41):
        pairs[number], expected[number] = ([], ["a"]), []
    monkeypatch.setattr(word_alignment, "READ_AHEAD", 20)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    together = threading.Barrier(2)

    def encoder(packed: Packed) -> list[torch.Tensor]:
        assert not torch.is_grad_enabled()
        together.wait(timeout=60)  # breaks unless two batches are under way
        return OneHot()(packed)

    aligner = WordAligner(Letters(), encoder, WAY, batch_tokens=1, side_by_side=True)  # a batch is a pair
    assert [layers[0] for layers in aligner.align(pairs)] == expected
    assert aligner.report == AlignmentReport(pairs=60, empty_pairs=2)


@pytest.mark.parametrize(("pairs", "batches"), [(1, 1), (13, 1), (15, 2), (30, 3), (100, 3), (110, 6)])
def test_every_worker_has_a_batch_where_it_is_worth_it_and_batches_are_alike(monkeypatch, pairs, batches):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(word_alignment, "LEAST_BATCH_TOKENS", 80)
    monkeypatch.setattr(word_alignment, "FIRST_AHEAD", 200)
    encoder = OneHot()
    aligner = WordAligner(Letters(), encoder, WAY, batch_tokens=412, side_by_side=True)
    list(aligner.align([(["abcd"], ["dcba"])] * pairs))  # 12 tokens a pair, of which four are special ones at most
    assert len(encoder.batches) == batches
    sizes = [len(packed.offsets_S1) - 1 for packed in encoder.batches]
    assert sum(sizes) == pairs and max(sizes) - min(sizes) <= 1


def test_few_pairs_are_read_before_the_first_links_and_more_each_time():
    read = 0

    def pairs():
        nonlocal read
        for _ in range(5000):
            read += 1
            yield ["a"], ["a"]

    ahead = [read - done for done, _ in enumerate(WordAligner(Letters(), OneHot(), WAY).align(pairs()))]
    assert ahead[0] == 32 + 64, "the second lot is under way when the first comes out"
    assert max(ahead) == 2 * word_alignment.READ_AHEAD


def test_what_has_come_is_aligned_without_waiting_for_more():
    events = []

    def pairs():
        for letter in ("a", None, "b", "c", None, None):
            events.append(letter)
            yield letter and ([letter], [letter])

    for links in WordAligner(Letters(), OneHot(), WAY).align(pairs()):
        events.append(links[0])
    assert events == ["a", None, [(0, 0)], "b", "c", None, [(0, 0)], [(0, 0)], None]


def test_invisible_characters_are_not_shown_to_the_model():
    encoder = OneHot()
    next(WordAligner(Letters(), encoder, WAY).align([(["\ufeffa\u00adb", "\u202bc\u202c"], ["c"])]))
    assert encoder.batches[0].ids_T.tolist() == [0, 4, 5, 6, 2, 6, 2]


def test_empty_sides_have_no_links_keep_their_line_and_are_counted():
    aligner = WordAligner(Letters(), OneHot(), WAY)
    pairs = [([], ["a"]), (["a", "b"], ["b"]), (["a"], []), ([], [])]
    links = list(aligner.align(pairs))
    assert links == [[[], []], [[(1, 0)], [(0, 0)]], [[], []], [[], []]]
    assert (aligner.report.pairs, aligner.report.empty_pairs) == (4, 3)


def test_no_pairs_give_nothing():
    assert list(WordAligner(Letters(), OneHot(), WAY).align([])) == []


def test_long_pairs_are_aligned_by_windows_and_counted():
    letters = list(CHARACTERS)
    encoder = OneHot()
    aligner = WordAligner(Letters(), encoder, WAY, longest_side=10)
    pairs = [(letters, letters), (letters, letters[:8]), (letters[:8], letters), (letters[:10], letters[:10])]
    links = [layers[0] for layers in aligner.align(pairs)]
    same = [(i, i) for i in range(26)]
    assert links == [same, same[:8], same[:8], same[:10]], "no link is lost or made twice"
    assert (aligner.report.long_pairs, aligner.report.windows) == (3, 3 * 5)
    lengths = {len for packed in encoder.batches for len in np.diff(packed.offsets_S1).tolist()}
    assert lengths == {10 + 10 + 3, 10 + 8 + 3}


def test_windows_may_be_smaller_than_the_longest_side():
    letters = list(CHARACTERS)
    encoder = OneHot()
    aligner = WordAligner(Letters(), encoder, WAY, longest_side=20, window=6)
    long, short = (layers[0] for layers in aligner.align([(letters, letters), (letters[:20], letters[:20])]))
    assert long == [(i, i) for i in range(26)] and short == long[:20]
    assert aligner.report.long_pairs == 1
    assert {6 + 6 + 3, 20 + 20 + 3} == {n for packed in encoder.batches for n in np.diff(packed.offsets_S1).tolist()}


def test_a_word_longer_than_a_window_keeps_its_links():
    aligner = WordAligner(Letters(), OneHot(), WAY, longest_side=4)
    assert next(aligner.align([(["abcdefghi", "z"], ["hi", "a", "z"])]))[0] == [(0, 0), (0, 1), (1, 2)]


@pytest.mark.parametrize(("source", "target"), [(7, 7), (60, 13), (13, 60), (200, 1), (1, 200), (57, 200)])
def test_every_token_of_the_longer_side_is_owned_by_one_window(source, target):
    sides = [Side(list(range(length)), list(range(length))) for length in (source, target)]
    owned, seen = [], set()
    for part in cut_into_parts(0, *sides, longest_side=6, window=6):
        side, range_ = (part.source, part.owned_source) if part.owned_source else (part.target, part.owned_target)
        owned += [side.ids[at] for at in range(*range_)]
        seen |= set(part.source.ids if side is part.target else part.target.ids)
        assert max(len(part.source), len(part.target)) <= 6
    assert owned == list(range(max(source, target)))
    assert seen == set(range(min(source, target))), "the shorter side is seen whole"


def test_sides_encoded_apart_are_sequences_of_their_own():
    encoder = OneHot()
    aligner = WordAligner(Letters(), encoder, replace(WAY, encoding="separate"))
    (links,) = ([layers[0] for layers in aligner.align([(["ab", "c"], ["c"])])],)
    assert encoder.batches[0].ids_T.tolist() == [0, 4, 5, 6, 2, 0, 6, 2]
    assert links == [[(1, 0)]]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"way": Way(method="best")}, "method 'best': choose ot-filter, ot, argmax, itermax, match, softmax"),
        ({"window": 0}, "window 0: it must have at least 1 token"),
        ({"way": Way(encoding="both")}, "encoding 'both': choose joint or separate"),
        ({"way": Way("ot", settings=SETTINGS)}, "only ot-filter takes others"),
    ],
)
def test_unknown_choices_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        WordAligner(Letters(), OneHot(), **choice)


def test_what_is_wrong_with_a_pair_is_raised_after_all_pairs_before_it(monkeypatch):
    monkeypatch.setattr(word_alignment, "READ_AHEAD", 3)

    def pairs():
        for _ in range(4):
            yield ["a"], ["a"]
        raise ValueError("line 5")

    links = []
    with pytest.raises(ValueError, match="line 5"):
        links.extend(WordAligner(Letters(), OneHot(), WAY).align(pairs()))
    assert len(links) == 4


def test_a_word_link_has_the_largest_score_of_its_subwords():
    def encoder(packed: Packed) -> list[torch.Tensor]:
        turned_TD = torch.eye(40)[packed.ids_T]
        turned_TD[-2, 0] = 1.0  # the last letter of the target is at 45 degrees to that of the source
        return [turned_TD]

    aligner = WordAligner(Letters(), encoder, WAY)
    ((links,),) = aligner.links_by_layer([(["ab", "c"], ["ab", "c"])], scored=True)
    assert links == pytest.approx({(0, 0): 1.0, (1, 1): 0.5**0.5})


def test_non_finite_hidden_states_are_counted_once_a_pair():
    def poisoned(packed: Packed) -> list[torch.Tensor]:
        same_TD, shifted_TD = OneHot()(packed)
        return [same_TD, shifted_TD * float("nan"), shifted_TD * float("inf")]

    aligner = WordAligner(Letters(), poisoned, WAY)
    assert list(aligner.align([(["a"], ["a"]), (["b"], [])])) == [[[(0, 0)], [], []], [[], [], []]]
    assert aligner.report.non_finite_pairs == 1


def test_hidden_states_are_asked_for_without_gradients():
    grad_modes = []

    def encoder(packed: Packed) -> list[torch.Tensor]:
        grad_modes.append(torch.is_grad_enabled())
        return OneHot()(packed)

    list(WordAligner(Letters(), encoder, WAY).align([(["a"], ["a"])]))
    assert grad_modes == [False]


@pytest.mark.shared
def test_words_of_the_real_vocabulary_align_to_themselves(shared_dir):
    from data_prep.tokenizers.tokenizer import Tokenizer

    model = shared_dir / "data" / "xlmr_tokenizer" / "sentencepiece.bpe.model"
    tokenizer = Tokenizer(model.read_bytes())
    source = ["Die", "Katze", "saß", "gestern", "auf", "der", "Donaudampfschifffahrtsgesellschaft", "."]
    target = list(reversed(source))
    vectors_VD = torch.randn(tokenizer.vocab_size, 64, generator=torch.Generator().manual_seed(0))

    aligner = WordAligner(tokenizer, lambda packed: [vectors_VD[packed.ids_T]], WAY)
    (links,) = next(aligner.align([(source, target)]))
    assert links == [(i, len(source) - 1 - i) for i in range(len(source))]
