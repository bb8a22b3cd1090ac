"""The README.md of an exported model: what it was trained on, how it is loaded, how it aligns words. Only what is known.

Knows a checkpoint's manifest and a model's sizes; nothing of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_prep.tokenizers.hub import HubName, parse_name
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.objectives import catalog
from pipeline.settings.sizes import EncoderConfig
from pipeline.settings.text_to_text import Decoder
from pipeline.weights.card_facts import RunFacts
from pipeline.weights.hub import SENTENCE_PROJECTION
from pipeline.weights.model_record import Record
from pipeline.weights.sentence_projection import ProjectedVectors

_OBJECTIVES = {name: entry.words for name, entry in catalog.ENTRIES.items()}
_SHAPE = "A cross-lingual encoder in the shape of XLM-R,"
_PRETRAINED = [
    f"{_SHAPE} pretrained with an implementation of XLM-Align (Chi et al., ACL",
    '2021, "Improving Pretrained Cross-Lingual Language Models via Self-Labeled Word Alignment").',
]


@dataclass(frozen=True)
class Known:
    """What is known of a model."""

    origin: str
    """What it was taken from, in words."""
    sizes: EncoderConfig
    parameters: int
    head: bool
    """Whether the masked-LM head was trained; where it was not, an export has a fresh one."""
    record: Record
    info: CheckpointInfo | None
    """Of the run that has trained it; None: another model, of whose training nothing is known."""
    projected: ProjectedVectors | None = None
    """What its sentence projection is for; None: it has none."""
    decoder: Decoder | None = None
    """Settings of its decoder; None: it has none."""


def model_card(name: str, known: Known, facts: RunFacts) -> str:
    """Markdown with the front matter that model hubs read.

    name: by which the model is loaded, a folder or ORG/NAME of the hub.
    """
    trained = known.info is not None
    start = None if known.info is None else hub_start(known.info.config)
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            f"pipeline_tag: {'fill-mask' if known.decoder is None else 'text-generation'}",
            *([] if start is None else [f"base_model: {start.repo}"]),
            f"tags: [{'xlm-align, cross-lingual, word-alignment' if trained else 'cross-lingual'}]",
            "---",
            "",
            f"# {name}",
            "",
            *(_PRETRAINED if trained else [f"{_SHAPE} taken as it was from the {known.origin}."]),
            "",
            *_table(known, facts),
            "",
            "## Use",
            "",
            "```python",
            *_loading(name, known),
            "```",
            "",
            *(_alignment(name, known) if known.decoder is None else _writing(name, known.decoder)),
            *_measured(facts),
            "## Licence",
            "",
            "None is given here. It depends on the text and on the model that training began with: whoever publishes this",
            "model states it.",
            "",
        ]
    )


def _loading(name: str, known: Known) -> list[str]:
    kind = "AutoModel" if known.decoder is None else "EncoderDecoderModel"
    interleaved = known.decoder is not None and known.decoder.layout == "interleaved"
    return [
        # The decoder's class is this package's, which Transformers has to be told.
        *(["from pipeline.model.interleaved_lm import register"] if interleaved else []),
        f"from transformers import {', '.join(sorted((kind, 'AutoTokenizer')))}",
        "",
        *(["register()"] if interleaved else []),
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        f'model = {kind}.from_pretrained("{name}")',
    ]


def _writing(name: str, decoder: Decoder) -> list[str]:
    where = "follows the source's `<s>`" if decoder.tag == "source" else "is what the decoder begins with"
    return [
        "## Text to text",
        "",
        f"The tag `<2xx>` of the language to write {where}.",
        "",
        "```",
        f"python -m pipeline generate {name} text.en --to de > text.de",
        "```",
        "",
    ]


def _table(known: Known, facts: RunFacts) -> list[str]:
    sizes = known.sizes
    rows = {
        "sizes": f"{sizes.layers} layers, width {sizes.hidden}, {sizes.heads} heads, {sizes.vocab_size:,} words",
        **({} if known.decoder is None else {"decoder": f"{known.decoder.layers} layers, {known.decoder.layout}"}),
        "parameters": f"{known.parameters / 1e6:,.1f} M",
        "longest input": f"{sizes.longest} tokens, special ones included",
        **({} if known.info is None else _training(known.info)),
        **({} if known.decoder else {"masked-LM head": "trained" if known.head else "not trained: random weights"}),
        **({} if known.projected is None else {"sentence projection": _projection(known.projected)}),
        "tokenizer (sha256)": f"`{(known.record.tokenizer or {}).get('sha256')}`",
        **({} if facts.data is None else {"training data": facts.data}),
        **({} if known.info is None else {"training data (sha256 of its manifest)": f"`{known.info.data_digest}`"}),
    }
    return ["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows.items())]


def _projection(projected: ProjectedVectors) -> str:
    what = f"a matrix that the vector of a sentence ({projected.words}) is multiplied with"
    return f"`{SENTENCE_PROJECTION}`, {what}; apart from the model"


def _training(info: CheckpointInfo) -> dict[str, str]:
    return {
        "optimizer steps": f"{info.step:,}",
        "objectives": "; ".join(_objectives(info.config)) or "not recorded",
        "began with": _begun(info.config),
        "seed": str((info.config.get("run") or {}).get("seed", "not recorded")),
    }


def _objectives(config: dict[str, Any]) -> list[str]:
    terms = config.get("objectives") or {}
    order = [name for name in (*_OBJECTIVES, *sorted(terms.keys() - _OBJECTIVES)) if terms.get(name)]
    return [f"{_OBJECTIVES.get(name, name)}, weight {terms[name]['weight']:g}" for name in order]


def _begun(config: dict[str, Any]) -> str:
    model = config.get("model")
    if model is None:
        return "not recorded"
    if model.get("init") is None:
        return "random weights"
    start = hub_start(config)
    if start is None:
        return f"`{str(model['init']).rstrip('/').rsplit('/', 1)[-1]}`"
    return f"`{start.repo}` of the hub, " + (f"commit `{start.revision}`" if start.is_commit else "commit not recorded")


def hub_start(config: dict[str, Any]) -> HubName | None:
    """The model of the hub that a run has begun with; None: another start. A recorded path is absolute."""
    init = (config.get("model") or {}).get("init")
    return None if init is None else parse_name(str(init))


def _measured(facts: RunFacts) -> list[str]:
    if not facts.measures:
        return []
    return [
        "## Measured",
        "",
        f"By the validation of its training at step {facts.measured_at:,}, {facts.measured_on}; in per cent.",
        "",
        "| | layer | |",
        "|---|---|---|",
        *(f"| {what} | {layer} | {100 * value:.1f} |" for what, layer, value in facts.measures),
        "",
    ]


def _alignment(name: str, known: Known) -> list[str]:
    options = known.record.options
    if options is None:
        return []
    return [
        "## Word alignment",
        "",
        f"Words are aligned at {options.describe()} ({options.why}). The settings are kept in config.json under",
        "`xlm_align` and taken by",
        "",
        "```",
        f"python -m pipeline align {name} text.en text.de > links.pharaoh",
        "```",
        "",
    ]
