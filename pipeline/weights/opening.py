"""One door to a model's weights, wherever they lie: Hugging Face's folder, fairseq's model.pt, a run or one of its checkpoints.

Knows what each place says of its model, and which reader has its tensors; nothing of what the model is used for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from data_prep.tokenizers.tokenizer import MODEL_NAME, Tokenizer, read_tokenizer
from data_prep.tokenizers.tokenizer_json import JSON_NAME
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.manifest import MANIFEST, CheckpointInfo, read_manifest
from pipeline.model.encoder import EncoderConfig
from pipeline.run_folder import CONFIG, METRICS
from pipeline.settings.added_words import AddedWords
from pipeline.settings.text_to_text import Decoder
from pipeline.weights import hugging_face
from pipeline.weights.begun_from import OF_DECODER, decoder_names
from pipeline.weights.consolidate import full_state, hugging_face_parts
from pipeline.weights.encoder_decoder import (
    decoder_tensors,
    encoder_state,
    is_encoder_decoder,
    read_encoder_decoder_config,
)
from pipeline.weights.fairseq import CHECKPOINT, read_fairseq
from pipeline.weights.hub import WANTED, local_folder
from pipeline.weights.hugging_face import CONFIG_NAME, DROPOUTS
from pipeline.weights.model_record import Record, record_of_checkpoint, record_of_config
from pipeline.weights.sentence_projection import TENSOR, ProjectedVectors, SentenceProjection, read_projection
from pipeline.weights.text_to_text_record import TextToTextRecord, text_to_text_of_config
from pipeline.weights.vocabulary import added_words, explains


class Kind(Enum):
    """What weights may lie in."""

    HUGGING_FACE = "Hugging Face folder"
    FAIRSEQ = "fairseq model"
    CHECKPOINT = "checkpoint"


@dataclass
class Weights:
    """A model as it lies in files. Its tensors are read when they are asked for."""

    place: Path
    """As it was given; of a hub's model, the folder that it was fetched to."""
    kind: Kind
    sizes: EncoderConfig
    tokenizer_path: Path | None
    """A SentencePiece model, a tokenizer.json, or a folder with either; None: there is none."""
    record: Record
    dropouts: dict[str, float]
    """What fine-tuning wants, by Hugging Face's names; empty where nobody knows."""
    state: Callable[[], dict[str, Tensor]]
    """Reads the tensors: fp32, under the names of `XLMRobertaForMaskedLM`, and as `TENSOR` the sentence projection, where one
    lies beside them. ValueError of one line where they are damaged."""
    projected: ProjectedVectors | None = None
    """What the sentence projection is for; None: there is none, or nobody knows."""
    info: CheckpointInfo | None = None
    """Of a checkpoint, its manifest."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of what was opened and what was not."""
    words: list[str] = field(default_factory=list)
    """That the model has beyond its tokenizer's, sentinels and tags: the last rows of its tables."""
    decoder: Decoder | None = None
    """Settings of its decoder, whose tensors `state` has too, by its own names behind `begun_from.OF_DECODER`."""

    @property
    def folder(self) -> Path:
        """Where the files of the model lie."""
        return self.place if self.place.is_dir() else self.place.parent

    def tokenizer(self, chosen: Path | None = None) -> Tokenizer:
        """The model's tokenizer, or the one of the folder that was chosen instead.

        Raises:
            ValueError: there is none, or it is not the model's.
        """
        if chosen is None and self.tokenizer_path is None:
            raise ValueError(
                f"{self.folder}: has neither {MODEL_NAME} nor {JSON_NAME}; put the model's SentencePiece file there, or give "
                "--tokenizer DIR"
            )
        path = chosen or self.tokenizer_path
        assert path is not None
        tokenizer = read_tokenizer(path) if chosen is None else Tokenizer.load(chosen)
        self._check(tokenizer, path)
        return tokenizer

    def projection_of(self, state: dict[str, Tensor]) -> SentenceProjection | None:
        """The sentence projection among the tensors that `state` has read; None: there is none.

        Raises:
            ValueError: there is one, and nothing says which vectors it is for.
        """
        if TENSOR not in state:
            return None
        if self.projected is None:
            raise ValueError(
                f"{self.place}: has a sentence projection, but no objectives.contrast in its config that says for which layer; "
                "give another checkpoint"
            )
        return SentenceProjection(state[TENSOR], self.projected)

    def _check(self, tokenizer: Tokenizer, path: Path) -> None:
        wanted = self.record.tokenizer
        if wanted is not None and not tokenizer.gives_ids_of(wanted):
            raise ValueError(
                f"{path}: another tokenizer than the model was trained with (sha256 {tokenizer.sha256[:12]}…, the model's "
                f"is {wanted.get('sha256', '')[:12]}…); give the folder with the model's own by --tokenizer DIR"
            )
        known = tokenizer.vocab_size
        rows = self.sizes.vocab_size
        if rows != known and not explains(rows, known, len(self.words) or len(self.added_words(known))):
            raise ValueError(
                f"{self.place}: the model has {self.sizes.vocab_size} words, its tokenizer {known}; "
                "give the tokenizer that the model was trained with"
            )

    def added_words(self, known: int) -> dict[str, int]:
        """Words that the tokenizer has beyond the model's `known` ones, with their ids."""
        return added_words(self.folder, known)

    def notes_on_words(self, tokenizer: Tokenizer) -> list[str]:
        """What a user may not expect of the vocabulary."""
        rows = self.sizes.vocab_size - len(self.words) - tokenizer.vocab_size
        added = list(self.added_words(tokenizer.vocab_size)) if rows else []
        notes = []
        if added:
            notes.append(
                f"{self.place}: {', '.join(added[:5])}{' …' if len(added) > 5 else ''}: words that were added to the "
                "tokenizer are encoded as other words are, by the model's pieces"
            )
        if rows > len(added):
            notes.append(f"{self.place}: the vocabulary's last {rows - len(added)} rows are padding")
        return notes


