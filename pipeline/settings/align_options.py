"""What a user may choose about the word aligner, and what is taken where he chooses nothing.

A model may have a record of the settings that suit it, see `model_record`; one without is taken for a plain pretrained
checkpoint. Knows no tensors: commands and settings read it without PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from sinkhorn_align import AlignmentSettings

Method = Literal["ot-filter", "ot", "argmax", "itermax", "match", "softmax"]
METHODS: tuple[Method, ...] = get_args(Method)
Encoding = Literal["joint", "separate"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
ENCODING_OF: dict[Method, Encoding] = {
    "ot-filter": "joint",
    "ot": "joint",
    "argmax": "separate",
    "itermax": "separate",
    "match": "separate",
    "softmax": "separate",
}
"""What each method is known for: the first two from XLM-Align, whose pretraining reads pairs in one sequence; the next three
from SimAlign, the last from awesome-align, over cosines."""

WINDOW = 128
"""Tokens of a window of a long pair. Forty sentences as one pair had an AER of 0.34, 0.25 and 0.18 with 254, 128 and 64
tokens where they have 0.10 alone (en-nl, the small real checkpoint)."""

PLAIN_DEPTH = 7 / 12
"""Where a pretrained encoder aligns words best. Of the small real checkpoint's 12 layers the seventh has the lowest mean AER
over eleven gold folders (18.7 %, argmax, separate; 18.8 at layer 6, 19.6 at layer 8, 31.5 at the last), and each folder's
best is the fifth, sixth or seventh. For XLM-R base Jalili Sabet et al. (2020) found layer 8 of 12."""
HOW_TO_CHOOSE = (
    "choose others by --layer, --method, --encoding; `evaluate --gold DIR --record` finds and keeps the best"
)


@dataclass(frozen=True)
class Way:
    """How links are found in hidden states, whatever the layer."""

    method: Method = "ot-filter"
    encoding: Encoding = "joint"
    settings: AlignmentSettings | None = None
    """Of `ot-filter`; None: its defaults."""


AS_TRAINED = Way()
"""As pretraining labels words."""


@dataclass(frozen=True)
class Labelling:
    """How words align best after an objective has trained them to."""

    layer: int
    way: Way


@dataclass(frozen=True)
class Chosen:
    """What a user has chosen, by the names of the options; None: the model's record or a default decides."""

    layer: int | None = None
    method: str | None = None
    encoding: str | None = None
    settings: AlignmentSettings | None = None


@dataclass(frozen=True)
class AlignOptions:
    """How words are aligned with a model."""

    layer: int
    """Whose hidden states are aligned, 0 the embeddings."""
    method: Method
    encoding: Encoding
    why: str
    """Where these settings come from, for whoever wonders."""
    settings: AlignmentSettings | None = None
    """Of `ot-filter`; None: its defaults."""

    @property
    def way(self) -> Way:
        """These options for whichever layers."""
        return Way(self.method, self.encoding, self.settings)

    def describe(self) -> str:
        """The settings in one line."""
        cost = f", cost {self.settings.cost}" if self.settings is not None and self.method == "ot-filter" else ""
        return f"layer {self.layer}, {self.method}, {self.encoding}{cost}"

    def as_json(self) -> dict[str, Any]:
        """The settings as they are recorded with a model."""
        content = asdict(self)
        if self.settings is None:
            del content["settings"]
        return content


