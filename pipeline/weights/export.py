"""A model as a Hugging Face folder: fp32 weights of `XLMRobertaForMaskedLM`, the tokenizer, a model card; and beside the
weights the sentence projection, where the model has one.

Reads what `open_weights` opens, a run's checkpoint most of all; trains and measures nothing. The folder is made beside its
place and renamed when it is whole.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.hub import hub_name
from data_prep.tokenizers.tokenizer import META_NAME, MODEL_NAME, Tokenizer
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.model.encoder import EncoderConfig
from pipeline.model.heads import MaskedLMHead
from pipeline.settings.added_words import AddedWords
from pipeline.weights.begun_from import with_words
from pipeline.weights.card_facts import run_facts
from pipeline.weights.export_folder import clear_killed, new_folder
from pipeline.weights.hub import SENTENCE_PROJECTION
from pipeline.weights.hugging_face import (
    CONFIG_NAME,
    DROPOUTS,
    HEAD_PARAMETERS,
    SAFETENSORS,
    WithoutDrawing,
    build_encoder,
    check_plain,
    has_head,
    head_name,
    hugging_face_state,
    write_config,
)
from pipeline.weights.hugging_face_tokenizer import save_tokenizer
from pipeline.weights.model_card import Known, model_card
from pipeline.weights.model_record import SECTION, Record, section_of
from pipeline.weights.opening import Weights, open_weights
from pipeline.weights.sentence_projection import write_projection
from pipeline.weights.text_to_text_model import text_to_text_config, text_to_text_state

CARD_NAME = "README.md"
WRITTEN = {
    CONFIG_NAME,
    SAFETENSORS,
    SENTENCE_PROJECTION,
    MODEL_NAME,
    META_NAME,
    CARD_NAME,
    "tokenizer.json",
    "tokenizer_config.json",
}
"""All that an export writes; a folder that holds something else is never replaced."""
COMPARED_SENTENCES = 100
"""Of each language, which both tokenizers must encode alike."""
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True)
class Exported:
    """What was written."""

    known: Known
    notes: list[str]


def export(
    source: Path,
    out: Path,
    tokenizer_dir: Path | None = None,
    force: bool = False,
    card_name: str | None = None,
    encoder_only: bool = False,
) -> Exported:
    """Write the model of `source` (what `open_weights` takes; of a run, its latest good checkpoint) to the folder `out`.

    A model with a decoder becomes an `EncoderDecoderModel`, any other an `XLMRobertaForMaskedLM`.

    Args:
        encoder_only: leave the decoder out, and the words that it has beyond the tokenizer's.
        tokenizer_dir: the tokenizer where the model's own copy is gone; it must be the same one.
        force: replace an export that `out` holds.
        card_name: what the model card calls the model and loads it by; None: the folder's name.

    Raises:
        ValueError: no good model, another tokenizer, `out` holds something, or there is no room for it; `out` is then as it
            was.
    """
    notes = clear_killed(out)
    _check_place(out, source, force)
    opened = open_weights(source)
    check_plain(opened.sizes, source)
    tokenizer = opened.tokenizer(tokenizer_dir)
    _check_words(opened, tokenizer)
    read = opened.state()
    projection = opened.projection_of(read)
    writes = opened.decoder is not None and not encoder_only
    if writes:
        state, head = text_to_text_state(opened, read), True
    else:
        opened, read = _without_words(opened, read)
        state, head = _state_of(opened, read)
    known = Known(
        _origin(source, opened),
        opened.sizes,
        sum(tensor.numel() for tensor in state.values()),
        head,
        Record(opened.record.options, tokenizer.identity()),
        opened.info,
        None if projection is None else projection.takes,
        opened.decoder if writes else None,
    )
    beside = 0 if projection is None else projection.weight_DD.numel()
    with new_folder(out, 4 * (known.parameters + beside) + 6 * len(tokenizer.model) + _SPARE_BYTES) as folder:
        text = [] if opened.info is None else training_text(opened.info, tokenizer)
        save_tokenizer(tokenizer, folder, opened.sizes.longest, text, opened.words if writes else ())
        save_file(state, folder / SAFETENSORS, metadata={"format": "pt"})
        if projection is not None:
            write_projection(projection, folder)
        config = (text_to_text_config if writes else config_of)(opened, known.record)
        _write(folder / CONFIG_NAME, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        _write(
            folder / CARD_NAME, model_card(card_name or out.resolve().name, known, run_facts(opened.info, opened.place))
        )
    return Exported(known, notes + opened.notes)


def _origin(source: Path, opened: Weights) -> str:
    """What the model is taken from, in words."""
    name = hub_name(source)
    if name is None:
        return f"{opened.kind.value} {source.resolve().name}"
    return f"model {name.repo} of the hub, commit {opened.place.name}"


def _state_of(opened: Weights, read: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """(parameters of `XLMRobertaForMaskedLM`; whether its head was among them, or is a fresh one).

    The output layer is tied to the word embeddings, and so left out, as Hugging Face does.
    """
    encoder = build_encoder(opened.sizes, read, opened.place)
    head = has_head(read, opened.place)
    own = {head_name(name): read[head_name(name)] for name in HEAD_PARAMETERS} if head else _fresh_head(opened.sizes)
    state = hugging_face_state(encoder.state_dict(), None) | own
    return {name: tensor.contiguous() for name, tensor in state.items()}, head


def _without_words(opened: Weights, read: dict[str, Tensor]) -> tuple[Weights, dict[str, Tensor]]:
    """The same without the words that only a decoder has a use for."""
    known = opened.sizes.vocab_size - len(opened.words)
    state = with_words(read, AddedWords(known), opened.words, opened.sizes.init_std)
    return replace(opened, sizes=replace(opened.sizes, vocab_size=known), words=[]), state


def _check_words(opened: Weights, tokenizer: Tokenizer) -> None:
    """ValueError where the model has words that the tokenizer which is written has not."""
    if opened.words:
        return
    if added := opened.added_words(tokenizer.vocab_size):
        raise ValueError(
            f"{opened.place}: its tokenizer has added words ({', '.join(list(added)[:3])}), which an export would lose; use "
            "the folder as it is"
        )


def config_of(opened: Weights, record: Record) -> dict[str, Any]:
    """The config.json of `XLMRobertaForMaskedLM`, with the record as a section that Transformers does not read.

    Dropout is that of the model which training began with, or XLM-R's: what pretraining itself used says nothing of what
    fine-tuning wants.
    """
    return {
        "architectures": ["XLMRobertaForMaskedLM"],
        "model_type": "xlm-roberta",
        "hidden_act": "gelu",
        "tie_word_embeddings": True,
        "dtype": "float32",
        **write_config(opened.sizes, opened.dropouts or DROPOUTS),
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
    """Weights of a head that nobody has trained, so that Hugging Face finds all that it looks for; always the same."""
    with torch.device("meta"), WithoutDrawing():
        word = torch.nn.Embedding(sizes.vocab_size, sizes.hidden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = MaskedLMHead(word, sizes.norm_eps, sizes.init_std)
    return {head_name(name): head.state_dict()[name] for name in HEAD_PARAMETERS}


def _check_place(out: Path, source: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out}: is a file; give the folder to write")
    if out.resolve() == source.resolve():
        raise ValueError(f"{out}: is the model itself; give another folder to write")
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
