"""The miniature is read by the readers of the tasks, hides its test labels as XTREME does and is the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.files import sha256_of_file
from pipeline.finetune.files.read_squad import check_answers, read_squad
from pipeline.xtreme import test_sets
from pipeline.xtreme.catalog import TASKS, choose_tasks
from pipeline.xtreme.sample import write_sample
from tests.pipeline.xtreme.conftest import ITEMS


def languages(download: Path, name: str) -> list[str]:
    return [each for each in TASKS[name].languages if (download / TASKS[name].test_of(each)).exists()]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_test_files_whose_answers_are_in_the_folder_of_labels_alone(download: Path, name: str) -> None:
    task = TASKS[name]
    assert len(languages(download, name)) >= 2
    for language in languages(download, name):
        assert test_sets.read_test_set(task, language, download, None).gold is None
        assert test_sets.read_test_set(task, language, download, download / "labels").gold
    for path in filter(None, (task.train, task.dev)):
        assert (download / path).is_file()


def test_answers_stand_where_they_are_said_to_in_languages_without_spaces_too(download: Path) -> None:
    for name in ("xquad", "mlqa", "tydiqa"):
        for language in languages(download, name):
            path = download / "labels" / name / f"test-{language}.json"
            check_answers(path, read_squad(path))
    assert len(read_squad(download / "squad" / "train-v1.1.json")) == ITEMS


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(download: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "again", ITEMS)
    write_sample(tmp_path / "other", ITEMS, seed=1)
    files = [path.relative_to(download) for path in sorted(download.rglob("*")) if path.is_file()]
    first, again, other = (
        [sha256_of_file(place / file) for file in files] for place in (download, tmp_path / "again", tmp_path / "other")
    )
    assert first == again
    assert sum(a != b for a, b in zip(first, other, strict=True)) > len(files) // 2


def test_a_folder_that_holds_something_and_too_few_items_are_refused(download: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not empty"):
        write_sample(download)
    with pytest.raises(ValueError, match="--items 5: give 6 or more"):
        write_sample(tmp_path / "new", 5)


def test_tasks_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert [task.name for task in choose_tasks(["xnli", "udpos"])] == ["udpos", "xnli"]
    assert len(choose_tasks([])) == 9
    with pytest.raises(ValueError, match="--tasks xlni: is none of udpos"):
        choose_tasks(["xlni"])
