"""To and from Hugging Face: the encoder's and the masked-LM head's parameters under `XLMRobertaForMaskedLM`'s names.

Knows names and shapes; reads safetensors (or `.bin` with weights-only loading) and never runs a Hugging Face model.
"""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.model import Encoder, EncoderConfig

_ENCODER_NAMES = {
    r"word\.": "embeddings.word_embeddings.",
    r"position\.": "embeddings.position_embeddings.",
    r"token_type\.": "embeddings.token_type_embeddings.",
    r"embedding_norm\.": "embeddings.LayerNorm.",
    r"layers\.(\d+)\.(query|key|value)\.": r"encoder.layer.\1.attention.self.\2.",
    r"layers\.(\d+)\.attention_out\.": r"encoder.layer.\1.attention.output.dense.",
    r"layers\.(\d+)\.attention_norm\.": r"encoder.layer.\1.attention.output.LayerNorm.",
    r"layers\.(\d+)\.up\.": r"encoder.layer.\1.intermediate.dense.",
    r"layers\.(\d+)\.down\.": r"encoder.layer.\1.output.dense.",
    r"layers\.(\d+)\.norm\.": r"encoder.layer.\1.output.LayerNorm.",
}
_HEAD_NAMES = {
    "dense.weight": "lm_head.dense.weight",
    "dense.bias": "lm_head.dense.bias",
    "norm.weight": "lm_head.layer_norm.weight",
    "norm.bias": "lm_head.layer_norm.bias",
    "weight": "lm_head.decoder.weight",
    "bias": "lm_head.bias",
}
_CONFIG_NAMES = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "intermediate_size": "feed_forward",
    "max_position_embeddings": "positions",
    "layer_norm_eps": "norm_eps",
}


def hugging_face_name(name: str) -> str:
    """Our encoder parameter's name in `XLMRobertaModel`."""
    for pattern, replacement in _ENCODER_NAMES.items():
        renamed, hits = re.subn(f"^{pattern}", replacement, name)
        if hits:
            return renamed
    raise AssertionError(f"no Hugging Face name for {name}")


def hugging_face_state(encoder: dict[str, Tensor], head: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """State dict of `XLMRobertaForMaskedLM` (with a head) or the encoder's part of it (without)."""
    state = {f"roberta.{hugging_face_name(name)}": tensor for name, tensor in encoder.items()}
    if head is not None:
        state |= {_HEAD_NAMES[name]: tensor for name, tensor in head.items()}
        state["lm_head.decoder.bias"] = state["lm_head.bias"]
    return state


def read_config(folder: Path, dropout: float = 0.0) -> EncoderConfig:
    """Sizes of the XLM-R-shaped model in a Hugging Face folder; ValueError where it is something else."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give a Hugging Face model folder") from None
    except ValueError:
        raise ValueError(f"{path}: not valid JSON; give a Hugging Face model folder") from None
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "xlm-roberta":
        raise ValueError(f"{path}: model_type is {kind!r}, an xlm-roberta model is needed")
    if content.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"{path}: hidden_act is {content['hidden_act']!r}, only gelu is built; give another model")
    missing = [name for name in _CONFIG_NAMES if name not in content]
    if missing:
        raise ValueError(f"{path}: lacks {missing[0]}; give an xlm-roberta model folder")
    sizes = {ours: content[theirs] for theirs, ours in _CONFIG_NAMES.items()}
    return EncoderConfig(**sizes, dropout=dropout, init_std=content.get("initializer_range", 0.02))


def read_state(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder, fp32; safetensors (one file or sharded) first, else weights-only `.bin`."""
    index, single, pickled = (
        folder / name for name in ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin")
    )
    try:
        if index.exists():
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            state = {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
        elif single.exists():
            state = load_file(single)
        elif pickled.exists():
            state = torch.load(pickled, map_location="cpu", weights_only=True)
        else:
            raise ValueError(f"{folder}: holds neither model.safetensors nor pytorch_model.bin; give a model folder")
    except pickle.UnpicklingError:
        raise ValueError(
            f"{pickled}: holds more than tensors, and loading it could run code; give model.safetensors instead"
        ) from None
    except (SafetensorError, OSError, RuntimeError, KeyError, EOFError) as error:
        raise ValueError(f"{folder}: weights cannot be read ({str(error).splitlines()[0]}); copy them again") from None
    return {name: tensor.float() for name, tensor in state.items()}


def load_encoder(encoder: Encoder, state: dict[str, Tensor], source: Path) -> None:
    """Copy the encoder's weights from a state dict of Hugging Face's names (`roberta.` prefix optional)."""
    ours = encoder.state_dict()
    for name, tensor in ours.items():
        theirs = hugging_face_name(name)
        found = state.get(f"roberta.{theirs}", state.get(theirs))
        if found is None:
            raise ValueError(f"{source}: lacks {theirs} (Hugging Face's name); give a whole xlm-roberta model")
        if found.shape != tensor.shape:
            raise ValueError(f"{source}: {theirs} is {list(found.shape)}, its other sizes ask for {list(tensor.shape)}")
        tensor.copy_(found)


def load_head(head: nn.Module, state: dict[str, Tensor], source: Path) -> bool:
    """Copy the masked-LM head's own weights (the decoder is tied); False, and nothing done, where there are none."""
    own = {name: tensor for name, tensor in head.state_dict().items() if name != "weight"}
    if any(_HEAD_NAMES[name] not in state for name in own):
        return False
    for name, tensor in own.items():
        theirs = _HEAD_NAMES[name]
        if state[theirs].shape != tensor.shape:
            raise ValueError(
                f"{source}: {theirs} is {list(state[theirs].shape)}, the encoder asks for {list(tensor.shape)}"
            )
        tensor.copy_(state[theirs])
    return True


def load_pretrained_encoder(folder: Path) -> Encoder:
    """An encoder in eval mode from a Hugging Face folder."""
    encoder = Encoder(read_config(folder))
    load_encoder(encoder, read_state(folder), folder)
    return encoder.eval()


def write_config(config: EncoderConfig) -> dict[str, Any]:
    """Keyword arguments of `XLMRobertaConfig` for this encoder."""
    sizes = {theirs: getattr(config, ours) for theirs, ours in _CONFIG_NAMES.items()}
    dropout = {"hidden_dropout_prob": config.dropout, "attention_probs_dropout_prob": config.dropout}
    other = {"initializer_range": config.init_std}
    return {**sizes, **dropout, **other, "type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
