"""The list of objectives, and the one place that knows it: what each reads, trains and reports, and how it is built.

Everything but `build_objectives` is told without PyTorch, for those who plan, check and supervise a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np

from pipeline.model.flops import encoder_forward_flops, masked_lm_flops, pointer_flops
from pipeline.settings.schema import Config, Objectives, Term, WordAlignmentTerm
from pipeline.settings.sizes import EncoderConfig
from sinkhorn_align import AlignmentSettings

if TYPE_CHECKING:
    from pipeline.objectives.base import Objective


@dataclass(frozen=True)
class Figure:
    """What an objective reports of training, beside its loss: the metric {objective}_{key}."""

    key: str
    title: str  # of the picture; figures of one title share it
    unit: str
    shown: str | None = None
    """How the line of a step shows it; None: not at all."""


class Sample(Protocol):
    """Samples of a stream that stand for a step's."""

    @property
    def lengths_S(self) -> np.ndarray: ...  # noqa: N802
    @property
    def tokens(self) -> int: ...
    @property
    def predicted(self) -> int:
        """Masked tokens."""


@dataclass(frozen=True)
class Entry:
    """An objective as far as it is known without PyTorch."""

    words: str  # for a model's card
    streams: tuple[str, ...]
    modules: Mapping[
        str, Callable[[EncoderConfig], int]
    ]  # that it trains, and their parameters; equal names are shared
    build: Callable[[str, Any], Objective]  # of its name and its settings
    flops: Callable[[Any, EncoderConfig, Sample], float]
    """Labelling, and forward and backward of its own modules over a sample; of its settings."""
    figures: tuple[Figure, ...] = ()
    predicts_words: bool = False
    """Makes logits over the vocabulary, which memory must hold."""
    label_layer: Callable[[Any], int] | None = None
    """The layer whose hidden states it labels words by; of its settings."""


def _masked_lm(stream: str) -> Callable[[str, Term], Objective]:
    def build(name: str, term: Term) -> Objective:
        from pipeline.objectives.masked_lm import MaskedLM

        return MaskedLM(name, stream)

    return build


def _word_alignment(name: str, term: WordAlignmentTerm) -> Objective:
    from pipeline.objectives.word_alignment import WordAlignment

    return WordAlignment(name, term.alignment_layer, term.alignment_settings())


def _masked_lm_entry(words: str, stream: str) -> Entry:
    return Entry(
        words=words,
        streams=(stream,),
        modules={"masked_lm": lambda sizes: sizes.hidden * (sizes.hidden + 3) + sizes.vocab_size},
        build=_masked_lm(stream),
        flops=lambda term, sizes, sample: masked_lm_flops(sizes, sample.predicted),
        figures=(_ACCURACY,),
        predicts_words=True,
    )


_SHARES = "Self-labelling agreement, masked-LM accuracy"
_ACCURACY = Figure("accuracy", _SHARES, "share")

ENTRIES: dict[str, Entry] = {
    "mlm": _masked_lm_entry("MLM, masked tokens of monolingual text", "mono"),
    "tlm": _masked_lm_entry("TLM, masked tokens of translation pairs", "pairs"),
    "dwa": Entry(
        words="DWA, denoising word alignment on translation pairs",
        streams=("pairs",),
        modules={"word_alignment": lambda sizes: 2 * sizes.hidden * (sizes.hidden + 1)},
        build=_word_alignment,
        flops=lambda term, sizes, sample: (
            encoder_forward_flops(sizes, sample.lengths_S, term.alignment_layer)
            + pointer_flops(sizes, sample.tokens, sample.predicted)
        ),
        figures=(
            Figure("links_per_pair", "Links per pair", "links", "links {:.2f}"),
            Figure("unalignable_pairs", "Pairs that cannot be aligned", "pairs between two lines of the log"),
            Figure("agreement", _SHARES, "share", "agreement {:.3f}"),
        ),
        label_layer=lambda term: term.alignment_layer,
    ),
}
"""By the key of their settings, in the order in which they are computed."""


