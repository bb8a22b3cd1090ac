"""From fairseq: the weights of a RoBERTa-shaped `model.pt`, such as XLM-R's or InfoXLM's, under Hugging Face's names.

Knows fairseq's names and shapes, of all its generations; unpickles tensors and an argument namespace, and nothing else.
"""

from __future__ import annotations

import argparse
import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoints import weights_only
from pipeline.model.encoder import EncoderConfig
from pipeline.weights.sentence_projection import TENSOR, ProjectedVectors

CHECKPOINT = "model.pt"
_LAYER = "sentence_encoder.layers."
# fairseq renamed `decoder` to `encoder` and `emb_layer_norm` to `layernorm_embedding`, and cut `in_proj_weight` into query,
# key and value (its own upgrade_state_dict_named does the same to old files); it has no token types and norms of ε 1e-5.
_NAMES = {
    r"sentence_encoder\.embed_tokens\.": "roberta.embeddings.word_embeddings.",
    r"sentence_encoder\.embed_positions\.": "roberta.embeddings.position_embeddings.",
    r"sentence_encoder\.(emb_layer_norm|layernorm_embedding)\.": "roberta.embeddings.LayerNorm.",
    r"sentence_encoder\.layers\.(\d+)\.self_attn\.q_proj\.": r"roberta.encoder.layer.\1.attention.self.query.",
    r"sentence_encoder\.layers\.(\d+)\.self_attn\.k_proj\.": r"roberta.encoder.layer.\1.attention.self.key.",
    r"sentence_encoder\.layers\.(\d+)\.self_attn\.v_proj\.": r"roberta.encoder.layer.\1.attention.self.value.",
    r"sentence_encoder\.layers\.(\d+)\.self_attn\.out_proj\.": r"roberta.encoder.layer.\1.attention.output.dense.",
    r"sentence_encoder\.layers\.(\d+)\.self_attn_layer_norm\.": r"roberta.encoder.layer.\1.attention.output.LayerNorm.",
    r"sentence_encoder\.layers\.(\d+)\.fc1\.": r"roberta.encoder.layer.\1.intermediate.dense.",
    r"sentence_encoder\.layers\.(\d+)\.fc2\.": r"roberta.encoder.layer.\1.output.dense.",
    r"sentence_encoder\.layers\.(\d+)\.final_layer_norm\.": r"roberta.encoder.layer.\1.output.LayerNorm.",
    r"lm_head\.dense\.": "lm_head.dense.",
    r"lm_head\.layer_norm\.": "lm_head.layer_norm.",
    r"lm_head\.weight$": "lm_head.decoder.weight",
    r"lm_head\.bias$": "lm_head.bias",
}
_EMBEDDINGS = "roberta.embeddings."
# InfoXLM's: the trained model and its moving average, each a RoBERTa, and a matrix [1, D, D] that vectors are multiplied with
# from the left, so that a linear layer holds its transpose.
_TRAINED, _MATRIX, _LAYER_OF_CONTRAST = "model_fast.", "proj_matrix_fast", 8
"""The layer where `args` name none, as the released code takes it then."""


@dataclass
class FairseqModel:
    """A model.pt as it was read."""

    sizes: EncoderConfig
    state: dict[str, Tensor]
    """fp32, named as in `XLMRobertaForMaskedLM`, and `TENSOR` where there is a sentence projection."""
    projected: ProjectedVectors | None = None
    """What the sentence projection is for."""
    notes: list[str] = field(default_factory=list)


