"""Models that fine-tuning starts from: a Hugging Face folder with either tokenizer, a run's checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from data_prep.tokenizers.tokenizer import Tokenizer, train
from pipeline.checkpoints.checkpoint import seal
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.tagging import Tagging
from pipeline.weights.hugging_face_tokenizer import save_tokenizer
from pipeline.weights.loading import load_model


def hidden(model: torch.nn.Module) -> torch.Tensor:
    ids_BL = torch.tensor([[0, 5, 6, 7, 2]])
    with torch.no_grad():
        return model.eval().roberta(ids_BL).last_hidden_state  # type: ignore[operator, union-attr, no-any-return]


def test_the_encoder_is_the_folders_and_the_head_is_the_seeds(model_dir: Path, tmp_path: Path) -> None:
    start = read_start(model_dir)
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(start.model(Tagging.model, ["A", "B"], dropout=0.1))
    encoder, _ = load_model(model_dir)
    theirs = AutoModelForTokenClassification.from_pretrained(model_dir)
    for model in models:
        assert torch.equal(hidden(model), hidden(theirs))
        assert torch.equal(model.get_input_embeddings().weight, encoder.word.weight)
    heads = [model.classifier.weight for model in models]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert models[0].config.id2label == {0: "A", 1: "B"} and models[0].config.hidden_dropout_prob == 0.1


def test_a_folder_with_a_tokenizer_of_hugging_face_alone_will_do(model_dir: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_dir / name).read_bytes())
    with pytest.raises(
        ValueError, match=r"has neither sentencepiece.bpe.model nor tokenizer.json; .* or give --tokenizer DIR"
    ):
        read_start(tmp_path)
    tokenizer = Tokenizer((model_dir / "sentencepiece.bpe.model").read_bytes())
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    text = "the quick brown fox, ‎judge"
    expected = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")(text)["input_ids"]
    assert read_start(tmp_path, tmp_path / "tokenizer").tokenizer(text)["input_ids"] == expected
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tmp_path / "tokenizer" / name).read_bytes())
    assert read_start(tmp_path).tokenizer(text)["input_ids"] == expected
    assert read_start(model_dir).tokenizer(text)["input_ids"] == expected


def test_a_runs_latest_checkpoint_is_its_exported_model(model_dir: Path, tmp_path: Path) -> None:
    encoder, tokenizer = load_model(model_dir)
    tokenizer.save(tmp_path / "data" / "tokenizer")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000007"
    checkpoint.mkdir(parents=True)
    module = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    torch.save({"module": module}, checkpoint / "mp_rank_00_model_states.pt")
    config = {"data": {"path": str(tmp_path / "data")}}
    seal(checkpoint, CheckpointInfo(7, 1, 0, "fp32", "0" * 64, config, asdict(encoder.config)))
    expected = hidden(read_start(model_dir).model(Tagging.model, ["A"], 0.0))
    for folder in (tmp_path / "run", checkpoint):
        start = read_start(folder)
        assert torch.equal(hidden(start.model(Tagging.model, ["A"], 0.0)), expected)
        assert len(start.tokenizer) == tokenizer.vocab_size


def test_wrong_models_are_told(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder; give a Hugging Face model folder, a run folder"):
        read_start(tmp_path / "nowhere")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model_dir / name).read_bytes())
    (tmp_path / "sentencepiece.bpe.model").write_bytes(train(["a b c", "d e f g"], 11, 1.0, 4096).model)
    with pytest.raises(ValueError, match=r"the model has \d+ words, its tokenizer 13; give the tokenizer"):
        read_start(tmp_path)
    start = read_start(model_dir)
    del start.state["encoder.layer.1.output.dense.bias"]
    with pytest.raises(
        ValueError, match=r"roberta.encoder.layer.1.output.dense.bias is wanted as \[32\], the folder lacks it"
    ):
        start.model(Tagging.model, ["A"], 0.0)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "bert"}), encoding="utf-8")
    with pytest.raises(ValueError, match="model_type is 'bert', an xlm-roberta model is needed"):
        read_start(tmp_path)
