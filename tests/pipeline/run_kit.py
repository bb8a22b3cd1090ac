"""Places that models lie in, without a training: a run's sealed checkpoint, as ZeRO stage 0 leaves it; fairseq's model.pt."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from data_prep.tokenizers.kinds import parse_model
from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer
from pipeline.checkpoints.checkpoint import keep_tokenizer, seal
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.settings.schema import Config
from pipeline.weights.loading import load_masked_lm

STEP = 7
CHECKPOINT = f"checkpoints/step_{STEP:08d}"


def make_run(
    hf_dir: Path,
    place: Path,
    *,
    head: bool = True,
    objectives: Any = None,
    init: str | None = None,
    more: dict[str, Tensor] | None = None,
    only: dict[str, Tensor] | None = None,
    **info: Any,
) -> Path:
    """`place`/run with the model of `hf_dir`, its token files' tokenizer in `place`/data.

    init: the model that it began with. more: parameters beside it; only: in its stead. info: more of the manifest.
    """
    encoder, lm_head, tokenizer = load_masked_lm(hf_dir)
    tokenizer.save(place / "data" / "tokenizer")
    run = place / "run"
    (run / CHECKPOINT).mkdir(parents=True)
    module = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    if head:
        module |= {f"heads.masked_lm.{name}": tensor for name, tensor in lm_head.state_dict().items()}
    module = module | (more or {}) if only is None else only
    torch.save({"module": module}, run / CHECKPOINT / "mp_rank_00_model_states.pt")
    settings = {
        "data": {"path": str(place / "data")},
        "model": {"init": init},
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


def make_fairseq(hf_dir: Path, place: Path) -> Path:
    """`place`/fairseq with a model.pt of `hf_dir`, which has no token types to lose, and the SentencePiece file."""
    names = {
        "embeddings.word_embeddings": "embed_tokens",
        "embeddings.position_embeddings": "embed_positions",
        "embeddings.LayerNorm": "emb_layer_norm",
        "encoder.layer": "layers",
        "attention.self.query": "self_attn.q_proj",
        "attention.self.key": "self_attn.k_proj",
        "attention.self.value": "self_attn.v_proj",
        "attention.output.dense": "self_attn.out_proj",
        "attention.output.LayerNorm": "self_attn_layer_norm",
        "intermediate.dense": "fc1",
        "output.dense": "fc2",
        "output.LayerNorm": "final_layer_norm",
    }
    state = load_file(hf_dir / "model.safetensors")
    state["lm_head.weight"] = state["roberta.embeddings.word_embeddings.weight"].clone()
    assert not state.pop("roberta.embeddings.token_type_embeddings.weight").any()
    renamed = {}
    for name, tensor in state.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        renamed[f"decoder.{name.replace('roberta', 'sentence_encoder')}"] = tensor
    heads = json.loads((hf_dir / "config.json").read_text(encoding="utf-8"))["num_attention_heads"]
    folder = place / "fairseq"
    folder.mkdir()
    torch.save({"args": Namespace(encoder_attention_heads=heads), "model": renamed}, folder / "model.pt")
    (folder / MODEL_NAME).write_bytes((hf_dir / MODEL_NAME).read_bytes())
    return folder
