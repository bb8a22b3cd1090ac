"""To and from Hugging Face: the encoder's and the masked-LM head's parameters under `XLMRobertaForMaskedLM`'s names.

Knows names and shapes; reads safetensors (or `.bin` with weights-only loading) and never runs a Hugging Face model.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from data_prep.tokenizers.special_ids import BOS, EOS, PAD
from data_prep.tokenizers.tokenizer import GET_MODEL
from pipeline.checkpoints import weights_only
from pipeline.model.encoder import Encoder, EncoderConfig

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
    # Ours alone: no model of theirs has such a bias, and none is written with it, see `check_plain`.
    r"distances\.": "encoder.relative_distances.",
    r"layers\.(\d+)\.gate\.": r"encoder.layer.\1.attention.self.relative_gate.",
}
_HEAD_NAMES = {
    "dense.weight": "lm_head.dense.weight",
    "dense.bias": "lm_head.dense.bias",
    "norm.weight": "lm_head.layer_norm.weight",
    "norm.bias": "lm_head.layer_norm.bias",
    "weight": "lm_head.decoder.weight",
    "bias": "lm_head.bias",
}
HEAD_PARAMETERS = tuple(name for name in _HEAD_NAMES if name != "weight")
"""The masked-LM head's own; its output layer is tied to the word embeddings."""
_CONFIG_NAMES = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "layers",
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "intermediate_size": "feed_forward",
    "max_position_embeddings": "positions",
    "layer_norm_eps": "norm_eps",
}
_DEFAULTS = {  # `XLMRobertaConfig`'s, for what a config.json leaves out
    "vocab_size": 30522,
    "num_hidden_layers": 12,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
}
_BUILT = {  # what changes hidden states and is built in one way only
    "hidden_act": "gelu",
    "pad_token_id": PAD,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}
DROPOUTS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
"""`XLMRobertaConfig`'s and XLM-R's own, which fine-tuning wants whatever pretraining was done with."""
_MOST = 2**24
"""More than any size of a model; a config.json that says more is damaged."""
CONFIG_NAME = "config.json"
ARCHITECTURE = "xlm-roberta"
"""The model_type that has an encoder of our own."""
SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"


def hugging_face_name(name: str) -> str:
    """Our encoder parameter's name in `XLMRobertaModel`."""
    for pattern, replacement in _ENCODER_NAMES.items():
        renamed, hits = re.subn(f"^{pattern}", replacement, name)
        if hits:
            return renamed
    raise AssertionError(f"no Hugging Face name for {name}")


def head_name(name: str) -> str:
    """Our head parameter's name in `XLMRobertaForMaskedLM`."""
    return _HEAD_NAMES[name]


def hugging_face_state(encoder: dict[str, Tensor], head: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """State dict of `XLMRobertaForMaskedLM` (with a head) or the encoder's part of it (without)."""
    state = {f"roberta.{hugging_face_name(name)}": tensor for name, tensor in encoder.items()}
    if head is not None:
        state |= {_HEAD_NAMES[name]: tensor for name, tensor in head.items()}
        state["lm_head.decoder.bias"] = state["lm_head.bias"]
    return state


def other_architecture(folder: Path) -> str | None:
    """The model_type of a Hugging Face folder of another architecture than XLM-R's; None: it has that one, or is no such
    folder at all."""
    try:
        content = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = content.get("model_type") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) and kind != ARCHITECTURE else None


def read_config_json(folder: Path) -> dict[str, Any]:
    """A Hugging Face folder's config.json as it stands; ValueError where it is not one of an xlm-roberta model."""
    path = folder / CONFIG_NAME
    if folder.is_file():
        raise ValueError(f"{folder}: is a file; give the Hugging Face folder that it lies in")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); give a Hugging Face model folder ({GET_MODEL})"
        ) from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not valid JSON; give a Hugging Face model folder ({GET_MODEL})") from None
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(content, dict) or kind != ARCHITECTURE:
        raise ValueError(
            f"{path}: model_type is {kind!r}, an xlm-roberta model is needed; align, evaluate, show and demo alone take others"
        )
    return content


def read_config(folder: Path, dropout: float = 0.0) -> EncoderConfig:
    """Sizes of the XLM-R-shaped model in a Hugging Face folder; ValueError where it is something else.

    What config.json leaves out is as in Hugging Face's `XLMRobertaConfig`.
    """
    return sizes_of(read_config_json(folder), folder / CONFIG_NAME, dropout)