def options_of_json(content: Any, name: str) -> AlignOptions:
    """Settings that were recorded as `as_json` gives them; other keys are somebody else's.

    Raises:
        ValueError: they are damaged; names the field.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{name}: is no object; delete it, or record it anew with `evaluate --gold DIR --record`")
    recorded: list[Any] = [content.get(key) for key in ("layer", "method", "encoding")]
    layer, method, encoding = recorded
    for key, value, holds in (
        ("layer", layer, isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0),
        ("method", method, method in METHODS),
        ("encoding", encoding, encoding in ENCODINGS),
    ):
        if not holds:
            raise ValueError(f"{name}.{key} is {value!r}; record it anew with `evaluate --gold DIR --record`")
    settings = content.get("settings")
    try:
        of_method = None if settings is None else AlignmentSettings(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}.settings: {error}; record it anew with `evaluate --gold DIR --record`") from None
    why = " ".join(str(content.get("why", "recorded with the model")).split())
    return AlignOptions(layer, method, encoding, why, of_method)


def plain_options(layers: int) -> AlignOptions:
    """What aligns best with a pretrained checkpoint that was not trained to align: mutual argmax of sides encoded apart."""
    layer = round(layers * PLAIN_DEPTH)
    why = f"the default for a model without a record of its own, {layer} of {layers} layers up"
    return AlignOptions(layer, "argmax", "separate", why)


def trained_options(layers: int, labelling: Labelling | None, best: tuple[int, str] | None = None) -> AlignOptions:
    """What suits a model that a run has trained.

    Args:
        layers: of the encoder.
        labelling: how words were labelled; None: they were not.
        best: the layer with the lowest AER where the run has measured it, and on what.
    """
    if labelling is None:
        options = plain_options(layers)
        if best is None:
            return replace(options, why=f"{options.why}: trained without word alignment")
        return replace(options, layer=best[0], why=f"trained without word alignment; the layer with {best[1]}")
    way = labelling.way
    settings = way.settings
    if settings is not None and settings.filter_rounds == 0:  # links are what is wanted, and without there are none
        settings = replace(settings, filter_rounds=AlignmentSettings.filter_rounds)
    of_method = None if settings == AlignmentSettings() else settings
    layer, why = (labelling.layer, "the layer and method of its training") if best is None else best
    why = why if best is None else f"trained with word alignment; the layer with {why}"
    return AlignOptions(layer, way.method, way.encoding, why, of_method)


def chosen_over(
    options: AlignOptions, layer: int | None, method: Method | None, encoding: Encoding | None
) -> AlignOptions:
    """What a run's config chooses, in place of what `trained_options` found."""
    if method is not None and method != options.method:
        settings = options.settings if method == "ot-filter" else None
        options = replace(options, method=method, encoding=ENCODING_OF[method], settings=settings)
    if encoding is not None:
        options = replace(options, encoding=encoding)
    if layer is not None:
        options = replace(options, layer=layer, why="the layer of its training's config")
    return options


def check_layer(layer: int, layers: int, name: str = "--layer") -> int:
    """The layer; ValueError where the model has no such layer."""
    if not 0 <= layer <= layers:
        raise ValueError(f"{name} {layer}: the model has {layers} layers; choose 0 (embeddings) to {layers}")
    return layer


def method_of(name: str) -> Method:
    """The method of that name; ValueError where there is none."""
    for method in METHODS:
        if method == name:
            return method
    raise ValueError(f"--method {name!r}: choose {', '.join(METHODS)}")


def encoding_of(name: str) -> Encoding:
    """The encoding of that name; ValueError where there is none."""
    for encoding in ENCODINGS:
        if encoding == name:
            return encoding
    raise ValueError(f"--encoding {name!r}: choose {' or '.join(ENCODINGS)}")


def resolve(layers: int, recorded: AlignOptions | None = None, chosen: Chosen = Chosen()) -> AlignOptions:
    """What to align with: the user's choice, else the model's record, else what suits a plain checkpoint of so many layers.

    A method that is chosen brings the encoding that it is known for, and `settings` alone the method that reads them.

    Raises:
        ValueError: the model has no such layer, or there is no such method or encoding.
    """
    base = plain_options(layers) if recorded is None else recorded
    if recorded is not None:
        check_layer(recorded.layer, layers, "the layer recorded with the model,")
    layer, settings = chosen.layer, chosen.settings
    method = None if chosen.method is None else method_of(chosen.method)
    encoding = None if chosen.encoding is None else encoding_of(chosen.encoding)
    if settings is not None and method is None:
        method = "ot-filter"
    chosen_method = method or base.method
    chosen_encoding = encoding or (base.encoding if chosen_method == base.method else ENCODING_OF[chosen_method])
    own_settings = base.settings if chosen_method == "ot-filter" else None
    given = [
        name for name, value in (("layer", layer), ("method", method), ("encoding", encoding)) if value is not None
    ]
    why = base.why if not given else "as given" if len(given) == 3 else f"{' and '.join(given)} as given; {base.why}"
    return AlignOptions(
        base.layer if layer is None else check_layer(layer, layers),
        chosen_method,
        chosen_encoding,
        why,
        settings if settings is not None else own_settings,
    )


def note(options: AlignOptions, place: object = "") -> str:
    """The line that tells a user what was taken, where the model runs (`devices.Place`), why, and how to choose."""
    where = f", {place}" if place else ""
    return f"aligning by {options.describe()} ({options.why}){where}; {HOW_TO_CHOOSE}"
