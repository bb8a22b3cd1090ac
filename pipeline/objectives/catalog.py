"""The list of objectives, and the one place that knows it: what each reads, trains and reports, and how it is built.

Everything but `build_objectives` is told without PyTorch, for those who plan, check and supervise a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from pipeline.model.flops import encoder_forward_flops, masked_lm_flops
from pipeline.objectives.costs import (
    Costs,
    Sample,
    Texts,
    contrast_costs,
    contrast_work,
    generator_parameters,
    masked_lm_parameters,
    one_side_texts,
    replaced_tokens_costs,
    replaced_tokens_work,
    sentence_texts,
    span_texts,
    text_to_text_costs,
    text_to_text_work,
    token_contrast_costs,
    token_contrast_work,
    translation_texts,
    word_alignment_costs,
    word_alignment_work,
)
from pipeline.settings.align_options import Labelling, Way
from pipeline.settings.objectives import (
    ContrastTerm,
    Objectives,
    ReplacedTokensTerm,
    Term,
    TokenContrastTerm,
    TranslationTerm,
    WordAlignmentTerm,
)
from pipeline.settings.schema import Config, Model
from pipeline.settings.sizes import EncoderConfig, ModelSizes, decoder_parameters
from pipeline.settings.text_to_text_views import options_of
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


@dataclass(frozen=True)
class Entry:
    """An objective as far as it is known without PyTorch."""

    words: str  # for a model's card
    streams: tuple[str, ...]
    modules: Mapping[str, Callable[[Any, EncoderConfig], int]]
    """That it trains, and their parameters by its settings, 0 where these leave one out; equal names are shared."""
    build: Callable[[str, Any, Model], Objective]  # of its name, its settings and the model's
    flops: Callable[[Any, EncoderConfig, Sample], float]
    """Labelling, and forward and backward of its own modules over a sample; of its settings."""
    figures: tuple[Figure, ...] = ()
    denoises: bool = True
    """Encodes its streams' masked tokens through all layers, in a pass that it shares with others."""
    predicts_words: bool = False
    """Makes logits over the vocabulary, which memory must hold."""
    labelling: Callable[[Any], Labelling] | None = None
    """How it labels words, if it does; of its settings."""
    costs: Callable[[Any, EncoderConfig, float, int], Costs] = lambda term, sizes, samples, of_step: Costs()
    """Of its settings, and the samples of its stream in a micro-step and in a step."""
    layers: Callable[[Any], Mapping[str, int]] = lambda term: {}
    """The layers of the encoder that its settings name, by the setting."""
    reads_links: Callable[[Any], bool] = lambda term: False
    """Whether it reads the word links that were given with pairs; of its settings."""


def _masked_lm(stream: str) -> Callable[[str, Term, Model], Objective]:
    def build(name: str, term: Term, model: Model) -> Objective:
        from pipeline.objectives.masked_lm import MaskedLM

        return MaskedLM(name, stream, term.schedule)

    return build


def _word_alignment(name: str, term: WordAlignmentTerm, model: Model) -> Objective:
    from pipeline.objectives.word_alignment import WordAlignment

    return WordAlignment(name, term.alignment_layer, term.alignment_settings(), term.label_encoding)


def _token_contrast(name: str, term: TokenContrastTerm, model: Model) -> Objective:
    from pipeline.objectives.token_contrast import TokenContrast
    from sinkhorn_align.simalign import ARGMAX

    settings = AlignmentSettings() if term.labels == "ot" else ARGMAX
    return TokenContrast(name, term.labelling_layers, term.layer, term.temperature, term.mask_rate, settings)


def _contrast(name: str, term: ContrastTerm, model: Model) -> Objective:
    if term.momentum is None:
        from pipeline.objectives.sentence_contrast import OwnKeys

        return OwnKeys(name, term)
    from pipeline.objectives.slow_keys import SlowKeys

    return SlowKeys(name, term)


def _masked_lm_entry(words: str, stream: str) -> Entry:
    return Entry(
        words=words,
        streams=(stream,),
        modules={"masked_lm": lambda term, sizes: masked_lm_parameters(sizes)},
        build=_masked_lm(stream),
        flops=lambda term, sizes, sample: masked_lm_flops(sizes, sample.predicted),
        figures=(_ACCURACY,),
        predicts_words=True,
    )


