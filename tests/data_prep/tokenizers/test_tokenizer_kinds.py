"""Tokenizers of the wild: a tokenizer.json becomes the SentencePiece model that it was, and what is not XLM-R's kind is
refused by name."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.kinds import first_difference, parse_model, sample_lines
from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer, import_tokenizer, train
from data_prep.tokenizers.tokenizer_json import encode_lines, sentencepiece_model, unigram_tokenizer
from tests.data_prep.conftest import WORDS, make_sentences

Run = Callable[..., tuple[int, str, str]]


def write_json(tokenizer: Tokenizer, folder: Path, **changes: Any) -> Path:
    """The tokenizer as Transformers saves it, with other values for some keys."""
    unigram_tokenizer(tokenizer.model).save(str(folder / "tokenizer.json"))
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for path, value in changes.items():
        *sections, key = path.split("__")
        section = content
        for name in sections:
            section = section[name]
        section[key] = value
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "tokenizer.json"


def test_a_tokenizer_json_becomes_the_model_that_it_came_from(tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = Tokenizer(sentencepiece_model(write_json(tokenizer, tmp_path)))
    lines = [*sample_lines(tokenizer.model), *make_sentences(200)]
    assert made.encode_batch(lines) == tokenizer.encode_batch(lines)
    assert made.vocab_size == tokenizer.vocab_size and made.gives_ids_of(tokenizer.identity())
    pieces = [[(piece.piece, piece.score) for piece in parse_model(each.model).pieces] for each in (made, tokenizer)]
    assert pieces[0][3:] == pieces[1][3:], "scores to the last bit"
    again = sentencepiece_model(tmp_path / "tokenizer.json")
    assert again == made.model, "the same file gives the same bytes"


def test_the_vocabulary_of_xlm_r_comes_back_from_a_tokenizer_json(xlmr_model: Path, tmp_path: Path) -> None:
    xlmr = Tokenizer(xlmr_model.read_bytes())
    write_json(xlmr, tmp_path)
    made = Tokenizer.load(tmp_path)
    assert made.encode("Hello world!") == [35378, 8999, 38] and made.mask_id == 250001
    assert made.gives_ids_of(xlmr.identity())


def test_other_ids_are_another_tokenizer(tokenizer: Tokenizer) -> None:
    other = train(make_sentences(400, seed=8), 47, 1.0, 4192)
    assert not other.gives_ids_of(tokenizer.identity()) and other.gives_ids_of(other.identity())
    same = parse_model(tokenizer.model)
    same.trainer_spec.input.append("elsewhere.txt")
    assert Tokenizer(same.SerializeToString()).gives_ids_of(tokenizer.identity()), (
        "what it was trained on decides nothing"
    )


JSON_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "BPE": ({"model__type": "BPE"}, "its model is BPE, XLM-R's is Unigram"),
    "bytes": ({"model__byte_fallback": True}, "has byte_fallback"),
    "unknown id": ({"model__unk_id": 0}, "unk_id is 0, XLM-R's is 3"),
    "other specials": ({"model__vocab": [["<pad>", 0.0], ["<unk>", 0.0], ["a", -1.0]]}, "XLM-R's ['<s>', '<pad>'"),
    "lower case": ({"normalizer": {"type": "Lowercase"}}, "its normalizer has Lowercase"),
    "split at punctuation": ({"pre_tokenizer": {"type": "BertPreTokenizer"}}, "its pre_tokenizer is BertPreTokenizer"),
    "no space before": (
        {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}},
        "its pre_tokenizer is Metaspace",
    ),
    "no character map": ({"normalizer": None}, "has other ids than a SentencePiece model of its pieces: "),
    "map of letters": ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "ä"}}, "is damaged"),
    "no model": ({"model": None}, "holds no tokenizer"),
}


@pytest.mark.parametrize("mistake", JSON_MISTAKES)
def test_a_tokenizer_json_of_another_kind_is_refused_by_name(
    run: Run, tokenizer: Tokenizer, tmp_path: Path, mistake: str
) -> None:
    changes, message = JSON_MISTAKES[mistake]
    path = write_json(tokenizer, tmp_path, **changes)
    code, _, err = run("tokenizer", "import", path, "--out", tmp_path / "out")
    assert code == 1 and err.startswith(f"error: {path}: ") and message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def sentencepiece_of(**options: Any) -> bytes:
    model = io.BytesIO()
    settings = {
        "model_type": "unigram",
        "vocab_size": 60,
        "normalization_rule_name": "nmt_nfkc",
        "hard_vocab_limit": False,
        "minloglevel": 2,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(make_sentences(400, seed=7)), model_writer=model, **settings
    )
    return model.getvalue()


SENTENCEPIECE_MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "BPE": ({"model_type": "bpe"}, "its model_type is bpe, not unigram"),
    "words": ({"model_type": "word", "vocab_size": 20}, "its model_type is word"),
    "characters": ({"model_type": "char"}, "its model_type is char"),
    "bytes": ({"byte_fallback": True, "vocab_size": 330}, "it has byte_fallback"),
    "no dummy prefix": ({"add_dummy_prefix": False}, "its normaliser has add_dummy_prefix off"),
    "spaces kept": ({"remove_extra_whitespaces": False}, "its normaliser has remove_extra_whitespaces off"),
    "spaces behind words": ({"treat_whitespace_as_suffix": True}, "it has treat_whitespace_as_suffix"),
    "user's words": ({"user_defined_symbols": ["<sep>"]}, "piece 3 is '<sep>', a user-defined piece"),
    "control words": ({"control_symbols": ["<2en>"]}, "piece 3 is '<2en>', a control piece"),
    "normaliser that keeps tabs": ({"normalization_rule_name": "nfkc"}, r"'a\tb"),
    "no normaliser": ({"normalization_rule_name": "identity"}, "gives other ids than this model"),
}


@pytest.mark.parametrize("mistake", SENTENCEPIECE_MISTAKES)
def test_a_sentencepiece_model_that_cannot_be_exported_is_refused_by_name(
    run: Run, tmp_path: Path, mistake: str
) -> None:
    options, message = SENTENCEPIECE_MISTAKES[mistake]
    (tmp_path / "m.model").write_bytes(sentencepiece_of(**options))
    code, _, err = run("tokenizer", "import", tmp_path / "m.model", "--out", tmp_path / "out")
    assert code == 1 and message in err and "m.model" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nmt_nfkc_cf"])
def test_a_model_of_xlm_r_s_kind_is_imported_as_it_is(run: Run, tmp_path: Path, rule: str) -> None:
    model = sentencepiece_of(normalization_rule_name=rule)
    (tmp_path / "m.model").write_bytes(model)
    code, out, _ = run("tokenizer", "import", tmp_path / "m.model", "--out", tmp_path / "out")
    assert code == 0 and "vocabulary" in out
    assert (tmp_path / "out" / MODEL_NAME).read_bytes() == model


def test_a_difference_is_told_from_where_it_begins(tokenizer: Tokenizer) -> None:
    other = train(make_sentences(400, seed=7), 47, 1.0, 4192)
    theirs = unigram_tokenizer(other.model)
    lines = [" ".join(WORDS)]
    found = first_difference(lines, tokenizer.encode_batch, lambda texts: encode_lines(theirs, list(texts)))
    assert found is not None and found.text == lines[0]
    at = next(i for i, (a, b) in enumerate(zip(found.ours, found.theirs, strict=False)) if a != b)
    assert f"from token {at} on [{found.ours[at]}, " in str(found)


@pytest.mark.parametrize("files", [[MODEL_NAME], ["tokenizer.json"], [MODEL_NAME, "tokenizer.json"]])
def test_a_hugging_face_folder_is_a_tokenizer_dir(
    run: Run, tokenizer: Tokenizer, mono_file: Path, tmp_path: Path, files: list[str]
) -> None:
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / MODEL_NAME).write_bytes(tokenizer.model)
    write_json(tokenizer, folder)
    for name in {MODEL_NAME, "tokenizer.json"} - set(files):
        (folder / name).unlink()
    imported = run("tokenizer", "import", folder, "--out", tmp_path / "imported")
    assert imported[0] == 0, imported
    for name, given in (("direct", folder), ("by_import", tmp_path / "imported")):
        done = run("mono", mono_file, "--lang", "aa", "--tokenizer", given, "--out", tmp_path / name)
        assert done[0] == 0, done
        manifest = Manifest.load(tmp_path / name)
        assert Tokenizer.load(manifest.tokenizer_dir).gives_ids_of(tokenizer.identity())
    bins = [sorted(path.read_bytes() for path in (tmp_path / name).rglob("*.bin")) for name in ("direct", "by_import")]
    assert bins[0] == bins[1] and bins[0]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            "nowhere",
            "nowhere: cannot be read (No such file or directory); give XLM-R's sentencepiece.bpe.model (`hf download",
        ),
        ("", "holds neither sentencepiece.bpe.model nor tokenizer.json"),
        ("text", "text: not a SentencePiece model"),
        ("tokenizer.json", "tokenizer.json: cannot be read (not valid JSON)"),
    ],
)
def test_a_place_without_a_tokenizer_says_what_is_there(run: Run, tmp_path: Path, place: str, message: str) -> None:
    for name in ("text", "tokenizer.json"):
        (tmp_path / name).write_text("text", encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    code, _, err = run("tokenizer", "import", folder if not place else tmp_path / place, "--out", tmp_path / "out")
    assert code == 1 and message in err and err.count("\n") == 1


def test_an_imported_tokenizer_is_the_one_that_hugging_face_would_use(tmp_path: Path) -> None:
    (tmp_path / "m.model").write_bytes(sentencepiece_of())
    tokenizer = import_tokenizer(tmp_path / "m.model")
    lines = make_sentences(100, seed=3)
    assert encode_lines(unigram_tokenizer(tokenizer.model), lines) == tokenizer.encode_batch(lines)