def kind_of(place: Path) -> Kind:
    """What a place holds. A folder with a config.json is Hugging Face's, whatever else lies in it; so is a hub's model.

    Raises:
        ValueError: it is not there, or holds none of these.
    """
    place = local_folder(place, weights=False)
    if not place.exists() and place.suffix != ".pt":
        raise ValueError(f"{place}: no such folder; {WANTED}")
    if not place.is_dir():
        if place.suffix != ".pt":
            raise ValueError(f"{place}: is a file; {WANTED}")
        if (place.parent / MANIFEST).is_file() and not (place.parent / CONFIG_NAME).is_file():
            raise ValueError(f"{place}: is a part of a checkpoint; give its folder, {place.parent}")
        return Kind.FAIRSEQ
    if (place / CONFIG_NAME).is_file():
        return Kind.HUGGING_FACE
    if checkpoint.is_run(place):
        return Kind.CHECKPOINT
    if (place / CHECKPOINT).exists():
        return Kind.FAIRSEQ
    if place.name.startswith("step_"):  # a checkpoint that was not finished, as its reader tells
        return Kind.CHECKPOINT
    if (place / CONFIG).is_file() or (place / METRICS).is_file():
        raise ValueError(f"{place}: is a run without a checkpoint; wait for its first one, or give another")
    raise ValueError(f"{place}: holds no model (neither {CONFIG_NAME}, {CHECKPOINT} nor checkpoints/); {WANTED}")


def open_weights(place: Path, *, whole: bool = True) -> Weights:
    """What a place says of its model, with a reader of its tensors.

    Args:
        place: a Hugging Face folder of an XLM-R-shaped model, or its name on the hub; fairseq's model.pt, or its folder; a
            run's folder, for its latest good checkpoint; or one of its checkpoints/step_*.
        whole: whether a checkpoint must be. Without, its manifest alone is read, for what all checkpoints of a run have in
            common; `state` must then not be called.

    Raises:
        ValueError: the place is none of these, or is damaged; one line that names the file.
    """
    place = local_folder(place, weights=whole)
    kind = kind_of(place)
    if kind is Kind.CHECKPOINT:
        return _open_checkpoint(place, whole)
    return _open_fairseq(place) if kind is Kind.FAIRSEQ else _open_hugging_face(place)


def _open_hugging_face(folder: Path) -> Weights:
    if is_encoder_decoder(folder):
        return _open_encoder_decoder(folder)
    content = hugging_face.read_config_json(folder)
    notes = []
    if checkpoint.folder_of(folder).is_dir():
        notes.append(
            f"{folder}: the Hugging Face model is taken, not the checkpoints beside it; give one of "
            f"{checkpoint.folder_of(folder)}/step_* for those"
        )
    sizes = hugging_face.read_config(folder)
    projection = read_projection(folder, sizes.hidden, sizes.layers)
    beside = {} if projection is None else {TENSOR: projection.weight_DD}
    return Weights(
        folder,
        Kind.HUGGING_FACE,
        sizes,
        _tokenizer_beside(folder),
        record_of_config(content, folder / CONFIG_NAME),
        hugging_face.read_dropouts(folder),
        lambda: hugging_face.read_state(folder) | beside,
        None if projection is None else projection.takes,
        notes=notes,
    )