def _replaced_tokens(stream: str) -> Callable[[str, ReplacedTokensTerm, Model], Objective]:
    def build(name: str, term: ReplacedTokensTerm, model: Model) -> Objective:
        from pipeline.objectives.replaced_tokens import ReplacedTokens

        return ReplacedTokens(name, stream, term.generator_layers, term.embeddings, term.discriminator_weight)

    return build


def _text_to_text(stream: str, kind: str) -> Callable[[str, Any, Model], Objective]:
    def build(name: str, term: Any, model: Model) -> Objective:
        from pipeline.data.batch import View
        from pipeline.objectives.text_to_text import TextToText

        assert model.decoder is not None, "the schema has asked"
        view = View(stream, kind, options_of(name, term, model.decoder))
        smoothing = term.label_smoothing if isinstance(term, TranslationTerm) else 0.0
        return TextToText(name, view, model.decoder, smoothing, freezes=model.freeze is not None)

    return build


def _decoder_parameters(term: Any, sizes: EncoderConfig) -> int:
    assert isinstance(sizes, ModelSizes)
    return decoder_parameters(sizes.decoder, sizes)


def _text_to_text_entry(words: str, stream: str, kind: str, texts: Texts) -> Entry:
    return Entry(
        words=words,
        streams=(stream,),
        modules={"decoder": _decoder_parameters},
        build=_text_to_text(stream, kind),
        flops=partial(text_to_text_work, texts=texts),
        figures=(_ACCURACY, Figure("nll", "Cross-entropy without label smoothing", "nats per token")),
        denoises=False,
        costs=text_to_text_costs,
        predicts_words=True,
    )


def _replaced_tokens_entry(words: str, stream: str) -> Entry:
    return Entry(
        words=words,
        streams=(stream,),
        modules={
            "generator": generator_parameters,
            "replaced": lambda term, sizes: sizes.hidden * (sizes.hidden + 2) + 1,
        },
        build=_replaced_tokens(stream),
        flops=replaced_tokens_work,
        figures=(
            Figure("replaced", _REPLACED, "share", "replaced {:.2f}"),
            Figure("recall", _REPLACED, "share", "recall {:.3f}"),
            Figure("precision", _REPLACED, "share"),
            Figure("generator_accuracy", _SHARES, "share"),
        ),
        denoises=False,
        costs=replaced_tokens_costs,
        predicts_words=True,
        layers=lambda term: {"generator_layers": term.generator_layers},
    )


_ADDED = {"label_encoding", "labels", "label_layers"}
"""Settings of labelling that records of older versions lack, which did what their defaults say."""
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
        flops=word_alignment_work,
        figures=(
            _LINKS,
            Figure("unalignable_pairs", "Pairs that cannot be aligned", "pairs between two lines of the log"),
            _AGREEMENT,
        ),
        labelling=lambda term: Labelling(
            term.alignment_layer, Way(encoding=term.label_encoding, settings=term.alignment_settings())
        ),
        costs=word_alignment_costs,
        layers=lambda term: {"alignment_layer": term.alignment_layer},
    ),
    "token_contrast": Entry(
        words="token contrast, partners in translation pairs against the other tokens of their sentence",
        streams=("pairs",),
        modules={},
        build=_token_contrast,
        flops=token_contrast_work,
        figures=(_LINKS, Figure("probability", _SHARES, "share", "probability {:.3f}")),
        denoises=False,
        costs=token_contrast_costs,
        labelling=lambda term: Labelling(term.layer, Way("argmax", "separate")),
        layers=lambda term: term.named_layers,
        reads_links=lambda term: term.labels == "links",
    ),
    "contrast": Entry(
        words="sentence contrast (XlCo), sentences of translation pairs against those of other pairs",
        streams=("contrast",),
        modules={"sentence_projection": lambda term, sizes: term.projection * sizes.hidden**2},
        build=_contrast,
        flops=contrast_work,
        figures=(
            Figure("retrieved", "Sentences that find their translation", "share", "retrieved {:.3f}"),
            Figure("similarity", "Similarity of sentences to their translations", "dot product or cosine"),
            Figure("negatives", "Sentences that a query is compared with", "sentences"),
        ),
        denoises=False,
        costs=contrast_costs,
        layers=lambda term: {"layer": term.layer},
    ),
    "mrtd": _replaced_tokens_entry("MRTD, replaced tokens of monolingual text told from original ones", "mono"),
    "trtd": _replaced_tokens_entry("TRTD, replaced tokens of translation pairs told from original ones", "pairs"),
    "sc": _text_to_text_entry("SC, spans of monolingual text written by a decoder", "mono", "spans", span_texts),
    "tsc": _text_to_text_entry("TSC, spans of one side of translation pairs", "pairs", "spans", one_side_texts),
    "tpsc": _text_to_text_entry("TPSC, spans of both sides of translation pairs", "pairs", "spans", span_texts),
    "dae": _text_to_text_entry("DAE, sentences that a decoder puts right", "mono", "noise", sentence_texts),
    "mt": _text_to_text_entry("MT, translation in either direction", "pairs", "translation", translation_texts),
}
"""By the key of their settings, in the order in which they are computed."""