def build_objectives(config: Config) -> list[Objective]:
    """The objectives that the config switches on, in a fixed order."""
    return [ENTRIES[name].build(name, term) for name, term in _active(config.objectives)]


def term_weights(terms: dict[str, Term], step: int) -> dict[str, float]:
    """Weight of each objective's loss at an optimizer step (from 0)."""
    return {
        name: term.weight * (1.0 if step >= term.warmup_steps else step / term.warmup_steps)
        for name, term in terms.items()
    }


def streams(terms: Objectives) -> list[str]:
    """The streams that the objectives read, sorted: "mono", "pairs"."""
    return sorted({stream for name, _ in _active(terms) for stream in ENTRIES[name].streams})


def predicting_words(terms: Objectives) -> int:
    """How many objectives make logits over the vocabulary."""
    return sum(ENTRIES[name].predicts_words for name, _ in _active(terms))


def flops(terms: Objectives, stream: str, sizes: EncoderConfig, layers: int, sample: Sample) -> float:
    """Operations of labelling, forward and backward of a stream's sample, as `PretrainingModel.flops` counts a batch's."""
    own = sum(ENTRIES[n].flops(term, sizes, sample) for n, term in _active(terms) if stream in ENTRIES[n].streams)
    return 3 * encoder_forward_flops(sizes, sample.lengths_S, layers) + own


def label_layer(terms: Objectives) -> int | None:
    """The layer that words are labelled by, if any objective labels words."""
    for name, term in _active(terms):
        if (layer := ENTRIES[name].label_layer) is not None:
            return layer(term)
    return None


def alignment_settings(terms: Objectives) -> AlignmentSettings:
    """How words are labelled; the aligner's defaults where no objective labels any."""
    return terms.dwa.alignment_settings() if terms.dwa else AlignmentSettings()


def recorded_labelling(terms: Mapping[str, Any]) -> tuple[int | None, AlignmentSettings]:
    """The same two of a checkpoint's record of its objectives, which may be an older version's.

    Raises:
        LookupError, AttributeError, TypeError, ValueError: it is damaged.
    """
    term = terms.get("dwa")
    if term is None:
        return None, AlignmentSettings()
    return term["alignment_layer"], AlignmentSettings(**{own.name: term[own.name] for own in fields(AlignmentSettings)})


def check_layers(terms: Objectives, layers: int) -> None:
    """ValueError where an objective labels by a layer that the model does not have."""
    for name, term in _active(terms):
        layer = ENTRIES[name].label_layer
        if layer is not None and layer(term) > layers:
            raise ValueError(
                f"objectives.{name}.alignment_layer = {layer(term)}: the model has {layers} layers; choose 0 to {layers}"
            )


def count_parameters(terms: Objectives, sizes: EncoderConfig) -> int:
    """Parameters of the modules that the objectives train; the vocabulary matrix, which they may share, is not among them."""
    counts = {module: count for name, _ in _active(terms) for module, count in ENTRIES[name].modules.items()}
    return sum(count(sizes) for count in counts.values())


def settings() -> dict[str, type[Term]]:
    """The schema of each objective's settings, by its name."""
    found = {}
    schema = Config.model_fields["objectives"].annotation
    assert isinstance(schema, type) and issubclass(schema, Objectives)
    for name in ENTRIES:
        kinds = get_args(schema.model_fields[name].annotation)
        (found[name],) = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Term))
    return found


def modules_of(names: Iterable[str]) -> set[str]:
    """The modules that these objectives train."""
    return {module for name in names for module in ENTRIES[name].modules}


def figures() -> list[tuple[str, Figure]]:
    """What all objectives report beside their losses, by the end of the metric's key: each end once, labels before losses."""
    entries = reversed(ENTRIES.values())
    return list({f"_{figure.key}": figure for entry in entries for figure in entry.figures}.items())


def _active(terms: Objectives) -> list[tuple[str, Term]]:
    active = terms.active()
    return [(name, active[name]) for name in ENTRIES if name in active]