def _open_encoder_decoder(folder: Path) -> Weights:
    """A model with a decoder; the tensors of the encoder have the names of `XLMRobertaModel`."""
    sizes, shape = read_encoder_decoder_config(folder)
    path = folder / CONFIG_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    told = text_to_text_of_config(content, path) or TextToTextRecord()
    # Its tables are in its files whether they are the encoder's or not.
    decoder = Decoder(
        layers=shape.layers, layout=shape.layout, embeddings="own", tag=told.tag, sentinels=told.sentinels
    )

    def state() -> dict[str, Tensor]:
        tensors = {name: tensor.float() for name, tensor in hugging_face.read_tensors(folder).items()}
        return encoder_state(tensors) | {
            f"{OF_DECODER}{name}": tensor
            for name, tensor in decoder_tensors(decoder_names(sizes, decoder), tensors, folder).items()
        }

    words = AddedWords(0, told.sentinels, told.languages).names
    return Weights(
        folder,
        Kind.HUGGING_FACE,
        sizes,
        _tokenizer_beside(folder),
        record_of_config(content, path),
        {},
        state,
        words=words,
        decoder=decoder,
    )


def _open_fairseq(place: Path) -> Weights:
    """The sizes show on the tensors alone, so that these are read at once."""
    file = place / CHECKPOINT if place.is_dir() else place
    read = read_fairseq(file)
    return Weights(
        place,
        Kind.FAIRSEQ,
        read.sizes,
        _tokenizer_beside(file.parent),
        Record(),
        DROPOUTS,
        lambda: read.state,
        read.projected,
        notes=read.notes,
    )


def _open_checkpoint(place: Path, whole: bool) -> Weights:
    found, info, skipped = checkpoint.find_model(place) if whole else _latest_manifest(place)

    def state() -> dict[str, Tensor]:
        assert whole, "a checkpoint whose files nobody has verified is not read"
        return hugging_face_parts(full_state(found, info), found)

    return Weights(
        place,
        Kind.CHECKPOINT,
        _sizes_of(found, info),
        _tokenizer_of(found, info),
        record_of_checkpoint(info, found),
        info.dropouts,
        state,
        _projected_of(info),
        info,
        skipped,
        info.words,
        _decoder_of(info),
    )


def _decoder_of(info: CheckpointInfo) -> Decoder | None:
    """The settings of a run's decoder, if it has one; its config has been checked when it began."""
    told = (info.config.get("model") or {}).get("decoder")
    return None if told is None else Decoder.model_validate(told)


def _projected_of(info: CheckpointInfo) -> ProjectedVectors | None:
    """Which vectors a run's sentence contrast has projected, if it did; its config has been checked when it began."""
    contrast = (info.config.get("objectives") or {}).get("contrast") or {}
    if not contrast.get("projection"):
        return None
    return ProjectedVectors(contrast["layer"], contrast["pooling"])


def _latest_manifest(place: Path) -> tuple[Path, CheckpointInfo, list[str]]:
    sealed = [place] if (place / MANIFEST).is_file() else checkpoint.sealed(place)
    if not sealed:
        return checkpoint.find_model(place)  # which says what is there instead
    return sealed[-1], read_manifest(sealed[-1]), []


def description_of(place: Path) -> Path | None:
    """The small file that says what the weights of a place are; None: there is none, as beside fairseq's.

    ValueError where `open_weights` takes no such place.
    """
    place = local_folder(place, weights=False)
    kind = kind_of(place)
    if kind is Kind.CHECKPOINT:
        return _latest_manifest(place)[0] / MANIFEST
    return place / CONFIG_NAME if kind is Kind.HUGGING_FACE else None


def find_tokenizer(place: Path) -> Path | None:
    """`Weights.tokenizer_path` of what `open_weights` takes, for which no weights are read."""
    place = local_folder(place, weights=False)
    if kind_of(place) is Kind.CHECKPOINT:
        return _tokenizer_of(*_latest_manifest(place)[:2])
    return _tokenizer_beside(place if place.is_dir() else place.parent)


def _tokenizer_beside(folder: Path) -> Path | None:
    return next((folder / name for name in (MODEL_NAME, JSON_NAME) if (folder / name).is_file()), None)


def _tokenizer_of(found: Path, info: CheckpointInfo) -> Path | None:
    """The folder with a checkpoint's tokenizer: the run's own copy, else the one of its token files; None: neither is there."""
    data = checkpoint.data_of(info)
    places = [checkpoint.tokenizer_of(checkpoint.run_of(found)), *([] if data is None else [data / "tokenizer"])]
    return next((place for place in places if place.is_dir()), None)


def _sizes_of(found: Path, info: CheckpointInfo) -> EncoderConfig:
    """The sizes in a checkpoint's manifest; ValueError where they are none."""
    if unknown := info.encoder.keys() - {known.name for known in fields(EncoderConfig)}:
        raise ValueError(f"{found / MANIFEST}: encoder.{min(unknown)}: unknown; give another checkpoint")
    try:
        return TypeAdapter(EncoderConfig).validate_json(json.dumps(info.encoder), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{found / MANIFEST}: encoder.{where}: {first['msg']}; give another checkpoint") from None