def build_objectives(config: Config) -> list[Objective]:
    """The objectives that the config switches on, in a fixed order."""
    return [ENTRIES[name].build(name, term, config.model) for name, term in _active(config.objectives)]


def streams(terms: Objectives) -> list[str]:
    """The streams that the objectives read, sorted: "contrast", "mono", "pairs"."""
    return sorted({stream for name, _ in _active(terms) for stream in ENTRIES[name].streams})


def reads_links(terms: Objectives) -> bool:
    """Whether an objective reads the word links that were given with pairs."""
    return any(ENTRIES[name].reads_links(term) for name, term in _active(terms))


def predicting_words(terms: Objectives) -> int:
    """How many calls of a head make logits over the vocabulary in a micro-step: masked LMs that are weighed alike share one."""
    making = [(name, term) for name, term in _active(terms) if ENTRIES[name].predicts_words]
    return len({term.schedule if "masked_lm" in ENTRIES[name].modules else name for name, term in making})


def costs(terms: Objectives, stream: str, sizes: EncoderConfig, samples: float, of_step: int) -> Costs:
    """What the objectives that read a stream take together; samples: of it in a micro-step, and in a step."""
    each = [
        ENTRIES[name].costs(term, sizes, samples, of_step)
        for name, term in _active(terms)
        if stream in ENTRIES[name].streams
    ]
    own_layers = sum(one.own_layers for one in each)
    shares = [one.backward_share for one in each if not one.own_layers]
    return Costs(
        replicated=sum(one.replicated for one in each),
        averaged=sum(one.averaged for one in each),
        exchanged=sum(one.exchanged for one in each),
        compared=max(one.compared for one in each),
        labelled_layers=max(one.labelled_layers for one in each),
        backward_share=max(shares, default=0.0) + own_layers / sizes.layers,
        own_layers=own_layers,
        own_passes=sum(one.own_passes for one in each),
        drawing=sum(one.drawing for one in each),
    )


def denoises(terms: Objectives) -> bool:
    """Whether some objectives share a pass over masked tokens."""
    return any(ENTRIES[name].denoises for name, _ in _active(terms))


def flops(terms: Objectives, stream: str, sizes: EncoderConfig, layers: int, sample: Sample) -> float:
    """Operations of labelling, forward and backward of a stream's sample, as `PretrainingModel.flops` counts a batch's."""
    reading = [(ENTRIES[name], term) for name, term in _active(terms) if stream in ENTRIES[name].streams]
    own = sum(entry.flops(term, sizes, sample) for entry, term in reading)
    denoised = any(entry.denoises for entry, _ in reading)
    return own + (3 * encoder_forward_flops(sizes, sample.lengths_S, layers) if denoised else 0.0)


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
            own = kinds[name].model_fields.keys() - Term.model_fields.keys() - (_ADDED - term.keys())
            own = {key: term[key] for key in own}
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


def trained_modules(terms: Mapping[str, Any]) -> set[str]:
    """The modules that a run trains by a record of its objectives' settings, None where one is off."""
    found = set()
    for name, kind in settings().items():
        if (recorded := terms.get(name)) is not None:
            own = {key: value for key, value in recorded.items() if key in kind.model_fields}
            term, modules = kind.model_validate(own), ENTRIES[name].modules
            found |= {module for module, count in modules.items() if count(term, ModelSizes())}
    return found


def figures() -> list[tuple[str, Figure]]:
    """What all objectives report beside their losses, by the end of the metric's key: each end once, labels before losses."""
    entries = reversed(ENTRIES.values())
    return list({f"_{figure.key}": figure for entry in entries for figure in entry.figures}.items())


def _active(terms: Objectives) -> list[tuple[str, Term]]:
    active = terms.active()
    return [(name, active[name]) for name in ENTRIES if name in active]
