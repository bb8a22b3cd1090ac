"""`python -m pipeline evaluate`: tables, JSON and picture, and perplexity against a computation over whole logits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.token_files.manifest import Manifest
from pipeline.data.batch import View
from pipeline.data.training_data import TrainingData
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.evaluate.alignment_error import columns_of, evaluate, gold_folders, released_lines
from pipeline.evaluate.gold import AlignmentScore, read_gold
from pipeline.evaluate.perplexity import SEED, evaluate_perplexity
from pipeline.weights.loading import load_masked_lm, load_model
from tests.pipeline.conftest import Done

Use = Callable[..., Done]


@pytest.fixture
def data_dir(hf_dir: Path, make_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Token files of two languages in the vocabulary of `hf_dir`."""
    _, tokenizer = load_model(hf_dir)
    draw = np.random.default_rng(0)
    sentences = [draw.integers(4, tokenizer.vocab_size - 1, 9).tolist() for _ in range(40)]
    manifest = make_manifest({"aa": [sentences[:30]], "bb": [sentences[30:]]}, vocab_size=tokenizer.vocab_size)
    made_with_it = Manifest(**{**vars(manifest), "tokenizer_sha256": tokenizer.sha256})
    monkeypatch.setattr(Manifest, "load", lambda folder: made_with_it if folder == manifest.data_dir else manifest)
    return manifest.data_dir


def test_scores_of_all_layers_are_printed_written_and_drawn(
    use: Use, hf_dir: Path, gold_dir: Path, tmp_path: Path
) -> None:
    files = tmp_path / "scores.json", tmp_path / "layers.png"
    done = use("evaluate", hf_dir, "--gold", gold_dir, "--gold", gold_dir, "--json", files[0], "--picture", files[1])
    assert done.code == 0, done.err
    first, second = json.loads(files[0].read_text(encoding="utf-8"))
    assert first == second and first["kind"] == "alignment" and len(first["layers"]) == 4
    assert (first["languages"], first["pairs"], first["links_past_the_end"]) == ("en-de", 3, 1)
    assert "Language pair: en-de\np: " in done.out and "en-de (2)" in done.out and "avg" in done.out
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_gold_of_the_wild_is_told_about_and_the_place_of_the_files_tried_first(
    use: Use, hf_dir: Path, gold_dir: Path, tmp_path: Path
) -> None:
    (gold_dir / "alignv2.txt").write_text("0 1 1\n1 0 2\n2 1 1\n2 1 1 P\n", encoding="utf-8")
    done = use("evaluate", hf_dir, "--gold", gold_dir, "--json", tmp_path / "new" / "scores.json")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "new" / "scores.json").read_text(encoding="utf-8"))[0]["pairs"] == 3
    for said in ("numbers the pairs from 0", "1 links to no word", "1 links stand there more than once"):
        assert said in done.err
    (tmp_path / "file").write_text("")
    done = use("evaluate", hf_dir, "--gold", gold_dir, "--json", tmp_path / "file" / "x.json")
    assert done.code == 1 and "cannot be made" in done.error and not done.out, "before anything is measured"


def test_no_input_is_overwritten(use: Use, hf_dir: Path, gold_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "x.en").write_text("the fox\n")
    (tmp_path / "x.de").write_text("the fox\n")
    measured = ("--gold", gold_dir, "--retrieval", tmp_path / "x.de")
    for given in (gold_dir / "alignv2.txt", gold_dir / "test.de", tmp_path / "x.de", hf_dir / "config.json"):
        before = given.read_bytes()
        done = use("evaluate", hf_dir, *measured, "--json", given)
        assert done.code == 1 and "is an input too and would be overwritten" in done.error
        assert given.read_bytes() == before


