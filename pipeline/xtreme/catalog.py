"""The nine tasks of XTREME: their languages, and where its download puts their files. Without PyTorch.

Languages and names are those of XTREME's `evaluate.py`, places those of its `scripts/download_data.sh`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["classify", "tag", "qa", "retrieve", "mine"]
ENGLISH = "en"
LANGUAGE = "LANGUAGE"


@dataclass(frozen=True)
class XtremeTask:
    """One task."""

    name: str
    """XTREME's."""
    title: str
    """The column of published tables."""
    kind: Kind
    languages: tuple[str, ...]
    test: str
    """Path in the download, with `LANGUAGE`."""
    train: str = ""
    dev: str = ""
    """English, or empty: there is none apart from the test set."""
    few: str = ""
    """Labelled files of other languages, from which few-shot training takes its items, with `LANGUAGE`."""

    @property
    def suffix(self) -> str:
        """Of a prediction file."""
        return "json" if self.kind == "qa" else "tsv"

    def test_of(self, language: str) -> str:
        """The path of a language's test file."""
        return self.test.replace(LANGUAGE, language)


def _codes(text: str) -> tuple[str, ...]:
    return tuple(sorted(text.split()))


_SQUAD = {"train": "squad/train-v1.1.json", "dev": "squad/dev-v1.1.json"}

TASKS: dict[str, XtremeTask] = {
    task.name: task
    for task in (
        XtremeTask(
            "udpos",
            "POS",
            "tag",
            _codes(
                "af ar bg de el en es et eu fa fi fr he hi hu id it ja kk ko mr nl pt ru ta te th tl tr ur vi yo zh"
            ),
            "udpos/test-LANGUAGE.tsv",
            "udpos/train-en.tsv",
            "udpos/dev-en.tsv",
            "udpos/dev-LANGUAGE.tsv",
        ),
        XtremeTask(
            "panx",
            "NER",
            "tag",
            _codes(
                "af ar bg bn de el en es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr ms my nl pt ru sw ta te th tl "
                "tr ur vi yo zh"
            ),
            "panx/test-LANGUAGE.tsv",
            "panx/train-en.tsv",
            "panx/dev-en.tsv",
            "panx/dev-LANGUAGE.tsv",
        ),
        XtremeTask(
            "xquad", "XQuAD", "qa", _codes("ar de el en es hi ru th tr vi zh"), "xquad/xquad.LANGUAGE.json", **_SQUAD
        ),
        XtremeTask(
            "mlqa",
            "MLQA",
            "qa",
            _codes("ar de en es hi vi zh"),
            "mlqa/MLQA_V1/test/test-context-LANGUAGE-question-LANGUAGE.json",
            **_SQUAD,
            few="mlqa/MLQA_V1/dev/dev-context-LANGUAGE-question-LANGUAGE.json",
        ),
        XtremeTask(
            "tydiqa",
            "TyDiQA",
            "qa",
            _codes("ar bn en fi id ko ru sw te"),
            "tydiqa/tydiqa-goldp-v1.1-dev/tydiqa.goldp.LANGUAGE.dev.json",
            "tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.en.train.json",
            few="tydiqa/tydiqa-goldp-v1.1-train/tydiqa.goldp.LANGUAGE.train.json",
        ),
        XtremeTask(
            "xnli",
            "XNLI",
            "classify",
            _codes("ar bg de el en es fr hi ru sw th tr ur vi zh"),
            "xnli/test-LANGUAGE.tsv",
            "xnli/train-en.tsv",
            "xnli/dev-en.tsv",
            "xnli/dev-LANGUAGE.tsv",
        ),
        XtremeTask(
            "pawsx",
            "PAWS-X",
            "classify",
            _codes("de en es fr ja ko zh"),
            "pawsx/test-LANGUAGE.tsv",
            "pawsx/train-en.tsv",
            "pawsx/dev-en.tsv",
            "pawsx/dev-LANGUAGE.tsv",
        ),
        XtremeTask("bucc2018", "BUCC", "mine", _codes("de fr ru zh"), "bucc2018/LANGUAGE-en.test.LANGUAGE"),
        XtremeTask(
            "tatoeba",
            "Tatoeba",
            "retrieve",
            _codes(
                "af ar bg bn de el es et eu fa fi fr he hi hu id it ja jv ka kk ko ml mr nl pt ru sw ta te th tl tr ur vi zh"
            ),
            "tatoeba/LANGUAGE-en.LANGUAGE",
        ),
    )
}
ROW = ("udpos", "panx", "xquad", "mlqa", "tydiqa", "xnli", "pawsx")
"""The tasks of the row that the papers of the family print, in their order."""


def check_data(data: Path) -> None:
    """ValueError where there is no such folder."""
    if not data.is_dir():
        raise ValueError(f"--data {data}: no such folder; give what XTREME's scripts/download_data.sh makes")


def choose_tasks(names: Sequence[str]) -> list[XtremeTask]:
    """The tasks of these names, in the order of the table; all where none is given; ValueError where there is no such task."""
    for name in names:
        if name not in TASKS:
            raise ValueError(f"--tasks {name}: is none of {', '.join(TASKS)}")
    return [task for task in TASKS.values() if not names or task.name in names]
