"""A model is the same whether it is loaded from its Hugging Face folder, its run or its checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from data_prep.tokenizers.tokenizer import Tokenizer, train
from pipeline.checkpoints.checkpoint import seal
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.weights.loading import load_masked_lm, load_model, longest_side


@pytest.fixture
def run(hf_dir: Path, tmp_path: Path) -> Path:
    """A run's folder with a checkpoint of the model of `hf_dir`, as ZeRO stage 0 leaves it."""
    encoder, head, tokenizer = load_masked_lm(hf_dir)
    tokenizer.save(tmp_path / "data" / "tokenizer")
    checkpoint = tmp_path / "run" / "checkpoints" / "step_00000007"
    checkpoint.mkdir(parents=True)
    module = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    module |= {f"heads.masked_lm.{name}": tensor for name, tensor in head.state_dict().items()}
    torch.save({"module": module}, checkpoint / "mp_rank_00_model_states.pt")
    config = {"data": {"path": str(tmp_path / "data")}}
    seal(checkpoint, CheckpointInfo(7, 1, 0, "fp32", "0" * 64, config, asdict(encoder.config)))
    return tmp_path / "run"


def test_a_run_and_its_checkpoint_load_as_the_exported_folder(run: Path, hf_dir: Path) -> None:
    expected = load_masked_lm(hf_dir)
    for folder in (run, run / "checkpoints" / "step_00000007"):
        found = load_masked_lm(folder)
        assert found[2].sha256 == expected[2].sha256
        for ours, theirs in zip(found[:2], expected[:2], strict=True):
            assert not ours.training  # type: ignore[union-attr]
            states = ours.state_dict(), theirs.state_dict()  # type: ignore[union-attr]
            assert states[0].keys() == states[1].keys()
            assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_damaged_checkpoint_is_refused(run: Path) -> None:
    (run / "checkpoints" / "step_00000007" / "mp_rank_00_model_states.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="no checkpoint there is whole"):
        load_model(run)


def test_a_run_whose_data_is_gone_wants_a_tokenizer(run: Path, hf_dir: Path) -> None:
    (run.parent / "data").rename(run.parent / "moved")
    with pytest.raises(ValueError, match="give --tokenizer DIR"):
        load_model(run)
    assert load_model(run, run.parent / "moved" / "tokenizer")[1].sha256 == Tokenizer.load(hf_dir).sha256


def test_a_folder_without_or_with_another_tokenizer_is_refused(hf_dir: Path, tmp_path: Path) -> None:
    for path in hf_dir.iterdir():
        if "sentencepiece" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="put the model's SentencePiece file there, or give --tokenizer"):
        load_model(tmp_path)

    train(["a b c d e f g"], 11, 1.0, 99).save(tmp_path / "other")
    with pytest.raises(ValueError, match="the model has 52 words, its tokenizer 13"):
        load_model(tmp_path, tmp_path / "other")


def test_what_is_encoded_at_once_fits_the_positions(hf_dir: Path) -> None:
    encoder, _ = load_model(hf_dir)
    assert encoder.config.positions == 66
    assert (longest_side(encoder.config), longest_side(encoder.config, "separate")) == (30, 62)
    assert 2 * 30 + 3 <= 64 and 62 + 2 <= 64