def test_so_many_sentences_of_each_pair_are_measured(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    for language in ("en", "de"):
        (tmp_path / f"x.{language}").write_text("the fox\nmy box\njudge\n", encoding="utf-8")
    out = tmp_path / "scores.json"
    files = ("--retrieval", tmp_path / "x.de", "--retrieval", tmp_path / "x.en")
    done = use("evaluate", hf_dir, *files, "--sentences", 2, "--json", out)
    assert done.code == 0, done.err
    assert [entry["sentences"] for entry in json.loads(out.read_text(encoding="utf-8"))] == [2]


def test_retrieval_and_perplexity_stand_beside_alignment(
    use: Use, hf_dir: Path, tmp_path: Path, data_dir: Path
) -> None:
    for language in ("en", "de"):
        (tmp_path / f"x.{language}").write_text("the fox\nmy box\njudge\n", encoding="utf-8")
    out = tmp_path / "scores.json"
    done = use("evaluate", hf_dir, "--retrieval", tmp_path / "x.de", "--perplexity", data_dir, "--json", out)
    assert done.code == 0, done.err
    retrieval, *perplexity = json.loads(out.read_text(encoding="utf-8"))
    assert retrieval["kind"] == "retrieval" and retrieval["forward"] == retrieval["backward"] == [1.0] * 4
    assert [entry["language"] for entry in perplexity] == ["aa", "bb"]
    assert all(entry["perplexity"] > 1 and entry["mask_rate"] == 0.15 and entry["seed"] == SEED for entry in perplexity)


def test_perplexity_equals_the_cross_entropy_of_whole_logits(hf_dir: Path, data_dir: Path) -> None:
    encoder, head, tokenizer = load_masked_lm(hf_dir)
    first, again = (evaluate_perplexity(data_dir, encoder, head, tokenizer) for _ in range(2))
    assert first == again
    data = TrainingData(
        Manifest.load(data_dir), [View("mono", MaskedTokens.name)], alpha=1.0, seed=SEED, limits={"mono": 64}
    )
    for language, scores in enumerate(first):
        blocks = np.arange(data.streams["mono"].counts[language])
        masked = data.head("mono", language, blocks)["mono"].view(MaskedTokens)
        with torch.no_grad():
            hidden_PD = encoder(masked.packed)[masked.predicted_P]
            logits_PV = head.transform(hidden_PD) @ head.weight.T + head.bias
        loss = torch.nn.functional.cross_entropy(logits_PV, masked.target_ids_P)
        assert scores.predicted_tokens == len(masked.predicted_P) > 0
        assert scores.perplexity == pytest.approx(math.exp(float(loss)), rel=1e-4)


def test_perplexity_wants_the_model_s_own_tokenizer(hf_dir: Path, make_manifest: Callable[..., Manifest]) -> None:
    encoder, head, tokenizer = load_masked_lm(hf_dir)
    other = make_manifest({"aa": [[[5, 6]]]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "load", lambda folder: other)
        with pytest.raises(ValueError, match="made with another tokenizer"):
            evaluate_perplexity(other.data_dir, encoder, head, tokenizer)


def test_a_folder_of_gold_folders_stands_for_all_of_them(gold_dir: Path) -> None:
    assert gold_folders([gold_dir.parent, gold_dir]) == [gold_dir, gold_dir]
    assert gold_folders([gold_dir / "nowhere"]) == [gold_dir / "nowhere"], "to be told by who reads it"


def test_percentages_stand_as_the_released_aligner_prints_them(hf_dir: Path, gold_dir: Path) -> None:
    encoder, tokenizer = load_model(hf_dir)
    evaluation = evaluate(encoder, tokenizer, read_gold(gold_dir))
    evaluation.layers = [AlignmentScore(0.17415, 0.5, 0.25, 1 / 3, 4), AlignmentScore(1.0, 0.0, 0.0, 0.0, 0)]
    assert released_lines(evaluation).splitlines() == [
        "Language pair: en-de",
        "p: 50.00, 0.00",
        "r: 25.00, 0.00",
        "f1: 33.33, 0.00",
        "aer: 17.41, 100.00",
    ]


def test_columns_end_with_their_mean_and_none_is_lost() -> None:
    assert columns_of(["a", "b", "a"], [[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]]) == {
        "a": [1.0, 2.0],
        "b": [3.0, 4.0],
        "a (2)": [5.0, 0.0],
        "avg": [3.0, 2.0],
    }


MISTAKES = {
    "nothing": ([], "nothing to measure; give --gold, --retrieval or --perplexity"),
    "no gold": (["--gold", "{tmp}"], "no files test.<source>"),
    "no sentences": (["--retrieval", "{tmp}/nowhere"], "no such file or folder"),
    "picture of nothing": (["--perplexity", "{tmp}", "--picture", "x.png"], "only AER and retrieval have layers"),
    "no data": (["--perplexity", "{tmp}/nowhere"], "nowhere"),
    "unknown method": (["--gold", "{gold}", "--method", "x"], "method 'x': choose"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(use: Use, hf_dir: Path, gold_dir: Path, tmp_path: Path, mistake: str) -> None:
    words, message = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    done = use("evaluate", hf_dir, *(word.format(tmp=tmp_path / "empty", gold=gold_dir) for word in words))
    assert done.code == 1 and message in done.error


def test_a_model_without_a_head_has_no_perplexity(hf_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in hf_dir.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    state = {name: t for name, t in load_file(hf_dir / "model.safetensors").items() if "lm_head" not in name}
    save_file(state, tmp_path / "model.safetensors")
    assert load_model(tmp_path)
    with pytest.raises(ValueError, match="has no masked-LM head"):
        load_masked_lm(tmp_path)
