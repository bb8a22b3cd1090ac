"""A checkpoint as a Hugging Face folder: fp32 weights of `XLMRobertaForMaskedLM`, the tokenizer, a model card.

Reads a sealed checkpoint and the tokenizer of its run; trains and measures nothing. The folder is made beside its place and
renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.tokenizer import META_NAME, MODEL_NAME, Tokenizer
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.model.encoder import EncoderConfig
from pipeline.model.heads import MaskedLMHead
from pipeline.weights.consolidate import full_state, hugging_face_parts
from pipeline.weights.export_folder import clear_killed, new_folder
from pipeline.weights.hugging_face import CONFIG_NAME, SAFETENSORS, WithoutDrawing, write_config
from pipeline.weights.hugging_face_tokenizer import save_tokenizer
from pipeline.weights.loading import ModelFolder, checkpoint_tokenizer, sizes_of
from pipeline.weights.model_card import model_card
from pipeline.weights.model_record import SECTION, Record, record_of_checkpoint, section_of
from pipeline.weights.pretrained import DROPOUTS

CARD_NAME = "README.md"
WRITTEN = {CONFIG_NAME, SAFETENSORS, MODEL_NAME, META_NAME, CARD_NAME, "tokenizer.json", "tokenizer_config.json"}
"""All that an export writes; a folder that holds something else is never replaced."""
COMPARED_SENTENCES = 100
"""Of each language, which both tokenizers must encode alike."""
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True)
class Exported:
    """What was written."""

    step: int
    parameters: int
    layers: int
    head: bool
    """Whether the masked-LM head was trained; a run without MLM and TLM has none, and the folder then a fresh one."""
    record: Record
    notes: list[str]


def export(source: Path, out: Path, tokenizer_dir: Path | None = None, force: bool = False) -> Exported:
    """Write checkpoint `source` (a step_* folder, or a run folder: its latest good one) to the Hugging Face folder `out`.

    Args:
        tokenizer_dir: the tokenizer where the run's own copy is gone; it must be the same one.
        force: replace an export that `out` holds.

    Raises:
        ValueError: no good checkpoint, another tokenizer, `out` holds something, or there is no room for it; `out` is then as
            it was.
    """
    tidied = clear_killed(out)
    _check_place(out, force)
    found, info, notes = checkpoint.find_model(source)
    notes = tidied + notes
    sizes = sizes_of(found, info)
    record = record_of_checkpoint(info, found)
    place = ModelFolder(source, sizes, {}, checkpoint_tokenizer(found, info), record, info.dropouts)
    tokenizer = place.tokenizer(tokenizer_dir)
    record = Record(record.options, tokenizer.identity())

    state, head = hugging_face_parts(full_state(found, info))
    if not head:
        state |= _fresh_head(sizes)
    # The output layer is tied to the word embeddings, and so left out, as Hugging Face does.
    state = {name: tensor.contiguous() for name, tensor in state.items() if not name.startswith("lm_head.decoder.")}
    parameters = sum(tensor.numel() for tensor in state.values())
    done = Exported(info.step, parameters, sizes.layers, head, record, notes)
    with new_folder(out, 4 * parameters + 6 * len(tokenizer.model) + _SPARE_BYTES) as folder:
        save_tokenizer(tokenizer, folder, sizes.positions - 2, training_text(info, tokenizer))
        save_file(state, folder / SAFETENSORS, metadata={"format": "pt"})
        _write(folder / CONFIG_NAME, json.dumps(config_of(info, record), indent=2, ensure_ascii=False) + "\n")
        _write(folder / CARD_NAME, model_card(out.resolve().name, info, done))
    return done


def config_of(info: CheckpointInfo, record: Record) -> dict[str, Any]:
    """The config.json of `XLMRobertaForMaskedLM`, with the record as a section that Transformers does not read.

    Dropout is that of the model which training began with, or XLM-R's: what pretraining itself used says nothing of what
    fine-tuning wants.
    """
    config = write_config(EncoderConfig(**info.encoder), info.dropouts or DROPOUTS)
    return {
        "architectures": ["XLMRobertaForMaskedLM"],
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "tie_word_embeddings": True,
        "dtype": "float32",
        **config,
        SECTION: section_of(record),
    }


def training_text(info: CheckpointInfo, tokenizer: Tokenizer) -> list[str]:
    """Some sentences of every language that the run was trained on, if its token files are still there."""
    data = checkpoint.data_of(info)
    if data is None:
        return []
    with contextlib.suppress(ValueError, OSError):  # they are gone, moved or made anew: the run does not need them
        manifest = Manifest.read(data)
        if manifest.tokenizer_sha256 == tokenizer.sha256:
            firsts = [shards[0] for group in (manifest.mono, manifest.pairs) for shards in group.values()]
            return [text for shard in firsts for text in _first_sentences(TokenFile(shard.stem), tokenizer)]
    return []


def _first_sentences(file: TokenFile, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode(file.read_sequence(at).tolist()) for at in range(min(len(file), COMPARED_SENTENCES))]


def _fresh_head(sizes: EncoderConfig) -> dict[str, Tensor]:
    """Weights of a masked-LM head that nobody has trained, so that Hugging Face finds all that it looks for."""
    with torch.device("meta"), WithoutDrawing():
        word = torch.nn.Embedding(sizes.vocab_size, sizes.hidden)
    head = MaskedLMHead(word, sizes.norm_eps, sizes.init_std)
    names = {"dense.weight": "dense.weight", "dense.bias": "dense.bias", "bias": "bias"}
    names |= {"norm.weight": "layer_norm.weight", "norm.bias": "layer_norm.bias"}
    return {f"lm_head.{theirs}": head.state_dict()[ours] for ours, theirs in names.items()}


def _check_place(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; give the folder to write")
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if not held:
        return
    if not force:
        raise ValueError(f"{out}: is not empty; give a new folder, or --force to replace the export that it holds")
    foreign = [name for name in held if name not in WRITTEN]
    if foreign:
        raise ValueError(f"{out}: holds {foreign[0]}, which no export wrote, and is not replaced; give another folder")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
