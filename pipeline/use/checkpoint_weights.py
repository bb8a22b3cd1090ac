"""The weights of a checkpoint, whatever ZeRO stage wrote them, under Hugging Face's names.

Reads what DeepSpeed wrote; knows our names of parameters and nothing of what the weights are for.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from data_prep.quiet import prints_hidden
from pipeline.checkpoint import CheckpointInfo
from pipeline.hugging_face import hugging_face_state
from pipeline.objectives.masked_lm import HEAD

ENCODER_PREFIX, HEAD_PREFIX = "encoder.", f"heads.{HEAD}."


def full_state(found: Path, info: CheckpointInfo) -> dict[str, Tensor]:
    """All parameters in fp32, whatever the ZeRO stage that wrote them."""
    if info.zero_stage == 0:
        (path,) = found.glob("mp_rank_00_model_states.pt")
        # Sealed by our own manifest, and DeepSpeed's state holds more than tensors.
        content = torch.load(path, map_location="cpu", weights_only=False)
        return {name: tensor.float() for name, tensor in content["module"].items()}
    with prints_hidden():
        # Only here: DeepSpeed takes seconds to import.
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        state: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(found.parent), found.name)
    return state


def hugging_face_parts(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """(state dict of `XLMRobertaForMaskedLM`, without its head where there is none; whether there is one)."""
    encoder = {name.removeprefix(ENCODER_PREFIX): t for name, t in state.items() if name.startswith(ENCODER_PREFIX)}
    head = {name.removeprefix(HEAD_PREFIX): t for name, t in state.items() if name.startswith(HEAD_PREFIX)}
    if head:
        head["weight"] = encoder["word.weight"]
    return hugging_face_state(encoder, head or None), bool(head)
