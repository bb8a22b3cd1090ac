"""The aligner's benchmark: contenders are given the same model, and the figures are what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from pipeline.benchmark.align import OURS, Result, benchmark, figures, same_links, write_bert
from pipeline.data.packing import pack
from pipeline.evaluate.gold import read_gold
from pipeline.weights.loading import load_model


def test_bert_for_awesome_align_has_the_same_hidden_states(hf_dir: Path, tmp_path: Path) -> None:
    encoder, tokenizer = load_model(hf_dir)
    write_bert(hf_dir, tokenizer, tmp_path / "bert")
    vocabulary = (tmp_path / "bert" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    config = BertConfig(**json.loads((tmp_path / "bert" / "config.json").read_text(encoding="utf-8")))
    model = BertModel(config, add_pooling_layer=False).eval()
    state = torch.load(tmp_path / "bert" / "pytorch_model.bin", weights_only=True)
    model.load_state_dict({name.removeprefix("bert."): tensor for name, tensor in state.items()})

    ids = tokenizer.encode("box fox")
    words = [piece.removeprefix("▁") if piece.startswith("▁") else f"##{piece}" for piece in map(tokenizer.piece, ids)]
    assert all(words), "a lone space piece has no word piece"
    bert_ids = [vocabulary.index(word) for word in ["[CLS]", *words, "[SEP]"]]
    with torch.no_grad():
        theirs = model(torch.tensor([bert_ids])).last_hidden_state[0]
        ours = encoder(pack([[0, *ids, 2]]))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_benchmark_runs_without_peers_and_writes_figures(
    hf_dir: Path, gold_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark(hf_dir, gold_dir, layer=2, pairs=2, repeats=1, json_file=tmp_path / "figures.json")
    entries = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert {entry["contender"] for entry in entries} == set(OURS)
    assert {entry["name"] for entry in entries} == {"alignment", "AER"}
    assert "2 pairs en-de" in capsys.readouterr().out


def test_a_peer_that_fails_is_one_line(hf_dir: Path, gold_dir: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"simalign: ended with exit code 1: ModuleNotFoundError.*-m pip install simalign",
    ):
        benchmark(hf_dir, gold_dir, peers=Path(sys.executable), layer=2, repeats=1)


def test_ratios_are_of_the_medians(gold_dir: Path) -> None:
    gold = read_gold(gold_dir)
    links = [[(0, 0), (1, 1), (2, 2)], [(0, 0)], [(0, 0)]]
    results = {"a": Result([1.0, 2.0, 9.0], links), "b": Result([4.0], links)}
    first, aer, *_ = figures(results, gold)
    assert (first["value"], first["ratio_to"]) == (1.5, {"b": 2.0})
    assert aer["value"] == pytest.approx(1 - (3 + 4) / (5 + 4))
    assert same_links(links, [[(0, 0)], [], [(0, 0), (1, 0)]]) == 2 / 6
