"""A run's folder without a training: a sealed checkpoint of a model, as ZeRO stage 0 leaves it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from data_prep.tokenizers.kinds import parse_model
from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.checkpoints.checkpoint import keep_tokenizer, seal
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.settings.schema import Config
from pipeline.weights.consolidate import ENCODER_PREFIX, HEAD_PREFIX
from pipeline.weights.loading import load_masked_lm

STEP = 7
CHECKPOINT = f"checkpoints/step_{STEP:08d}"


def make_run(hf_dir: Path, place: Path, *, head: bool = True, objectives: Any = None, **info: Any) -> Path:
    """`place`/run with the model of `hf_dir`, its token files' tokenizer in `place`/data; `info`: more of the manifest."""
    encoder, lm_head, tokenizer = load_masked_lm(hf_dir)
    tokenizer.save(place / "data" / "tokenizer")
    run = place / "run"
    (run / CHECKPOINT).mkdir(parents=True)
    module = {f"{ENCODER_PREFIX}{name}": tensor for name, tensor in encoder.state_dict().items()}
    if head:
        module |= {f"{HEAD_PREFIX}{name}": tensor for name, tensor in lm_head.state_dict().items()}
    torch.save({"module": module}, run / CHECKPOINT / "mp_rank_00_model_states.pt")
    settings = {
        "data": {"path": str(place / "data")},
        "run": {"out": str(run)},
        "deepspeed": "zero1_fp32.json",
        "objectives": {"mlm": {}, "tlm": {}, "dwa": {"alignment_layer": 1}} if objectives is None else objectives,
    }
    config = Config.model_validate(settings).model_dump(mode="json")
    identity = keep_tokenizer(run, place / "data" / "tokenizer")
    seal(
        run / CHECKPOINT,
        CheckpointInfo(STEP, 1, 0, "fp32", "0" * 64, config, asdict(encoder.config), **{"tokenizer": identity, **info}),
    )
    return run


def other_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer of the same size with other ids: two pieces have changed places."""
    model = parse_model(tokenizer.model)
    for first, second in ((3, 9), (4, 8)):
        one, two = model.pieces[first], model.pieces[second]
        one.piece, two.piece = two.piece, one.piece
    return Tokenizer(model.SerializeToString())
