"""A checkpoint as a Hugging Face folder: fp32 weights of `XLMRobertaForMaskedLM` and the tokenizer of the token files.

Reads a sealed checkpoint and the run's DATA_DIR; trains and measures nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from sentencepiece import sentencepiece_model_pb2
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaTokenizer
from transformers.utils import logging as transformers_logging

from data_prep.quiet import prints_hidden
from data_prep.tokenizer import Tokenizer
from pipeline import checkpoint
from pipeline.hugging_face import hugging_face_state, write_config
from pipeline.model import EncoderConfig
from pipeline.objectives.masked_lm import HEAD

ENCODER_PREFIX, HEAD_PREFIX = "encoder.", f"heads.{HEAD}."


def export(source: Path, out: Path) -> dict[str, Any]:
    """Write checkpoint `source` (a step_* folder, or a run folder: its latest good one) to the Hugging Face folder `out`.

    Returns what was written: step, parameters, layers, and whether the masked-LM head came along. A run without MLM and
    TLM has none; the folder then holds a fresh one.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty; give a new folder")
    found, _ = checkpoint.find(str(source), source)
    assert found is not None, "find raises where there is nothing"
    info = checkpoint.read_info(found)
    tokenizer = Tokenizer.load(Path(info.config["data"]["path"]) / "tokenizer")

    state, head = hugging_face_parts(full_state(found, info))
    model = XLMRobertaForMaskedLM(XLMRobertaConfig(**write_config(EncoderConfig(**info.encoder))))
    missing, unexpected = model.load_state_dict(state, strict=False)
    absent = [name for name in missing if not name.startswith("lm_head.") or head]
    assert not absent and not unexpected, f"export does not fit: lacks {absent}, has {unexpected} over"
    model.tie_weights()

    out.mkdir(parents=True, exist_ok=True)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(out)
    save_tokenizer(tokenizer, out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"step": info.step, "parameters": parameters, "layers": info.encoder["layers"], "head": head}


def hugging_face_parts(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """(state dict of `XLMRobertaForMaskedLM`, without its head where there is none; whether there is one)."""
    encoder = {name.removeprefix(ENCODER_PREFIX): t for name, t in state.items() if name.startswith(ENCODER_PREFIX)}
    head = {name.removeprefix(HEAD_PREFIX): t for name, t in state.items() if name.startswith(HEAD_PREFIX)}
    if head:
        head["weight"] = encoder["word.weight"]
    return hugging_face_state(encoder, head or None), bool(head)


def full_state(found: Path, info: checkpoint.CheckpointInfo) -> dict[str, Tensor]:
    """All parameters in fp32, whatever the ZeRO stage that wrote them."""
    if info.zero_stage == 0:
        (path,) = found.glob("mp_rank_00_model_states.pt")
        # Sealed by our own manifest, and DeepSpeed's state holds more than tensors.
        content = torch.load(path, map_location="cpu", weights_only=False)
        return {name: tensor.float() for name, tensor in content["module"].items()}
    with prints_hidden():
        return get_fp32_state_dict_from_zero_checkpoint(str(found.parent), found.name)


def save_tokenizer(tokenizer: Tokenizer, out: Path) -> None:
    """Hugging Face tokenizer files, and the SentencePiece model itself, which stays the reference for ids."""
    tokenizer.save(out)
    hugging_face_tokenizer(tokenizer).save_pretrained(str(out))


def hugging_face_tokenizer(tokenizer: Tokenizer) -> XLMRobertaTokenizer:
    """The same pieces, scores, normalisation and ids in Hugging Face's tokenizer."""
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model)  # type: ignore[attr-defined]
    specials = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    vocabulary = specials + [(piece.piece, piece.score) for piece in model.pieces[3:]] + [("<mask>", 0.0)]
    charsmap = model.normalizer_spec.precompiled_charsmap or None
    exported = XLMRobertaTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=charsmap)
    assert len(exported) == tokenizer.vocab_size, "a piece was lost on the way to Hugging Face's tokenizer"
    return exported
