"""How each task is fine-tuned in what has been published: one setting each, and the grids that tables come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product

from pipeline.finetune.tasks.tagging import FIRST, TaggingSettings
from pipeline.finetune.tasks.task import Settings

SCRIPTS = "XTREME's scripts/train_*.sh"
XLM_E = "XLM-E (arXiv 2106.16138), appendix"
XTUNE = "xTune's scripts/cross-lingual-transfer"
TAGGING = ("udpos", "panx")
GRIDS = ("none", "published", "xtune")
LAYERS_OF_LARGE = 24


@dataclass(frozen=True)
class Recipe:
    """Settings to try, and whose they are."""

    candidates: tuple[Settings, ...]
    best_epoch: bool
    """Whether English dev chooses the epoch; otherwise the last one counts."""
    source: str
    second_steps: int | None = None
    """The most steps that xTune's second stage has; None: as many as its epochs have."""


def _settings(
    epochs: float,
    learning_rate: float,
    max_length: int = 128,
    batch: int = 32,
    warmup: float = 0.1,
    weight_decay: float = 0.0,
) -> Settings:
    return Settings(
        epochs=epochs,
        learning_rate=learning_rate,
        batch=batch,
        max_length=max_length,
        stride=128 if max_length > 128 else 0,
        warmup=warmup,
        weight_decay=weight_decay,
    )


# run_classify.py and run_tag.py keep what is best on English dev and have no warm-up; run_squad.py keeps the last.
_CLASSIFY, _TAG = _settings(5, 2e-5, warmup=0), _settings(10, 2e-5, warmup=0)
_QA = _settings(3, 3e-5, 384, warmup=500, weight_decay=1e-4)
_OF_SCRIPTS = {
    "udpos": Recipe((_TAG,), True, SCRIPTS),
    "panx": Recipe((_TAG,), True, SCRIPTS),
    "xquad": Recipe((_QA,), False, SCRIPTS),
    "mlqa": Recipe((_QA,), False, SCRIPTS),
    "tydiqa": Recipe((_QA,), False, SCRIPTS),
    "xnli": Recipe((_CLASSIFY,), True, SCRIPTS),
    "pawsx": Recipe((_CLASSIFY,), True, SCRIPTS),
}


def _grid(
    rates: Sequence[float],
    epochs: Sequence[float],
    batches: Sequence[int] = (32,),
    max_length: int = 128,
    warmup: float = 0.1,
) -> tuple[Settings, ...]:
    return tuple(
        _settings(count, rate, max_length, batch, warmup) for batch, rate, count in product(batches, rates, epochs)
    )


_OF_XLM_E = {
    "udpos": _grid((1e-5, 2e-5, 3e-5), (10,), (8, 16, 32)),
    "panx": _grid((5e-6, 6e-6, 7e-6, 8e-6, 9e-6), (10,), (8,)),
    "xquad": _grid((2e-5, 3e-5, 4e-5), (4,), max_length=384),
    "mlqa": _grid((2e-5, 3e-5, 4e-5), (2, 3, 4), max_length=384),
    "tydiqa": _grid((2e-5, 3e-5, 4e-5), (10, 20, 40), max_length=384),
    "xnli": _grid((5e-6, 6e-6, 7e-6, 8e-6), (10,), warmup=12_500),
    "pawsx": _grid((8e-6, 9e-6, 1e-5, 2e-5), (10,)),
}


def _of_xtune(task: str, large: bool) -> Recipe:
    """The settings of base models, or of large ones. The release evaluates every 500 to 5,000 steps, here it is every epoch."""
    size = int(large)
    if task in ("xnli", "pawsx"):  # run_cls.py takes its warm-up of −1 for none, the others for a tenth
        given, steps = _settings(10, {"xnli": (7e-6, 5e-6), "pawsx": (1e-5, 1e-5)}[task][size], 256, warmup=0), None
    elif task in TAGGING:
        given, steps = _settings(10, {"panx": (1e-5, 7e-6), "udpos": (2e-5, 5e-6)}[task][size]), None
    elif task == "tydiqa":
        given, steps = _settings((20, 10)[size], (3e-5, 1.5e-5)[size], 384), (5_000, 2_500)[size]
    else:
        given, steps = _settings(4, (3e-5, 1.5e-5)[size], 384), 24_000
    return Recipe((given,), True, f"{XTUNE}, {'large' if large else 'base'}", steps)


@dataclass(frozen=True)
class Changes:
    """What a user has otherwise than published; None: as published."""

    learning_rate: float | None = None
    epochs: float | None = None
    batch: int | None = None
    freeze_embeddings: bool = False
    bf16: bool = False
    on_cpu: bool = False
    subwords: str = FIRST
    """Of tagging."""
    group_lengths: bool = False

    @property
    def words(self) -> str:
        """What of it changes results, for a footnote; empty: nothing."""
        given = {"learning rate": self.learning_rate, "epochs": self.epochs, "batch": self.batch}
        said = [f"{name} {value:g}" for name, value in given.items() if value is not None]
        said += ["frozen embeddings"] * self.freeze_embeddings
        return ", ".join(said + ["batches of like lengths"] * self.group_lengths)


def recipe_of(task: str, grid: str, changes: Changes, layers: int = 12) -> Recipe:
    """The recipe of a task; grid: one of `GRIDS`; layers: of the model, which say whether it is a large one."""
    if grid == "xtune":
        found = _of_xtune(task, large=layers >= LAYERS_OF_LARGE)
    else:
        found = _OF_SCRIPTS[task] if grid == "none" else Recipe(_OF_XLM_E[task], True, XLM_E)
    given = {
        name: getattr(changes, name)
        for name in ("learning_rate", "epochs", "batch")
        if getattr(changes, name) is not None
    }
    changed = (
        replace(
            _of_tagging(settings, changes) if task in TAGGING else settings,
            **given,
            freeze_embeddings=changes.freeze_embeddings,
            bf16=changes.bf16,
            on_cpu=changes.on_cpu,
            group_lengths=changes.group_lengths,
        )
        for settings in found.candidates
    )
    return replace(found, candidates=tuple(dict.fromkeys(changed)))


def _of_tagging(settings: Settings, changes: Changes) -> TaggingSettings:
    return TaggingSettings(**asdict(settings), subwords=changes.subwords)
