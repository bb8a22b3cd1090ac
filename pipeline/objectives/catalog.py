"""The list of objectives, and the one place that knows it: what each reads, trains and reports, and how it is built.

Everything but `build_objectives` is told without PyTorch, for those who plan, check and supervise a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np

from pipeline.model.flops import (
    encoder_forward_flops,
    masked_lm_flops,
    pointer_flops,
    replaced_tokens_flops,
    token_contrast_flops,
)
from pipeline.settings.align_options import Labelling, Way
from pipeline.settings.schema import (
    Config,
    Objectives,
    ReplacedTokensTerm,
    Term,
    TokenContrastTerm,
    WordAlignmentTerm,
)
from pipeline.settings.sizes import EncoderConfig, distance_parameters, layer_parameters, table_parameters

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

    @property
    def sides_C(self) -> np.ndarray:  # noqa: N802
        """Tokens of every source and target in turn, without special tokens; of pairs alone."""


@dataclass(frozen=True)
class Entry:
    """An objective as far as it is known without PyTorch."""

    words: str  # for a model's card
    streams: tuple[str, ...]
    modules: Mapping[str, Callable[[Any, EncoderConfig], int]]
    """That it trains, and their parameters, of its settings; equal names are shared."""
    build: Callable[[str, Any], Objective]  # of its name and its settings
    flops: Callable[[Any, EncoderConfig, Sample], float]
    """Labelling, and forward and backward of its own modules over a sample; of its settings."""
    figures: tuple[Figure, ...] = ()
    denoises: bool = True
    """Encodes its streams' masked tokens through all layers, in a pass that it shares with others."""
    own_layers: Callable[[Any, EncoderConfig], int] = lambda term, sizes: 0
    """Layers of the passes that it shares with nobody, of its settings; 0: it shares its streams' pass."""
    drawing: Callable[[Any, EncoderConfig], int] = lambda term, sizes: 0
    """Parameters that labelling needs beside the encoder's layers, of its settings."""
    predicts_words: bool = False
    """Makes logits over the vocabulary, which memory must hold."""
    labelling: Callable[[Any], Labelling] | None = None
    """How it labels words, if it does; of its settings."""
    layers: Callable[[Any], Mapping[str, int]] = lambda term: {}
    """The layers of the encoder that its settings name, by the setting."""


def _masked_lm(stream: str) -> Callable[[str, Term], Objective]:
    def build(name: str, term: Term) -> Objective:
        from pipeline.objectives.masked_lm import MaskedLM

        return MaskedLM(name, stream)

    return build


def _word_alignment(name: str, term: WordAlignmentTerm) -> Objective:
    from pipeline.objectives.word_alignment import WordAlignment

    return WordAlignment(name, term.alignment_layer, term.alignment_settings())


def _token_contrast(name: str, term: TokenContrastTerm) -> Objective:
    from pipeline.objectives.token_contrast import TokenContrast

    return TokenContrast(name, term.labelled_by, term.layer, term.temperature)


def _token_contrast_flops(term: TokenContrastTerm, sizes: EncoderConfig, sample: Sample) -> float:
    def encoding(layer: int) -> float:
        return encoder_forward_flops(sizes, sample.sides_C + 2, layer)

    return encoding(term.labelled_by) + 3 * encoding(term.layer) + token_contrast_flops(sizes, sample.sides_C)


def _masked_lm_parameters(sizes: EncoderConfig) -> int:
    return sizes.hidden * (sizes.hidden + 3) + sizes.vocab_size


def _masked_lm_entry(words: str, stream: str) -> Entry:
    return Entry(
        words=words,
        streams=(stream,),
        modules={"masked_lm": lambda term, sizes: _masked_lm_parameters(sizes)},
        build=_masked_lm(stream),
        flops=lambda term, sizes, sample: masked_lm_flops(sizes, sample.predicted),
        figures=(_ACCURACY,),
        predicts_words=True,
    )


def _replaced_tokens(stream: str) -> Callable[[str, ReplacedTokensTerm], Objective]:
    def build(name: str, term: ReplacedTokensTerm) -> Objective:
        from pipeline.objectives.replaced_tokens import ReplacedTokens

        return ReplacedTokens(name, stream, term.generator_layers, term.embeddings, term.discriminator_weight)

    return build


def _generator_parameters(term: ReplacedTokensTerm, sizes: EncoderConfig) -> int:
    """Own tables of the generator count, and the encoder's differences from them, whichever there are."""
    return _drawing_parameters(term, sizes) - (table_parameters(sizes) if term.embeddings == "tied" else 0)


def _drawing_parameters(term: ReplacedTokensTerm, sizes: EncoderConfig) -> int:
    """All that the generator reads, tables that it shares included."""
    own = 3 * sizes.hidden + term.generator_layers * layer_parameters(sizes) + _masked_lm_parameters(sizes)
    return own + table_parameters(sizes) + distance_parameters(sizes)


def _replaced_tokens_entry(words: str, stream: str) -> Entry:
    return Entry(
        words=words,
        streams=(stream,),
        modules={
            "generator": _generator_parameters,
            "replaced": lambda term, sizes: sizes.hidden * (sizes.hidden + 2) + 1,
        },
        build=_replaced_tokens(stream),
        flops=lambda term, sizes, sample: replaced_tokens_flops(
            sizes, sample.lengths_S, term.generator_layers, sample.predicted
        ),
        figures=(
            Figure("replaced", _REPLACED, "share", "replaced {:.2f}"),
            Figure("recall", _REPLACED, "share", "recall {:.3f}"),
            Figure("precision", _REPLACED, "share"),
            Figure("generator_accuracy", _SHARES, "share"),
        ),
        denoises=False,
        own_layers=lambda term, sizes: term.generator_layers + sizes.layers,
        drawing=_drawing_parameters,
        predicts_words=True,
        layers=lambda term: {"generator_layers": term.generator_layers},
    )