def sizes_of(content: dict[str, Any], path: Path, dropout: float = 0.0) -> EncoderConfig:
    """The sizes in what a config.json at `path` says of an XLM-R-shaped encoder; ValueError where it is something else."""
    for name, built in _BUILT.items():
        if content.get(name, built) != built:
            raise ValueError(f"{path}: {name} is {content[name]!r}, only {built!r} is built; give another model")
    sizes = {ours: content.get(theirs, _DEFAULTS[theirs]) for theirs, ours in _CONFIG_NAMES.items()}
    for theirs, ours in _CONFIG_NAMES.items():
        kinds = (int, float) if ours == "norm_eps" else (int,)
        if not _is_number(sizes[ours], kinds) or not 0 < sizes[ours] < _MOST:
            raise ValueError(
                f"{path}: {theirs} is {sizes[ours]!r}, not a number above 0; give an xlm-roberta model folder"
            )
    init_std = content.get("initializer_range", 0.02)
    if not _is_number(init_std, (int, float)) or not 0 <= init_std < _MOST:
        raise ValueError(f"{path}: initializer_range is {init_std!r}, not a number from 0; correct the file")
    try:
        return EncoderConfig(**sizes, dropout=dropout, init_std=init_std)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _is_number(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def read_dropouts(folder: Path) -> dict[str, float]:
    """The two dropout rates of a folder's config.json, by Hugging Face's names."""
    content = read_config_json(folder)
    rates = {name: content.get(name, rate) for name, rate in DROPOUTS.items()}
    for name, rate in rates.items():
        if not _is_number(rate, (int, float)) or not 0 <= rate < 1:
            raise ValueError(
                f"{folder / CONFIG_NAME}: {name} is {rate!r}, not a share from 0 to below 1; correct the file"
            )
    return rates


def read_state(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder, fp32; safetensors (one file or sharded) first, else weights-only `.bin`.

    An output layer of its own comes along only where config.json says that it is not tied to the word embeddings.
    """
    state = read_tensors(folder)
    tied = read_config_json(folder).get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise ValueError(
            f"{folder / CONFIG_NAME}: tie_word_embeddings is {tied!r}, not true or false; correct the file"
        )
    if tied:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("lm_head.decoder.")}
    # BERT's names of a norm's weight and bias, which old files still have.
    renamed = {re.sub(r"(LayerNorm|layer_norm)\.gamma$", r"\1.weight", name): tensor for name, tensor in state.items()}
    renamed = {re.sub(r"(LayerNorm|layer_norm)\.beta$", r"\1.bias", name): tensor for name, tensor in renamed.items()}
    _check_layers(read_config(folder).layers, renamed, folder)
    return {name: tensor.float() for name, tensor in renamed.items()}


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder as they lie there; ValueError where there are none, or more than tensors."""
    state: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        state |= _read_tensor_file(path)
    return state


def _check_layers(layers: int, state: Iterable[str], source: Path) -> None:
    """ValueError where the weights have other layers: without some of them hidden states would be others."""
    names = (re.match(r"(?:roberta\.)?encoder\.layer\.(\d+)\.", name) for name in state)
    held = {int(found[1]) for found in names if found}
    if len(held) != layers or max(held) >= layers:
        raise ValueError(
            f"{source}: num_hidden_layers is {layers}, its weights have {len(held)} layers; correct {CONFIG_NAME}, or copy "
            "the folder again"
        )


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights; ValueError where there are none."""
    for single in (SAFETENSORS, PICKLED):
        index = folder / f"{single}.index.json"
        if index.is_file():
            return [folder / name for name in _shard_names(index)]
        if (folder / single).is_file():
            return [folder / single]
    raise ValueError(
        f"{folder}: holds neither {SAFETENSORS} nor {PICKLED}; give a Hugging Face model folder ({GET_MODEL})"
    )


def _shard_names(index: Path) -> list[str]:
    """ValueError where the index is damaged or names anything but files beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        damaged = [name for name in names if Path(name).name != name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{index}: damaged; copy the folder again") from None
    if damaged or not names:
        raise ValueError(
            f"{index}: names {damaged or 'no file'}, its weights must lie beside it; copy the folder again"
        )
    for name in names:
        if not (index.parent / name).is_file():
            raise ValueError(
                f"{index.parent / name}: no such file, though {index.name} names it; copy the folder again"
            )
    return names


def _read_tensor_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file; never runs what a pickle holds."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = weights_only.load(path)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds more than tensors, and loading it could run code; give {SAFETENSORS} instead"
        ) from None
    except (SafetensorError, OSError, RuntimeError, KeyError, EOFError) as error:
        raise ValueError(f"{path}: weights cannot be read ({str(error).splitlines()[0]}); copy them again") from None
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{path}: is no dictionary of tensors; give {SAFETENSORS} instead")
    return content


def _tensors_of(names: Iterable[str], state: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The encoder's tensors by our names (Hugging Face's have `roberta.` before them or not)."""
    found = {}
    for name in names:
        theirs = hugging_face_name(name)
        tensor = state.get(f"roberta.{theirs}", state.get(theirs))
        if tensor is None:
            raise ValueError(f"{source}: lacks {theirs} (Hugging Face's name); give a whole xlm-roberta model")
        # A token of XLM-R is always of type 0, however many types there are.
        found[name] = tensor[:1] if name.startswith("token_type.") and tensor.dim() == 2 else tensor
    return found


class WithoutDrawing(TorchFunctionMode):
    """While it is active, `torch.nn.init` does nothing: modules are made whose weights come from elsewhere.

    To draw on the meta device costs nothing but PyTorch's import of its compiler, which takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def build_encoder(sizes: EncoderConfig, state: dict[str, Tensor], source: Path) -> Encoder:
    """An encoder that holds the state's own tensors, without drawing weights first; see `load_encoder`."""
    _check_layers(sizes.layers, state, source)
    with torch.device("meta"), WithoutDrawing():
        encoder = Encoder(sizes)
    tensors = _tensors_of(encoder.state_dict(), state, source)
    _check_shapes(encoder, tensors, source)
    encoder.load_state_dict(tensors, assign=True)
    return encoder


def _check_shapes(encoder: Encoder, tensors: dict[str, Tensor], source: Path) -> None:
    for name, tensor in encoder.state_dict().items():
        if tensors[name].shape != tensor.shape:
            raise ValueError(
                f"{source}: {hugging_face_name(name)} is {list(tensors[name].shape)}, its other sizes ask for "
                f"{list(tensor.shape)}"
            )


def load_encoder(encoder: Encoder, state: dict[str, Tensor], source: Path) -> None:
    """Copy the encoder's weights from a state dict of Hugging Face's names; ValueError where one lacks or does not fit."""
    tensors = _tensors_of(encoder.state_dict(), state, source)
    _check_shapes(encoder, tensors, source)
    for name, tensor in encoder.state_dict().items():
        tensor.copy_(tensors[name])


def has_head(state: dict[str, Tensor], source: Path) -> bool:
    """Whether a masked-LM head is among the tensors; ValueError where it has an output layer of its own."""
    if any(_HEAD_NAMES[name] not in state for name in HEAD_PARAMETERS):
        return False
    _check_tied(state, source)
    return True


def load_head(head: nn.Module, state: dict[str, Tensor], source: Path) -> bool:
    """Copy the masked-LM head's own weights (the decoder is tied); False, and nothing done, where there are none.

    ValueError where the head does not fit, or has an output layer of its own.
    """
    if not has_head(state, source):
        return False
    own = {name: tensor for name, tensor in head.state_dict().items() if name in HEAD_PARAMETERS}
    for name, tensor in own.items():
        theirs = _HEAD_NAMES[name]
        if state[theirs].shape != tensor.shape:
            raise ValueError(
                f"{source}: {theirs} is {list(state[theirs].shape)}, the encoder asks for {list(tensor.shape)}"
            )
        tensor.copy_(state[theirs])
    return True


def _check_tied(state: dict[str, Tensor], source: Path) -> None:
    """ValueError where the output layer is another matrix than the word embeddings, or has another bias than the head's."""
    word = state.get("roberta.embeddings.word_embeddings.weight", state.get("embeddings.word_embeddings.weight"))
    for own, shared in (("lm_head.decoder.weight", word), ("lm_head.decoder.bias", state.get("lm_head.bias"))):
        if own in state and (shared is None or not torch.equal(state[own], shared)):
            raise ValueError(
                f"{source}: its output layer is not tied to the word embeddings (tie_word_embeddings is false and {own} "
                "differs), only tied ones are built; give a model with a tied output layer"
            )


def check_plain(sizes: EncoderConfig, place: Path) -> None:
    """ValueError where a model cannot be said in Hugging Face's terms, nor in fairseq's."""
    if sizes.gated_relative:
        raise ValueError(
            f"{place}: has a gated relative position bias (model.positions), which neither Hugging Face's nor fairseq's models "
            "have; align, evaluate, show and demo, and training that begins with it, take the run or checkpoint as it is"
        )


def write_config(config: EncoderConfig, dropouts: dict[str, float] | None = None) -> dict[str, Any]:
    """Keyword arguments of `XLMRobertaConfig` for this encoder; dropouts: other rates than the encoder's."""
    assert not config.gated_relative, "`check_plain` has asked"
    sizes = {theirs: getattr(config, ours) for theirs, ours in _CONFIG_NAMES.items()}
    rates = dropouts or dict.fromkeys(DROPOUTS, config.dropout)
    other = {"initializer_range": config.init_std}
    specials = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    return {**sizes, **rates, **other, "type_vocab_size": 1, **specials}
