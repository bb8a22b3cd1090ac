"""xTune for XTREME's tasks (Zheng et al., ACL 2021), as its release's `scripts/cross-lingual-transfer` have it."""

from __future__ import annotations

from pathlib import Path

from pipeline.finetune.augmentation import Augmentation, CodeSwitching
from pipeline.finetune.code_switching import CodeSwitcher, read_dictionary
from pipeline.finetune.subword_sampling import SubwordSampling
from pipeline.finetune.tasks.consistent import (
    Consistency,
    Consistent,
    ConsistentClassification,
    ConsistentTagging,
)
from pipeline.finetune.tasks.consistent_answers import ConsistentQuestionAnswering
from pipeline.xtreme.catalog import ENGLISH, LANGUAGE, XtremeTask

SAMPLED = {1: ("udpos", "panx", "tydiqa"), 2: ("udpos", "panx", "tydiqa", "xquad", "mlqa")}
"""By stage, the tasks whose words are cut into other subwords; those of the others are switched by dictionaries."""
ALPHA = 0.3
SHARES = {"pawsx": 0.5, "udpos": 0.5}
"""Of the words, by task; 0.3 for others."""
MODEL_WEIGHTS = {"pawsx": 2.0, "udpos": 0.3}
"""λ2, by task; 5 for others."""
MODEL_WEIGHTS_TRANSLATED = {"udpos": 0.3, "mlqa": 0.5, "xquad": 0.1, "tydiqa": 0.3}
"""λ2 of translate-train-all, by task; 1 for others."""
HARD_LABELS = ("panx",)
"""Of the first stage's model the best label counts."""


class ConsistentSpanTagging(ConsistentTagging):
    """Tagging whose best epoch is that of the best F1, see `transfer.SpanTagging`."""

    @property
    def headline(self) -> str:
        return "f1"


KINDS: dict[str, type[Consistent]] = {
    "classify": ConsistentClassification,
    "tag": ConsistentSpanTagging,
    "qa": ConsistentQuestionAnswering,
}


def consistent_kind(task: XtremeTask, dictionaries: Path, stage: int, translated: bool = False) -> Consistent:
    """How a task is trained in a stage, 1 or 2; the second's model of the first is still to be given.

    translated: whether translations are trained on too.

    Raises:
        ValueError: the folder has no dictionary for it, or one is damaged.
    """
    weights, usual = (MODEL_WEIGHTS_TRANSLATED, 1.0) if translated else (MODEL_WEIGHTS, 5.0)
    consistency = Consistency(
        _augmentation(task, dictionaries, stage),
        model_weight=weights.get(task.name, usual),
        hard_labels=task.name in HARD_LABELS,
    )
    return KINDS[task.kind](consistency)


def _augmentation(task: XtremeTask, dictionaries: Path, stage: int) -> Augmentation:
    share = SHARES.get(task.name, 0.3)
    if task.name in SAMPLED[stage]:
        return SubwordSampling(ALPHA, share)
    read = {}
    for language in task.languages:
        path = dictionaries / f"{ENGLISH}-{language}.txt"
        if path.exists():
            read[language] = read_dictionary(path)
    if not read:
        raise ValueError(f"{dictionaries / f'{ENGLISH}-{LANGUAGE}.txt'}: no such file for any language of {task.name}")
    return CodeSwitching(CodeSwitcher(read, share))
