"""The options of xTune's consistency, checked and made a task. Knows what goes together; nothing of the command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.finetune.augmentation import Augmentation, CodeSwitching, Noise
from pipeline.finetune.code_switching import CodeSwitcher, read_dictionary
from pipeline.finetune.consistency import MEANS
from pipeline.finetune.files.inputs import TaskFile
from pipeline.finetune.subword_sampling import SubwordSampling
from pipeline.finetune.tasks.consistent import (
    Consistency,
    Consistent,
    ConsistentClassification,
    ConsistentTagging,
)
from pipeline.finetune.tasks.consistent_answers import ConsistentQuestionAnswering
from pipeline.finetune.translated_pairs import Translations

TASKS: dict[str, type[Consistent]] = {
    task.kind: task for task in (ConsistentClassification, ConsistentTagging, ConsistentQuestionAnswering)
}
SHARE = 0.3
"""Of the words that are said otherwise, as published for most tasks."""
WAYS = ("--code-switch", "--subword-sampling", "--noise", "--translations")


@dataclass(frozen=True)
class Ways:
    """How items are to be said otherwise, as given; one of them may be."""

    code_switch: Sequence[str] = ()
    """Dictionaries, FILE or LANGUAGE=FILE."""
    subword_sampling: float | None = None
    """alpha."""
    noise: float | None = None
    """Standard deviation."""
    translations: Sequence[str] = ()
    """Files of translated training pairs, FILE or LANGUAGE=FILE."""
    switch_share: float | None = None
    """Of words, with the first two."""

    @property
    def given(self) -> list[str]:
        """The options of those that are, with their values."""
        values = (self.code_switch, self.subword_sampling, self.noise, self.translations)
        first = [each[0] if isinstance(each, (list, tuple)) and each else each for each in values]
        return [f"{way} {value}" for way, value in zip(WAYS, first, strict=True) if value not in (None, [], ())]


def consistent_task(kind: str, ways: Ways, options: dict[str, Any]) -> Consistent | None:
    """The task with its consistency; None: it is not asked for.

    options: of `Consistency`, those that are given.

    Raises:
        ValueError: options that do not go together, or a file that is not as it should be.
    """
    if not ways.given:
        if options or ways.switch_share is not None:
            raise ValueError(
                f"--switch-share, --consistency… and --first-stage: are of {', '.join(WAYS)}; give one of these too"
            )
        return None
    if len(ways.given) > 1:
        raise ValueError(f"{ways.given[0]}: is another way to say an item otherwise than {ways.given[1]}; give one")
    _check(kind, ways, options)
    return TASKS[kind](Consistency(_augmentation(ways), **options))


def _check(kind: str, ways: Ways, options: dict[str, Any]) -> None:
    if kind not in TASKS:
        raise ValueError(f"{ways.given[0]}: is of {', '.join(TASKS)}; leave it out")
    if ways.translations and kind != "classify":
        raise ValueError(
            f"{ways.given[0]}: is of classify alone, because a translation has other words; train on it by --train instead"
        )
    if ways.noise is not None and ways.noise <= 0:
        raise ValueError(f"--noise {ways.noise:g}: is a standard deviation; give one above 0, such as 1e-5")
    if ways.switch_share is not None and (ways.noise is not None or ways.translations):
        raise ValueError(
            f"--switch-share {ways.switch_share:g}: is of --code-switch and --subword-sampling; leave it out"
        )
    mean = options.get("mean")
    if mean is not None and kind == "qa":
        raise ValueError(f"--consistency-mean {mean}: is of classify and tag; leave it out")
    if mean not in (None, *MEANS):
        raise ValueError(f"--consistency-mean {mean}: is none of {', '.join(MEANS)}")
    if "first_stage" not in options and "model_weight" in options:
        raise ValueError(f"--model-consistency {options['model_weight']:g}: is of --first-stage; give that model too")
    if "first_stage" not in options and "hard_labels" in options:
        raise ValueError("--hard-labels: are of --first-stage; give that model too")


def _augmentation(ways: Ways) -> Augmentation:
    share = SHARE if ways.switch_share is None else ways.switch_share
    if ways.subword_sampling is not None:
        return SubwordSampling(ways.subword_sampling, share)
    if ways.noise is not None:
        return Noise(ways.noise)
    files = _by_language(ways.code_switch or ways.translations)
    if ways.translations:
        return Translations(files)
    return CodeSwitching(CodeSwitcher({language: read_dictionary(path) for language, path in files.items()}, share))


def _by_language(texts: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for source in map(TaskFile.parse, texts):
        if source.language in found:
            raise ValueError(
                f"{source.path}: of language {source.language}, as {found[source.language]}; give one a language"
            )
        found[source.language] = source.path
    return found
