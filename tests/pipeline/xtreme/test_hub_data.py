"""XTREME from the hub: the miniature as data sets of the hub's columns, and fetched again as the files that it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from pipeline.finetune.files.read_pairs import read_pairs
from pipeline.finetune.files.read_squad import read_squad
from pipeline.finetune.files.read_tagged import read_tagged
from pipeline.texts.lines import read_lines
from pipeline.xtreme.catalog import TASKS, choose_tasks
from pipeline.xtreme.hub_data import Hub, _names, fetch
from pipeline.xtreme.hub_parts import parts_of
from pipeline.xtreme.test_sets import read_test_set
from tests.pipeline.conftest import Done

ISO = {"ko": "kor", "ru": "rus", "zh": "cmn"}
NAMES = {"en": "English", "ko": "Korean", "ru": "Russian", "zh": "Chinese"}
TAGS = {
    "pos_tags": ["ADJ", "ADP", "ADV", "NOUN", "PART", "VERB"],
    "ner_tags": ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"],
}
NLI = ["entailment", "neutral", "contradiction"]
Tables = dict[tuple[str, str], tuple[dict[str, list[Any]], dict[str, Any]]]
"""By configuration and split: columns, and the features that are not plain text or numbers."""


def tagged(path: Path, labels: Path | None, tags: str) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    sentences = [each for each in read_tagged(path) if each.words]
    found = [each.tags for each in sentences]
    if labels is not None:
        found = [block.split("\n") for block in labels.read_text(encoding="utf-8").strip("\n").split("\n\n")]
    numbers = [[TAGS[tags].index(tag) for tag in each or ()] for each in found]
    columns = {"tokens": [each.words for each in sentences], tags: numbers}
    return columns, {tags: datasets.Sequence(datasets.ClassLabel(names=TAGS[tags]))}


def pairs(path: Path, labels: Path | None, columns: tuple[str, str, str]) -> dict[str, list[Any]]:
    read = read_pairs(path)
    known = read_lines(labels, "labels") if labels is not None else [each.label for each in read]
    return dict(zip(columns, ([e.first for e in read], [e.second for e in read], known), strict=True))


def questions(path: Path, ids: str = "") -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"id": [], "title": [], "context": [], "question": [], "answers": []}
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                answers = {key: [each[key] for each in asked["answers"]] for key in ("answer_start", "text")}
                row = (ids + asked["id"], "", paragraph["context"], asked["question"], answers)
                for column, value in zip(found, row, strict=True):
                    found[column].append(value)
    return found


def tables(download: Path) -> Tables:
    """What the hub has of the miniature."""
    made: Tables = {}
    hidden = download / "labels"
    for task, config, tags in (("udpos", "udpos.{name}", "pos_tags"), ("panx", "PAN-X.{code}", "ner_tags")):
        for code, name in NAMES.items():
            of = config.format(name=name, code=code)
            made[of, "test"] = tagged(download / task / f"test-{code}.tsv", hidden / task / f"test-{code}.tsv", tags)
            made[of, "validation"] = tagged(download / task / f"dev-{code}.tsv", None, tags)
        made[config.format(name="English", code="en"), "train"] = tagged(download / task / "train-en.tsv", None, tags)
    for code in ("en", "ko", "zh"):
        columns = ("sentence1", "sentence2", "label")
        for part, split in (("dev", "validation"), ("test", "test")):
            labels = hidden / "pawsx" / f"test-{code}.tsv" if part == "test" else None
            made[f"PAWS-X.{code}", split] = pairs(download / "pawsx" / f"{part}-{code}.tsv", labels, columns), {}
    made["PAWS-X.en", "train"] = (
        pairs(download / "pawsx" / "train-en.tsv", None, ("sentence1", "sentence2", "label")),
        {},
    )
    for part, split in (("dev", "validation"), ("test", "test")):
        all_rows: dict[str, list[Any]] = {"language": [], "sentence1": [], "sentence2": [], "gold_label": []}
        for code in ("en", "ru", "zh"):
            labels = hidden / "xnli" / f"test-{code}.tsv" if part == "test" else None
            columns = ("sentence1", "sentence2", "gold_label")
            for column, values in pairs(download / "xnli" / f"{part}-{code}.tsv", labels, columns).items():
                all_rows[column] += values
            all_rows["language"] += [code] * len(values)
        made["XNLI", split] = all_rows, {}
    for part, split in (("train", "train"), ("dev", "validation")):
        made["SQuAD", split] = questions(download / "squad" / f"{part}-v1.1.json"), {}
    for code in ("en", "ru", "zh"):
        made[f"XQuAD.{code}", "validation"] = questions(hidden / "xquad" / f"test-{code}.json"), {}
    for code in ("en", "zh"):
        dev = download / "mlqa" / "MLQA_V1" / "dev" / f"dev-context-{code}-question-{code}.json"
        made[f"MLQA.{code}.{code}", "validation"] = questions(dev), {}
        made[f"MLQA.{code}.{code}", "test"] = questions(hidden / "mlqa" / f"test-{code}.json"), {}
    for split in ("train", "validation"):
        mixed: dict[str, list[Any]] = {}
        for code in ("en", "ko", "ru"):
            train = download / "tydiqa" / "tydiqa-goldp-v1.1-train" / f"tydiqa.goldp.{code}.train.json"
            path = train if split == "train" else hidden / "tydiqa" / f"test-{code}.json"
            for column, values in questions(path, f"{NAMES[code].lower()}-").items():
                mixed.setdefault(column, []).extend(values)
        made["tydiqa", split] = mixed, {}
    for code, iso in ISO.items():
        english = read_lines(download / "tatoeba" / f"{code}-en.en", "text")
        order = read_lines(hidden / "tatoeba" / f"test-{code}.tsv", "labels")
        aligned = sorted(range(len(english)), key=lambda at, order=order: int(order[at]))  # type: ignore[misc]
        own = read_lines(download / "tatoeba" / f"{code}-en.{code}", "text")
        sides = {"source_sentence": own, "target_sentence": [english[at] for at in aligned]}
        made[f"tatoeba.{iso}", "validation"] = sides, {}
    return made


def write_dataset(folder: Path, made: Tables) -> None:
    """A data set as the hub has it: Parquet files, and a card that says which are whose."""
    configs: dict[str, list[dict[str, str]]] = {}
    for (config, split), (columns, features) in made.items():
        path = folder / (config or "default") / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_dict(columns)
        for column, feature in features.items():
            table = table.cast_column(column, feature)
        table.to_parquet(str(path))
        configs.setdefault(config, []).append({"split": split, "path": str(path.relative_to(folder))})
    card = {"configs": [{"config_name": name or "default", "data_files": files} for name, files in configs.items()]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n", encoding="utf-8")


def items(path: Path) -> list[Any]:
    """What a task's reader finds in a file, sentences without words left out."""
    if path.suffix == ".json":
        return list(read_squad(path))
    if path.parent.name in ("xnli", "pawsx"):
        return list(read_pairs(path))
    return [each for each in read_tagged(path) if each.words]