_SHARES = "Self-labelling agreement, masked-LM accuracy"
_REPLACED = "Replaced tokens: share of the blanks, and how many of them are told"
_ACCURACY = Figure("accuracy", _SHARES, "share")
_LINKS = Figure("links_per_pair", "Links per pair", "links", "links {:.2f}")
_AGREEMENT = Figure("agreement", _SHARES, "share", "agreement {:.3f}")

ENTRIES: dict[str, Entry] = {
    "mlm": _masked_lm_entry("MLM, masked tokens of monolingual text", "mono"),
    "tlm": _masked_lm_entry("TLM, masked tokens of translation pairs", "pairs"),
    "dwa": Entry(
        words="DWA, denoising word alignment on translation pairs",
        streams=("pairs",),
        modules={"word_alignment": lambda term, sizes: 2 * sizes.hidden * (sizes.hidden + 1)},
        build=_word_alignment,
        flops=lambda term, sizes, sample: (
            encoder_forward_flops(sizes, sample.lengths_S, term.alignment_layer)
            + pointer_flops(sizes, sample.tokens, sample.predicted)
        ),
        figures=(
            _LINKS,
            Figure("unalignable_pairs", "Pairs that cannot be aligned", "pairs between two lines of the log"),
            _AGREEMENT,
        ),
        labelling=lambda term: Labelling(term.alignment_layer, Way(settings=term.alignment_settings())),
        layers=lambda term: {"alignment_layer": term.alignment_layer},
    ),
    "token_contrast": Entry(
        words="token contrast, self-labelled partners of translation pairs against the other tokens of their sentence",
        streams=("pairs",),
        modules={},
        build=_token_contrast,
        flops=_token_contrast_flops,
        figures=(_LINKS, Figure("probability", _SHARES, "share", "probability {:.3f}")),
        denoises=False,
        labelling=lambda term: Labelling(term.labelled_by, Way("argmax", "separate")),
        layers=lambda term: {"layer": term.layer, "label_layer": term.labelled_by},
    ),
    "mrtd": _replaced_tokens_entry("MRTD, replaced tokens of monolingual text told from original ones", "mono"),
    "trtd": _replaced_tokens_entry("TRTD, replaced tokens of translation pairs told from original ones", "pairs"),
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
    reading = [(ENTRIES[name], term) for name, term in _active(terms) if stream in ENTRIES[name].streams]
    own = sum(entry.flops(term, sizes, sample) for entry, term in reading)
    denoised = any(entry.denoises for entry, _ in reading)
    return own + (3 * encoder_forward_flops(sizes, sample.lengths_S, layers) if denoised else 0.0)


def kept_layers(terms: Objectives, stream: str, sizes: EncoderConfig) -> int:
    """Layers that a stream's tokens go through to be learned from, those of all passes together."""
    own = [ENTRIES[name].own_layers(term, sizes) for name, term in _active(terms) if stream in ENTRIES[name].streams]
    return sum(own) + (sizes.layers if 0 in own else 0)


def encoder_passes(terms: Objectives, sizes: EncoderConfig) -> int:
    """How often a micro-step goes through the encoder to learn."""
    own = [ENTRIES[name].own_layers(term, sizes) for name, term in _active(terms)]
    return sum(layers > 0 for layers in own) + (0 in own)


def drawing_parameters(terms: Objectives, sizes: EncoderConfig) -> int:
    """Parameters that labelling reads in a micro-step beside the encoder's layers, each as often as it does."""
    return sum(ENTRIES[name].drawing(term, sizes) for name, term in _active(terms))


def labelling(terms: Objectives) -> Labelling | None:
    """How words are labelled, by the first objective that labels any."""
    for name, term in _active(terms):
        if (of_term := ENTRIES[name].labelling) is not None:
            return of_term(term)
    return None


def recorded_labelling(terms: Mapping[str, Any]) -> Labelling | None:
    """The same of a checkpoint's record of its objectives, which may be an older version's.

    Raises:
        LookupError, AttributeError, TypeError, ValueError: it is damaged.
    """
    kinds = settings()
    for name, entry in ENTRIES.items():
        term = terms.get(name)
        if term is not None and entry.labelling is not None:
            own = {key: term[key] for key in kinds[name].model_fields.keys() - Term.model_fields.keys()}
            return entry.labelling(kinds[name].model_validate(own))
    return None


def check_layers(terms: Objectives, layers: int) -> None:
    """ValueError where an objective names a layer that the model does not have."""
    for name, term in _active(terms):
        for setting, layer in ENTRIES[name].layers(term).items():
            if layer > layers:
                raise ValueError(
                    f"objectives.{name}.{setting} = {layer}: the model has {layers} layers; choose 0 to {layers}"
                )


def count_parameters(terms: Objectives, sizes: EncoderConfig) -> int:
    """Parameters of the modules that the objectives train; the vocabulary matrix, which they may share, is not among them."""
    counts = {
        module: count(term, sizes) for name, term in _active(terms) for module, count in ENTRIES[name].modules.items()
    }
    return sum(counts.values())


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
