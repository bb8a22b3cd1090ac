"""The README.md of an exported model: what it was trained on, how it is loaded, how it aligns words. Only what is known.

Knows a checkpoint's manifest; nothing of weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.objectives import catalog

if TYPE_CHECKING:
    from pipeline.weights.export import Exported

_OBJECTIVES = {name: entry.words for name, entry in catalog.ENTRIES.items()}


def model_card(name: str, info: CheckpointInfo, exported: Exported) -> str:
    """Markdown with the front matter that model hubs read."""
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: fill-mask",
            "tags: [xlm-align, cross-lingual, word-alignment]",
            "---",
            "",
            f"# {name}",
            "",
            "A cross-lingual encoder in the shape of XLM-R, pretrained with an implementation of XLM-Align (Chi et al., ACL",
            '2021, "Improving Pretrained Cross-Lingual Language Models via Self-Labeled Word Alignment").',
            "",
            *_table(info, exported),
            "",
            "## Use",
            "",
            "```python",
            "from transformers import AutoModel, AutoTokenizer",
            "",
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            f'model = AutoModel.from_pretrained("{name}")',
            "```",
            "",
            *_alignment(name, exported),
            "## Licence",
            "",
            "None is given here. It depends on the text and on the model that training began with: whoever publishes this",
            "model states it.",
            "",
        ]
    )


def _table(info: CheckpointInfo, exported: Exported) -> list[str]:
    sizes = info.encoder
    rows = {
        "sizes": f"{sizes['layers']} layers, width {sizes['hidden']}, {sizes['heads']} heads, {sizes['vocab_size']:,} words",
        "parameters": f"{exported.parameters / 1e6:,.1f} M",
        "longest input": f"{sizes['positions'] - 2} tokens, special ones included",
        "optimizer steps": f"{info.step:,}",
        "objectives": "; ".join(_objectives(info.config)) or "not recorded",
        "began with": _begun(info.config),
        "seed": str((info.config.get("run") or {}).get("seed", "not recorded")),
        "masked-LM head": "trained" if exported.head else "not trained: random weights",
        "tokenizer (sha256)": f"`{(exported.record.tokenizer or {}).get('sha256')}`",
        "training data (sha256 of its manifest)": f"`{info.data_digest}`",
    }
    return ["| | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows.items())]


def _objectives(config: dict[str, Any]) -> list[str]:
    terms = config.get("objectives") or {}
    order = [name for name in (*_OBJECTIVES, *sorted(terms.keys() - _OBJECTIVES)) if terms.get(name)]
    return [f"{_OBJECTIVES.get(name, name)}, weight {terms[name]['weight']:g}" for name in order]


def _begun(config: dict[str, Any]) -> str:
    model = config.get("model")
    if model is None:
        return "not recorded"
    return "random weights" if model.get("init") is None else f"`{str(model['init']).rstrip('/').rsplit('/', 1)[-1]}`"


def _alignment(name: str, exported: Exported) -> list[str]:
    options = exported.record.options
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