@pytest.fixture(scope="module")
def hub(download: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of XTREME's data set and of MultiNLI."""
    folder = tmp_path_factory.mktemp("hub")
    write_dataset(folder / "xtreme", tables(download))
    rows = pairs(download / "xnli" / "train-en.tsv", None, ("premise", "hypothesis", "label"))
    numbers = rows | {"label": [NLI.index(label) for label in rows["label"]]}
    write_dataset(folder / "nli", {("", "train"): (numbers, {"label": datasets.ClassLabel(names=NLI)})})
    return folder / "xtreme", folder / "nli"


def test_the_files_are_those_of_the_download_with_the_labels_of_the_test_sets(
    hub: tuple[Path, Path], download: Path, tmp_path: Path, use: Callable[..., Done]
) -> None:
    out = tmp_path / "out"
    done = use("xtreme-download", str(out), "--dataset", str(hub[0]), "--multi-nli", str(hub[1]))
    assert done.code == 0, done.err
    written = [path for path in out.rglob("*") if path.is_file()]
    assert done.out == f"{out}: {len(written)} files written\n"
    assert "bucc2018: left out: the hub has the pairs to be found, and not" in done.err
    assert f"note: panx: left out, since it is not there: {hub[0]}:PAN-X.af:test, {hub[0]}:PAN-X.af:val" in done.err
    checked = 0
    for task in TASKS.values():
        if task.kind == "mine":
            continue
        for language in task.languages:
            path = download / task.test_of(language)
            if path.exists():
                fetched = read_test_set(task, language, out, None)
                assert fetched.lengths == read_test_set(task, language, download, None).lengths
                expected = read_test_set(task, language, download, download / "labels").gold
                if task.name == "tydiqa":
                    expected = {f"{NAMES[language].lower()}-{name}": answer for name, answer in expected.items()}  # type: ignore[union-attr]
                if task.kind != "retrieve":
                    assert fetched.gold == expected
                checked += 1
    assert checked == 25
    for path in [*download.glob("*/train-en.tsv"), *download.glob("*/dev-*.tsv"), *download.glob("squad/*")]:
        assert items(out / path.relative_to(download)) == items(path)
    again = use("xtreme-download", str(out), "--dataset", str(hub[0]), "--multi-nli", str(hub[1]), "--tasks", "udpos")
    assert again.out == f"{out}: 0 files written\n"


def test_tatoeba_s_lines_stay_with_their_translations(hub: tuple[Path, Path], download: Path, tmp_path: Path) -> None:
    fetch(tmp_path, choose_tasks(["tatoeba"]), Hub(str(hub[0])))
    for code in ISO:
        own, english = (read_lines(tmp_path / "tatoeba" / f"{code}-en.{side}", "text") for side in (code, "en"))
        sorted_english = read_lines(download / "tatoeba" / f"{code}-en.en", "text")
        order = read_lines(download / "labels" / "tatoeba" / f"test-{code}.tsv", "labels")
        known = {sorted_english[place]: int(number) for place, number in enumerate(order)}
        shown = read_lines(download / "tatoeba" / f"{code}-en.{code}", "text")
        assert own == shown
        assert [shown[known[line]] for line in english] == own


def test_what_a_line_cannot_hold_is_changed_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = {"pos_tags": datasets.Sequence(datasets.ClassLabel(names=["NOUN", "X"]))}
    rows = {"tokens": [["a", "", "b\tc"], ["d"]], "pos_tags": [[0, 1, 0], [1]]}
    write_dataset(tmp_path / "hub", {("udpos.Thai", "test"): (rows, features)})
    fetch(tmp_path / "out", choose_tasks(["udpos"]), Hub(str(tmp_path / "hub")))
    assert (tmp_path / "out" / "udpos" / "test-th.tsv").read_bytes() == b"a\tNOUN\n_\tX\nb c\tNOUN\n\nd\tX\n"
    said = capsys.readouterr().err
    assert "udpos.Thai:test: 1 words were empty and are _ now" in said
    assert "1 texts had tabs or ends of lines, which are spaces now" in said


def test_a_data_set_that_is_not_there_or_has_other_columns_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: cannot be read \(\w+: .*; see that the hub is within reach"):
        fetch(tmp_path / "out", choose_tasks(["udpos"]), Hub(str(tmp_path / "nowhere")))
    write_dataset(tmp_path / "hub", {("udpos.Thai", "test"): ({"words": [["a"]], "pos_tags": [["X"]]}, {})})
    with pytest.raises(ValueError, match=r"udpos\.Thai:test: has no column tokens; give a data set as the card of"):
        fetch(tmp_path / "out", choose_tasks(["udpos"]), Hub(str(tmp_path / "hub")))


def test_a_label_without_a_name_is_one_line() -> None:
    name = _names({"label": datasets.ClassLabel(names=NLI)}, "label", "nli:train")
    assert name(2) == "contradiction"
    with pytest.raises(ValueError, match="nli:train: label -1 of column label is none of entailment, neutral, contra"):
        name(-1)
    assert _names({"label": datasets.Value("string")}, "label", "nli:train")("1") == "1"


def test_every_file_that_a_task_needs_is_fetched_once() -> None:
    for task in TASKS.values():
        places = [place for part in parts_of(task) for place in part.places.values()]
        assert len(places) == len(set(places))
        if task.kind != "mine":
            needed = {task.test_of(language) for language in task.languages} | {task.train, task.dev} - {""}
            assert needed <= set(places)
    assert not parts_of(TASKS["bucc2018"])
