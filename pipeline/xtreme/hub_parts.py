"""Where the data sets of the hub have XTREME's tasks, and which files of its download that becomes.

Configurations, splits and columns are those of the card of `google/xtreme`, whose rows are the tasks' originals. XNLI's
training data, which it lacks, is `nyu-mll/multi_nli`; of BUCC it has the pairs to be found, but not the sentences around them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.xtreme.catalog import ENGLISH, LANGUAGE, XtremeTask
from pipeline.xtreme.languages import LANGUAGES


@dataclass(frozen=True)
class Part:
    """A split of a configuration, and the files that it becomes."""

    config: str
    split: str
    kind: str
    """pairs, tagged, questions, or sides: a file and its English one."""
    places: dict[str, str]
    """Path in the download by what stands in the `key` column up to the first hyphen; `""`: of all rows."""
    columns: tuple[str, ...]
    """pairs: the sentences and the label; tagged: words and tags; questions: id, context, question and answers; sides: both."""
    key: str = ""
    of_xtreme: bool = True
    """Else of MultiNLI."""


def parts_of(task: XtremeTask) -> list[Part]:
    """All that is to be fetched of a task; nothing of one that the hub does not have whole."""
    return _PARTS[task.name](task) if task.name in _PARTS else []


def _by_language(task: XtremeTask, kind: str, config: Callable[[str], str], columns: tuple[str, ...]) -> list[Part]:
    """Of tasks with a configuration for each language, of which English is trained on."""
    found = []
    for language in task.languages:
        places = {"test": task.test_of(language), "validation": task.few.replace(LANGUAGE, language)}
        if language == ENGLISH:
            places["train"] = task.train
        found += [Part(config(language), split, kind, {"": place}, columns) for split, place in places.items()]
    return found


def _udpos(task: XtremeTask) -> list[Part]:
    return _by_language(task, "tagged", lambda language: f"udpos.{LANGUAGES[language].name}", ("tokens", "pos_tags"))


def _panx(task: XtremeTask) -> list[Part]:
    return _by_language(task, "tagged", lambda language: f"PAN-X.{language}", ("tokens", "ner_tags"))


def _pawsx(task: XtremeTask) -> list[Part]:
    return _by_language(task, "pairs", lambda language: f"PAWS-X.{language}", ("sentence1", "sentence2", "label"))


def _xnli(task: XtremeTask) -> list[Part]:
    def part(split: str, place: str) -> Part:
        places = {language: place.replace(LANGUAGE, language) for language in task.languages}
        return Part("XNLI", split, "pairs", places, ("sentence1", "sentence2", "gold_label"), "language")

    train = Part("", "train", "pairs", {"": task.train}, ("premise", "hypothesis", "label"), of_xtreme=False)
    return [train, part("test", task.test), part("validation", task.few)]


def _asked(config: str, split: str, places: dict[str, str], key: str = "") -> Part:
    return Part(config, split, "questions", places, ("id", "context", "question", "answers"), key)


def _squad(task: XtremeTask) -> list[Part]:
    return [_asked("SQuAD", "train", {"": task.train}), _asked("SQuAD", "validation", {"": task.dev})]


def _xquad(task: XtremeTask) -> list[Part]:
    return _squad(task) + [_asked(f"XQuAD.{each}", "validation", {"": task.test_of(each)}) for each in task.languages]


def _mlqa(task: XtremeTask) -> list[Part]:
    found = _squad(task)
    for each in task.languages:
        config = f"MLQA.{each}.{each}"
        found.append(_asked(config, "test", {"": task.test_of(each)}))
        found.append(_asked(config, "validation", {"": task.few.replace(LANGUAGE, each)}))
    return found


def _tydiqa(task: XtremeTask) -> list[Part]:
    """One configuration for all languages, whose names the questions' ids begin with."""

    def places(place: str) -> dict[str, str]:
        return {LANGUAGES[each].name.lower(): place.replace(LANGUAGE, each) for each in task.languages}

    return [_asked("tydiqa", "train", places(task.few), "id"), _asked("tydiqa", "validation", places(task.test), "id")]


def _tatoeba(task: XtremeTask) -> list[Part]:
    columns = ("source_sentence", "target_sentence")
    return [
        Part(f"tatoeba.{LANGUAGES[each].iso_639_3}", "validation", "sides", {"": task.test_of(each)}, columns)
        for each in task.languages
    ]


_PARTS = {
    "udpos": _udpos,
    "panx": _panx,
    "xquad": _xquad,
    "mlqa": _mlqa,
    "tydiqa": _tydiqa,
    "xnli": _xnli,
    "pawsx": _pawsx,
    "tatoeba": _tatoeba,
}
