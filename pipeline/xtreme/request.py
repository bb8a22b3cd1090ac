"""What is asked for, and the model in the forms in which tasks take it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.finetune.start import EncoderStart, fingerprint, read_start
from pipeline.model.devices import Place
from pipeline.weights.loading import LoadedModel, load
from pipeline.xtreme.catalog import XtremeTask
from pipeline.xtreme.recipes import Changes
from pipeline.xtreme.transfer import Mode


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    model: Path
    data: Path
    out: Path
    tasks: tuple[XtremeTask, ...]
    seeds: tuple[int, ...]
    grid: str
    changes: Changes
    mode: Mode
    labels: Path | None
    layer: int | None
    """Of sentence vectors, instead of the protocol's."""
    place: Place
    """Where sentence vectors are computed."""
    tokenizer: Path | None = None


class Model:
    """The model in the two forms in which tasks take it, each read when it is first needed."""

    def __init__(self, request: Request) -> None:
        self._request = request

    @cached_property
    def start(self) -> EncoderStart:
        return read_start(self._request.model, self._request.tokenizer)

    @cached_property
    def loaded(self) -> LoadedModel:
        return load(self._request.model, self._request.tokenizer).to(self._request.place)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(self.start.weights)