def read_fairseq(path: Path, dropout: float = 0.0) -> FairseqModel:
    """Sizes and tensors of a fairseq checkpoint; of InfoXLM's, those of the model that was trained, and its projection.

    ValueError of one line where the file is damaged, holds objects other than tensors and arguments, or another model.
    """
    content = _unpickle(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise ValueError(f"{path}: holds no `model` with tensors; give fairseq's model.pt of XLM-R")
    arguments = _arguments(content)
    model, matrix, notes = _trained(path, model)
    state = _renamed(path, model)
    sizes = _sizes(path, state, arguments, dropout)
    _check_head(path, state)
    state = {name: tensor.float() for name, tensor in state.items()}
    if matrix is None:
        return FairseqModel(sizes, state, notes=notes)
    if list(matrix.shape) != [1, sizes.hidden, sizes.hidden]:
        raise ValueError(
            f"{path}: {_MATRIX} is {list(matrix.shape)}, {[1, sizes.hidden, sizes.hidden]} is wanted; copy it again"
        )
    layer = arguments.get("xlco_layer", _LAYER_OF_CONTRAST)
    if not isinstance(layer, int) or not 0 <= layer <= sizes.layers:
        raise ValueError(
            f"{path}: xlco_layer is {layer!r}, the model has {sizes.layers} layers; save it anew with the one in its args"
        )
    state[TENSOR] = matrix[0].float().T.contiguous()
    return FairseqModel(sizes, state, ProjectedVectors(layer, "first"), notes)


def _trained(path: Path, model: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None, list[str]]:
    """(the model that was trained, its projection, notes on what is left out); another checkpoint than InfoXLM's as it is."""
    if not any(name.startswith(_TRAINED) for name in model):
        return model, None, []
    taken = {name.removeprefix(_TRAINED): tensor for name, tensor in model.items() if name.startswith(_TRAINED)}
    left = {name.partition(".")[0] for name in model if not name.startswith(_TRAINED) and name != _MATRIX}
    kept = "model_fast and its projection are" if _MATRIX in model else "model_fast is"
    note = f"{path}: is InfoXLM's; {kept} taken, left out are {', '.join(sorted(left)) or 'no others'}"
    return taken, model.get(_MATRIX), [note]


def _unpickle(path: Path) -> Any:
    try:
        return weights_only.load(path, argparse.Namespace)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"pickled objects ({named[1]})" if named else "something else"
        raise ValueError(
            f"{path}: holds {what} beside tensors and arguments, and loading them could run code; where you trust the file, "
            'load it with fairseq and save {"args": vars(args), "model": model} alone'
        ) from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "its end is missing"
        raise ValueError(f"{path}: cannot be read ({reason}); copy it again") from None


def _arguments(content: dict[str, Any]) -> dict[str, Any]:
    """What the model was built with: `args` of old files, `cfg.model` of newer ones."""
    config = content.get("cfg")
    for found in (content.get("args"), config.get("model") if isinstance(config, dict) else None):
        if isinstance(found, argparse.Namespace):
            return vars(found)
        if isinstance(found, dict):
            return found
    return {}


def _renamed(path: Path, model: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names; ValueError where the encoder or its head has a tensor that XLM-R's has not."""
    state: dict[str, Tensor] = {}
    for full_name, tensor in _split_projections(model).items():
        name = full_name.partition(".")[2] if full_name.startswith(("decoder.", "encoder.")) else full_name
        # Version marks, and heads of fine-tuned models, which continue as encoders.
        if name.endswith(("version", "_float_tensor")) or not name.startswith(("sentence_encoder.", "lm_head.")):
            continue
        for pattern, replacement in _NAMES.items():
            renamed, hits = re.subn(f"^{pattern}", replacement, name)
            if hits:
                state[renamed] = tensor
                break
        else:
            raise ValueError(f"{path}: has {full_name}, which XLM-R has not; only its post-norm layers are built")
    return state


def _split_projections(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value of their own, where the oldest files hold them as one tensor, in this order."""
    split: dict[str, Tensor] = {}
    for name, tensor in model.items():
        stem, found, kind = name.partition(".in_proj_")
        if not found:
            split[name] = tensor
            continue
        for part, third in zip("qkv", tensor.chunk(3), strict=True):
            split[f"{stem}.{part}_proj.{kind}"] = third
    return split


def _sizes(path: Path, state: dict[str, Tensor], arguments: dict[str, Any], dropout: float) -> EncoderConfig:
    """Sizes by the tensors' shapes; only the number of heads leaves no trace in them."""
    activation = arguments.get("activation_fn", "gelu")
    if activation != "gelu":
        raise ValueError(f"{path}: activation_fn is {activation!r}, only gelu is built; give another model")
    heads = arguments.get("encoder_attention_heads")
    if not isinstance(heads, int) or heads < 1:
        raise ValueError(
            f"{path}: its args (or cfg.model) lack encoder_attention_heads, which no tensor tells; save it anew with them"
        )
    layers = {int(name.split(".")[3]) for name in state if name.startswith("roberta.encoder.layer.")}
    word = _tensor(path, state, f"{_EMBEDDINGS}word_embeddings.weight")
    state[f"{_EMBEDDINGS}token_type_embeddings.weight"] = torch.zeros(1, word.shape[1])
    if not layers:
        raise ValueError(f"{path}: has no {_LAYER}0; give fairseq's model.pt of XLM-R")
    if word.shape[1] % heads:
        raise ValueError(f"{path}: encoder_attention_heads = {heads} does not divide the width {word.shape[1]}")
    return EncoderConfig(
        vocab_size=len(word),
        layers=max(layers) + 1,
        hidden=word.shape[1],
        heads=heads,
        feed_forward=len(_tensor(path, state, "roberta.encoder.layer.0.intermediate.dense.weight")),
        positions=len(_tensor(path, state, f"{_EMBEDDINGS}position_embeddings.weight")),
        dropout=dropout,
    )


def _check_head(path: Path, state: dict[str, Tensor]) -> None:
    """ValueError where a masked-LM head is there in part, or has a vocabulary matrix of its own; ours is tied."""
    wanted = {
        f"lm_head.{name}" for name in ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias", "bias")
    }
    found = {name for name in state if name.startswith("lm_head.")} - {"lm_head.decoder.weight"}
    if found and found != wanted:
        raise ValueError(f"{path}: its head lacks {min(wanted - found)}; give a whole model.pt, or one without lm_head")
    projection = state.pop("lm_head.decoder.weight", None)
    if projection is not None and not torch.equal(projection, state[f"{_EMBEDDINGS}word_embeddings.weight"]):
        raise ValueError(
            f"{path}: lm_head.weight differs from embed_tokens.weight (untie_weights_roberta); only tied heads are built"
        )


def _tensor(path: Path, state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(
            f"{path}: lacks {name.removeprefix('roberta.')} (as Hugging Face names it); give XLM-R's model.pt"
        )
    return state[name]
