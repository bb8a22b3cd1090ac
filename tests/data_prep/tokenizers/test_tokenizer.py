"""Ids are SentencePiece's in XLM-R's layout; training is deterministic; a wrong model is refused."""

import io
import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.text.readers import open_text
from data_prep.tokenizers import tokenizer as tokenizer_module
from data_prep.tokenizers.special_ids import UNK
from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer, prepare, train

# What the corpora of ../shared do not have, so that every script of the vocabulary's main languages is seen.
OTHER_SCRIPTS = {
    "Ethiopic": "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርም እኩልነት ያለው ነው",
    "Sinhala": "සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත",
    "Lao": "ມະນຸດທຸກຄົນເກີດມາມີສິດເສລີພາບ",
    "Oriya": "ସବୁ ମନୁଷ୍ୟ ଜନ୍ମକାଳରୁ ସ୍ୱାଧୀନ",
    "Tibetan": "འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས",
    "Syriac": "ܟܠ ܒܪܢܫܐ ܒܪܝܠܗ ܚܐܪܐ",
    "Cherokee": "ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᏠᏱ",
}
REAL_TEXT = {
    "Latin": "mono_cc100style/vi.txt.xz",
    "Cyrillic": "mono_cc100style/ru.txt.xz",
    "Greek": "mono_cc100style/el.txt.xz",
    "Arabic": "mono_cc100style/ar.txt.xz",
    "Arabic (Persian)": "mono_cc100style/fa.txt.xz",
    "Han, simplified": "mono_cc100style/zh-Hans.txt.xz",
    "Han, traditional": "mono_cc100style/zh-Hant.txt.xz",
    "Kana": "mono_cc100style/ja.txt.xz",
    "Hangul": "mono_cc100style/ko.txt.xz",
    "Devanagari": "pud/pud.hi",
    "Thai": "pud/pud.th",
    "Gujarati": "bible_nt/bible.gu",
    "Hebrew": "django_po/django.en-he.he",
    "Armenian": "django_po/django.en-hy.hy",
    "Georgian": "django_po/django.en-ka.ka",
    "Khmer": "django_po/django.en-km.km",
    "Kannada": "django_po/django.en-kn.kn",
    "Malayalam": "django_po/django.en-ml.ml",
    "Myanmar": "django_po/django.en-my.my",
    "Gurmukhi": "django_po/django.en-pa.pa",
    "Tamil": "django_po/django.en-ta.ta",
    "Telugu": "django_po/django.en-te.te",
    "Bengali": "django_po/django.en-bn.bn",
    "Arabic (Uyghur)": "django_po/django.en-ug.ug",
    "Arabic (Urdu)": "django_po/django.en-ur.ur",
}


@pytest.fixture(scope="module")
def xlmr(xlmr_model: Path) -> Tokenizer:
    return Tokenizer(xlmr_model.read_bytes())


