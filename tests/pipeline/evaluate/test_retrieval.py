"""Sentence retrieval: layouts, pooling and the nearest neighbour, with vectors small enough to know every answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_prep.tokenizers.template import XLM_R
from pipeline.data.packing import Packed, pack
from pipeline.evaluate.retrieval import SentencePooler, evaluate_retrieval, nearest_keys, share_found
from pipeline.texts.sentence_files import Sentences, find_pairs
from pipeline.weights.loading import load_model


class Letters:
    template = XLM_R

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") + 4 for letter in text]


def counts(packed: Packed) -> list[torch.Tensor]:
    """Layer 0 counts letters; in layer 1 every sentence is the same."""
    return [torch.eye(40)[packed.ids_T], torch.ones(packed.tokens, 3)]


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_", ".").replace("0", "-")).write_text(text, encoding="utf-8")
    return folder


def test_pud_pairs_english_with_every_other_language(tmp_path: Path) -> None:
    write(tmp_path, pud_de="a\n", pud_en="b\n", pud_ar="c\n", README_txt="x\n")
    pairs = find_pairs(tmp_path)
    assert [pair.languages for pair in pairs] == [("en", "ar"), ("en", "de")]
    assert pairs[1].read() == (["b"], ["a"])
    assert [pair.languages for pair in find_pairs(tmp_path / "pud.de")] == [("en", "de")]


def test_tatoeba_has_two_files_a_pair(tmp_path: Path) -> None:
    write(tmp_path, tatoeba_ara0eng_ara="a\n", tatoeba_ara0eng_eng="b\n", tatoeba_deu0eng_deu="c\n", fr0en_fr="d\n")
    write(tmp_path, fr0en_en="e\n")
    pairs = find_pairs(tmp_path)
    assert {pair.languages: pair.read() for pair in pairs} == {
        ("ara", "eng"): (["a"], ["b"]),
        ("fr", "en"): (["d"], ["e"]),
    }


def test_flores_and_ntrex_are_known_by_their_names(tmp_path: Path) -> None:
    flores, ntrex = tmp_path / "devtest", tmp_path / "ntrex"
    flores.mkdir()
    ntrex.mkdir()
    for name in ("deu_Latn.devtest", "eng_Latn.devtest", "zho_Hans.devtest"):
        (flores / name).write_text("a\n")
    for name in ("newstest2019-src.eng.txt", "newstest2019-ref.deu.txt", "newstest2019-ref.hau.txt", "README.txt"):
        (ntrex / name).write_text("a\n")
    assert [pair.languages for pair in find_pairs(flores)] == [("eng_Latn", "deu_Latn"), ("eng_Latn", "zho_Hans")]
    assert [pair.name for pair in find_pairs(ntrex)] == ["eng-deu", "eng-hau"]
    assert [pair.name for pair in find_pairs(flores, ntrex / "newstest2019-ref.hau.txt")][-1] == "eng-hau"


def test_named_files_stand_for_the_pairs_among_them_and_each_pair_is_measured_once(tmp_path: Path) -> None:
    write(tmp_path, pud_de="a\n", pud_en="b\n", pud_ar="c\n", pud_zh="d\n")
    named = [tmp_path / f"pud.{language}" for language in ("en", "de")]
    assert [pair.name for pair in find_pairs(*named)] == ["en-de"]
    assert [pair.name for pair in find_pairs(tmp_path / "pud.zh", tmp_path / "pud.ar")] == ["ar-zh"]
    assert [pair.name for pair in find_pairs(tmp_path, *named)] == ["en-ar", "en-de", "en-zh"]
    with pytest.raises(
        ValueError, match=r"pud.en: 3 pairs have this file; name the other language's too \(as pud.ar\)"
    ):
        find_pairs(named[0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no line-aligned files"),
        ({"pud_en": "a\n"}, "no line-aligned files"),
        ({"pud_en": "a\n", "pud_de": "b\nc\n"}, "1 lines, .* has 2"),
        ({"pud_en": "", "pud_de": ""}, "is empty"),
    ],
)
def test_unusable_folders_are_told(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(ValueError, match=message):
        [pair.read() for pair in find_pairs(tmp_path)]
    with pytest.raises(ValueError, match="no such file or folder"):
        find_pairs(tmp_path / "nowhere")


def test_the_nearest_sentence_by_cosine_of_means_is_found_in_both_directions(tmp_path: Path) -> None:
    # "aab" repeated is as near as "aab"; of the third, both directions find another.
    write(tmp_path, x_en="aab\ncd\nef\n", x_de="aabaab\ndc\ncd\n")
    pooler = SentencePooler(Letters(), counts, batch_tokens=6)
    (found,) = evaluate_retrieval(find_pairs(tmp_path), pooler)
    assert (found.languages, found.sentences, found.cut) == ("en-de", 3, 0)
    assert found.forward[0] == found.backward[0] == pytest.approx(2 / 3)
    assert found.forward[1] == pytest.approx(1 / 3), "all equal: the first is taken"
    assert found.best_layer == 0 and "mean" in found.as_json()["pooling"]


def test_pooled_vectors_are_means_of_hidden_states_of_every_layer_whatever_the_batch(hf_dir: Path) -> None:
    encoder, tokenizer = load_model(hf_dir)
    sentences = ["the quick brown fox", "jugs", "", "pack my box with five dozen liquor jugs"]
    layers = SentencePooler(tokenizer, encoder.hidden_states, batch_tokens=30).vectors(sentences)
    assert len(layers) == 4
    for number, sentence in enumerate(sentences):
        with torch.no_grad():
            states = encoder.hidden_states(pack([[0, *tokenizer.encode(sentence), 2]]))
        for vectors_SD, hidden_TD in zip(layers, states, strict=True):
            mean_D = hidden_TD.mean(dim=0)
            assert torch.allclose(vectors_SD[number], mean_D / mean_D.norm(), atol=1e-5)


def test_long_sentences_are_cut_to_the_positions_and_counted(hf_dir: Path) -> None:
    encoder, tokenizer = load_model(hf_dir)
    pooler = SentencePooler(tokenizer, encoder.hidden_states, longest=encoder.config.longest)
    pooler.vectors(["fox " * 200, "fox"])
    assert pooler.cut == 1


def test_accuracy_does_not_depend_on_how_many_rows_are_compared_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    query_QD, noise_QD = torch.randn(2, 50, 4)
    whole = share_found(nearest_keys(query_QD, query_QD + noise_QD))
    monkeypatch.setattr("pipeline.evaluate.retrieval.ROWS_AT_ONCE", 7)
    assert 0 < share_found(nearest_keys(query_QD, query_QD + noise_QD)) == whole < 1


def test_a_pivot_is_encoded_once(tmp_path: Path) -> None:
    write(tmp_path, x_en="a\nb\n", x_de="a\nb\n", x_fr="b\na\n")
    sentences: list[str] = []

    class Listening(SentencePooler):
        def vectors(self, those: list[str]) -> list[torch.Tensor]:  # type: ignore[override]
            sentences.extend(those)
            return super().vectors(those)

    results = evaluate_retrieval(find_pairs(tmp_path), Listening(Letters(), counts))
    assert [result.forward[0] for result in results] == [1.0, 0.0]
    assert len(sentences) == 2 + 2 + 2


def test_sentences_keep_their_lines(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("x\u2028y\r\n\nz".encode())
    (tmp_path / "b").write_bytes(b"1\n2\n3\n")
    assert Sentences(("a", "b"), (tmp_path / "a", tmp_path / "b")).read() == (["x\u2028y", "", "z"], ["1", "2", "3"])
