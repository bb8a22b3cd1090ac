"""Encoders of other architectures than XLM-R's: a Hugging Face folder in, the model as Transformers builds it out.

Weights are read as all others are, and a folder's own code is never run. Knows folders and Transformers' classes; nothing of
what a model is used for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    MODEL_MAPPING,
    MODEL_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from data_prep.quiet import prints_hidden
from data_prep.tokenizers.hub import first_line
from pipeline.model.transformers_encoder import TransformersEncoder, TransformersShape
from pipeline.weights.hugging_face import CONFIG_NAME, read_tensors
from pipeline.weights.transformers_tokenizer import TransformersTokenizer, read_transformers_tokenizer

MORE_LAYERS = re.compile(r"(?!decoder\.)(.*\.)?(layer|layers|block|attentions)\.\d+\.")
"""Weights of a layer, by whatever name an encoder has for them."""
UNLIMITED = 512
"""Tokens of the longest sequence where a model has no bound of its own: T5's, whose positions are relative."""
ENCODERS = "give an encoder, as BERT, XLM-R, DeBERTa or ModernBERT"


def read_transformers_model(
    folder: Path, tokenizer_dir: Path | None = None
) -> tuple[TransformersEncoder, TransformersTokenizer]:
    """The model of a folder in fp32, and its tokenizer or that of `tokenizer_dir`.

    Raises:
        ValueError: it is no encoder of text that Transformers knows, or is damaged; one line that names the folder.
    """
    config = _read_config(folder)
    model = _read_model(folder, config)
    rows = model.get_input_embeddings().weight.shape[0]
    tokenizer = read_transformers_tokenizer(tokenizer_dir or folder, rows)
    layers = int(config.num_hidden_layers)
    pad_id = config.pad_token_id if isinstance(config.pad_token_id, int) else 0
    shape = TransformersShape(layers, _longest(model))
    probe = tokenizer.template.alone.around(tokenizer.encode_words(["a"])[0])
    try:
        return TransformersEncoder(model, shape, pad_id, probe), tokenizer
    except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"{folder}: its {type(model).__name__} cannot be used ({first_line(error)}); {ENCODERS}"
        ) from None


def _read_config(folder: Path) -> PretrainedConfig:
    """The config, of an encoder of text; ValueError where it is something else."""
    path = folder / CONFIG_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    kind = content["model_type"]
    if kind not in MODEL_MAPPING_NAMES:
        if "auto_map" in content:
            raise ValueError(
                f"{path}: model_type {kind!r} needs code of its own (auto_map), which is never run; {ENCODERS}"
            )
        raise ValueError(
            f"{path}: model_type {kind!r} is unknown to Transformers {transformers.__version__}; {ENCODERS}, or install a "
            "newer Transformers"
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of any kind: checks of config classes raise what they like
        raise ValueError(f"{path}: cannot be read ({first_line(error)}); copy the folder again") from None
    if config.is_encoder_decoder:
        if kind not in MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
            raise ValueError(f"{path}: model_type {kind!r} is an encoder with a decoder; {ENCODERS}")
    elif getattr(config, "is_decoder", False) or kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        what = "a decoder" if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES else "no encoder of text"
        raise ValueError(f"{path}: model_type {kind!r} is {what}; {ENCODERS}")
    return config


def _read_model(folder: Path, config: PretrainedConfig) -> Any:
    """ValueError where weights are missing, of other shapes, or more than tensors."""
    classes = MODEL_FOR_TEXT_ENCODING_MAPPING if config.is_encoder_decoder else MODEL_MAPPING
    model_class: Any = classes[type(config)]
    state = read_tensors(folder)
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with prints_hidden():
            model, found = model_class.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told below
            )
    except Exception as error:  # of any kind, as above
        raise ValueError(
            f"{folder}: its weights do not fit {CONFIG_NAME} ({first_line(error)}); copy the folder again"
        ) from None
    finally:
        transformers_logging.set_verbosity(level)
    for name, theirs, ours in sorted(found["mismatched_keys"]):
        raise ValueError(
            f"{folder}: {name} is {list(theirs)}, {CONFIG_NAME} asks for {list(ours)}; correct it, or copy the folder again"
        )
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if missing:
        raise ValueError(f"{folder}: lacks {missing[0]} (Transformers' name); give a whole {config.model_type} model")
    more = sorted(name for name in found["unexpected_keys"] if MORE_LAYERS.match(name))
    if more:
        raise ValueError(
            f"{folder}: has {more[0]}, a layer more than {CONFIG_NAME} says; correct it, or copy the folder again"
        )
    return model


def _longest(model: PreTrainedModel) -> int:
    """Tokens of the longest sequence: RoBERTa's positions, in which padding has its own, begin after that."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return UNLIMITED
    for name, module in model.named_modules():
        if "position" in name and isinstance(module, nn.Embedding) and module.num_embeddings == positions:
            return positions - (0 if module.padding_idx is None else module.padding_idx + 1)
    return positions