@pytest.fixture(scope="module")
def piece_ids(xlmr_model: Path) -> Callable[[str], list[int]]:
    """SentencePiece itself and XLM-R's mapping, as published: 0 → <unk> = 3, every other id one up."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(xlmr_model))
    return lambda line: [3 if i == 0 else i + 1 for i in processor.encode(line)]


@pytest.mark.shared
@pytest.mark.parametrize("script", REAL_TEXT)
def test_ids_of_real_text_equal_sentencepiece_and_xlmrs_mapping(
    script: str, xlmr: Tokenizer, piece_ids: Callable[[str], list[int]], shared_dir: Path
) -> None:
    with open_text(shared_dir / "data" / REAL_TEXT[script]) as stream:
        lines = [raw.decode().rstrip("\n") for raw in islice(stream, 300)]
    expected = [piece_ids(line) for line in lines]
    ids_T, lengths = xlmr.encode_flat(lines)
    assert xlmr.encode_batch(lines) == expected
    assert ids_T.tolist() == [i for ids in expected for i in ids]
    assert lengths.tolist() == [len(ids) for ids in expected]


@pytest.mark.shared
@pytest.mark.parametrize("script", OTHER_SCRIPTS)
def test_ids_of_other_scripts_equal_sentencepiece_and_xlmrs_mapping(
    script: str, xlmr: Tokenizer, piece_ids: Callable[[str], list[int]]
) -> None:
    assert xlmr.encode(OTHER_SCRIPTS[script]) == piece_ids(OTHER_SCRIPTS[script])


@pytest.mark.shared
def test_the_released_vocabulary_gives_the_released_ids(xlmr: Tokenizer) -> None:
    assert xlmr.encode("Hello world!") == [35378, 8999, 38]
    assert (xlmr.vocab_size, xlmr.mask_id) == (250_002, 250_001)


@pytest.mark.shared
def test_a_word_of_an_unsegmented_language_has_no_lone_space_piece(xlmr: Tokenizer) -> None:
    space_id = 6  # "▁" is piece 5
    assert xlmr.encode("東京タワー")[0] == space_id
    ids, words = xlmr.encode_words(["私", "東京タワー", "\u200b", "Hello"])
    assert space_id not in ids
    assert [i for i, word in zip(ids, words, strict=True) if word == 1] == xlmr.encode("東京タワー")[1:]
    assert [i for i, word in zip(ids, words, strict=True) if word == 2] == [UNK]


@settings(max_examples=80, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
def test_no_text_gives_a_special_id(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text + " <s> </s> <pad> <mask>")
    assert all(3 <= i < tokenizer.mask_id for i in ids)


@settings(max_examples=50, deadline=None)
@given(words=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=6))
def test_every_word_has_a_piece(words: list[str], tokenizer: Tokenizer) -> None:
    ids, word_of_id = tokenizer.encode_words(words)
    assert len(ids) == len(word_of_id)
    assert word_of_id == sorted(word_of_id)
    assert set(word_of_id) == set(range(len(words)))


def test_known_text_survives_encoding_and_decoding(tokenizer: Tokenizer) -> None:
    text = "the big dog sees a 日本 house"
    ids = tokenizer.encode(text)
    assert tokenizer.decode([0, *ids, 2, 1, tokenizer.mask_id]) == text
    assert tokenizer.decode([]) == ""
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.decode([tokenizer.vocab_size])


def test_lines_encode_alike_alone_and_together(tokenizer: Tokenizer) -> None:
    lines = ["the cat", "", "ß 日本 ☃", "  "]
    ids_T, lengths = tokenizer.encode_flat(lines)
    assert np.split(ids_T, np.cumsum(lengths)[:-1])[2].tolist() == tokenizer.encode(lines[2])
    assert UNK in tokenizer.encode(lines[2])
    assert [len(tokenizer.encode(line)) for line in lines] == lengths.tolist()
    assert tokenizer.encode_flat([])[0].shape == (0,)


def test_a_tokenizer_survives_pickling_and_its_folder(tokenizer: Tokenizer, tokenizer_dir: Path) -> None:
    for copy in (pickle.loads(pickle.dumps(tokenizer)), Tokenizer.load(tokenizer_dir)):
        assert copy.sha256 == tokenizer.sha256
        assert copy.encode("the cat") == tokenizer.encode("the cat")


def test_training_twice_gives_the_same_bytes(documents_text: Callable[[int, int], bytes]) -> None:
    lines = documents_text(60, 3).decode().split("\n")
    assert train(lines, 45, 1.0, 4192).model == train(lines, 45, 1.0, 4192).model


@pytest.mark.parametrize(("size", "message"), [(5000, "too large .* at most [0-9]+"), (4, "too small")])
def test_a_vocabulary_that_does_not_fit_the_text_names_the_bound(size: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"--vocab-size {size}: {message}"):
        train(["the cat sees the dog"] * 20, size, 1.0, 4192)


def test_a_model_in_another_layout_is_refused() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sees the dog"] * 20), model_writer=model, vocab_size=14, minloglevel=2, pad_id=0,
        unk_id=1, bos_id=2, eos_id=3,
    )  # fmt: skip
    with pytest.raises(ValueError, match="XLM-R's layout needs <unk>, <s>, </s>"):
        Tokenizer(model.getvalue())
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        Tokenizer(b"something else")


def test_a_model_that_is_not_the_recorded_one_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    other = train(["the cat sees the dog and more"] * 20, 16, 1.0, 4192)
    with pytest.raises(ValueError, match="holds another tokenizer"):
        other.save(tmp_path)
    (tmp_path / "sentencepiece.bpe.model").write_bytes(other.model)
    with pytest.raises(ValueError, match=f"{other.sha256}.*{tokenizer.sha256}"):
        Tokenizer.load(tmp_path)


def test_a_model_that_was_prepared_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = train(["a few words of their own, prepared"] * 9, 20, 1.0, 4096).model
    (tmp_path / MODEL_NAME).write_bytes(model)
    tokenizer_module._made.cache_clear()  # the training has loaded it
    loads, load = [], sentencepiece.SentencePieceProcessor
    monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", lambda **model: loads.append(1) or load(**model))
    prepare(tmp_path / MODEL_NAME)
    assert Tokenizer(model).encode("words") and Tokenizer(model).encode("a")
    assert loads == [1]
    prepare(tmp_path / "nowhere")
    (tmp_path / "broken").write_bytes(b"x")
    prepare(tmp_path / "broken")  # told by whoever loads it
