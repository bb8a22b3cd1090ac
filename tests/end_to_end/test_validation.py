"""Validation of a running training gives the figures that `evaluate` gives of its checkpoint, and keeps a few alignments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.evaluate.alignment_error import evaluate
from pipeline.evaluate.gold import read_gold
from pipeline.evaluate.retrieval import SentencePooler, evaluate_retrieval
from pipeline.settings.schema import load_config
from pipeline.texts.sentence_files import find_pairs
from pipeline.weights.loading import load, load_model
from tests.end_to_end.conftest import REPOSITORY

STEPS, GOLD_PAIRS, SENTENCES, SHOWN = 2, 30, 40, 3
PAIR = "qaa-qab"

pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def run(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on two ranks that have cut the weights between them, and validated at both ends."""
    out, sample = tmp_path_factory.mktemp("validated") / "run", corpus.data.parent / "sample"
    settings = {
        "run.out": out,
        "run.steps": STEPS,
        "deepspeed": REPOSITORY / "ds_configs" / "zero3_fp32.json",
        "validation.every": STEPS,
        "validation.gold": [str(sample / "gold")],
        "validation.gold_pairs": GOLD_PAIRS,
        "validation.retrieval": [str(sample / "valid" / "parallel" / f"valid.{PAIR}.qaa")],
        "validation.retrieval_sentences": SENTENCES,
        "validation.shown_pairs": SHOWN,
    }
    done = launcher.train(2, corpus.config, *(f"{key}={value}" for key, value in settings.items()))
    assert done.code == 0, done.output
    assert "aer/qaa-qab 0." in done.output and "retrieval/qaa-qab 0." in done.output and "(best 0." in done.output
    return out


def test_it_measures_what_evaluate_measures(
    run: Path, corpus: Any, read_metrics: Callable[[Path, str], dict[int, dict[str, Any]]]
) -> None:
    lines = read_metrics(run, "validation")
    assert list(lines) == [0, STEPS] and lines[0] != lines[STEPS]
    encoder, tokenizer = load_model(run)
    sample = corpus.data.parent / "sample"
    gold = read_gold(sample / "gold" / PAIR).first(GOLD_PAIRS)
    expected = evaluate(encoder, tokenizer, gold)
    line = lines[STEPS]
    assert line[f"aer_by_layer/{PAIR}"] == [score.aer for score in expected.layers]
    assert line[f"aer/{PAIR}"] == expected.layers[1].aer, "the alignment layer's"
    assert line[f"aer_best_layer/{PAIR}"] == expected.best_layer
    assert line[f"aer_best/{PAIR}"] == min(score.aer for score in expected.layers)
    assert len([key for key in line if key.startswith("aer/")]) == 3, "every folder of the folder"

    sentences = [pair.loaded(SENTENCES) for pair in find_pairs(sample / "valid" / "parallel" / f"valid.{PAIR}.qaa")]
    pooler = SentencePooler(tokenizer, encoder.hidden_states, encoder.config.longest)
    (found,) = evaluate_retrieval(sentences, pooler)
    assert found.sentences == SENTENCES
    assert line[f"retrieval_by_layer/{PAIR}"] == found.mean
    assert line[f"retrieval_best/{PAIR}"] == max(found.mean) and line[f"retrieval/{PAIR}"] == found.mean[1]


def test_the_run_can_be_used_without_its_token_files_and_knows_its_best_layer(
    run: Path, corpus: Any, read_metrics: Callable[[Path, str], dict[int, dict[str, Any]]]
) -> None:
    loaded = load(run)
    assert Tokenizer.load(run / "tokenizer").sha256 == Tokenizer.load(corpus.data / "tokenizer").sha256
    line = read_metrics(run, "validation")[STEPS]
    by_folder = [layers for key, layers in line.items() if key.startswith("aer_by_layer/")]
    means = [sum(of_layer) / len(of_layer) for of_layer in zip(*by_folder, strict=True)]
    assert loaded.recorded is not None
    assert loaded.recorded.layer == means.index(min(means)) and loaded.recorded.method == "ot-filter"
    assert f"validation at step {STEPS} (qaa-qab, " in loaded.recorded.why
    kept = load_config(run / "config.yaml")
    paths = [kept.data.path, kept.run.out, kept.deepspeed, *kept.validation.gold, *kept.validation.retrieval]
    assert all(path.is_absolute() for path in paths)


def test_alignments_are_kept_at_every_validation(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "alignments.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [0, STEPS] and {line["layer"] for line in lines} == {1}
    for line in lines:
        assert len(line["pairs"]) == SHOWN
        assert {pair["folder"] for pair in line["pairs"]} == {"qaa-qab", "qaa-qac", "qab-qac"}


def test_another_run_begins_with_its_weights(
    run: Path,
    corpus: Any,
    launcher: Any,
    tmp_path: Path,
    read_metrics: Callable[[Path, str], dict[int, dict[str, Any]]],
) -> None:
    gold = corpus.data.parent / "sample" / "gold" / PAIR
    settings = {
        "run.out": tmp_path / "run",
        "run.steps": 1,
        "model.init": run,
        "validation.every": 1,
        "validation.gold": [str(gold)],
        "validation.gold_pairs": GOLD_PAIRS,
    }
    done = launcher.one_rank("--config", corpus.config, *(f"{key}={value}" for key, value in settings.items()))
    assert done.code == 0 and "has no masked-LM head" not in done.output, done.output
    before, after = read_metrics(run, "validation")[STEPS], read_metrics(tmp_path / "run", "validation")[0]
    assert after[f"aer_by_layer/{PAIR}"] == before[f"aer_by_layer/{PAIR}"]


def test_a_run_without_filtering_is_measured_by_filtered_links(
    corpus: Any, launcher: Any, tmp_path: Path, read_metrics: Callable[[Path, str], dict[int, dict[str, Any]]]
) -> None:
    gold = corpus.data.parent / "sample" / "gold" / PAIR
    settings = {
        "run.out": tmp_path / "run",
        "run.steps": 1,
        "objectives.dwa.filter_rounds": 0,
        "validation.every": 1,
        "validation.gold": [str(gold)],
        "validation.gold_pairs": GOLD_PAIRS,
    }
    done = launcher.one_rank("--config", corpus.config, *(f"{key}={value}" for key, value in settings.items()))
    assert done.code == 0, done.output
    expected = evaluate(*load_model(tmp_path / "run"), read_gold(gold).first(GOLD_PAIRS))
    line = read_metrics(tmp_path / "run", "validation")[1]
    assert line[f"aer_by_layer/{PAIR}"] == [score.aer for score in expected.layers]
    assert read_metrics(tmp_path / "run", "train")[1]["dwa_links_per_pair"] > 0
