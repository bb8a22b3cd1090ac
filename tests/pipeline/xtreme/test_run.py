"""Which trainings are done for a table, and what is said where something is not as it should be. Nothing is trained here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.finetune.start import fingerprint
from pipeline.finetune.tasks.task import Settings
from pipeline.model.devices import choose_place
from pipeline.xtreme import trials
from pipeline.xtreme.catalog import TASKS, choose_tasks
from pipeline.xtreme.languages import LANGUAGES, transfer_gap
from pipeline.xtreme.recipes import Changes, recipe_of
from pipeline.xtreme.record import RUN, finished, making
from pipeline.xtreme.request import Model, Request
from pipeline.xtreme.results import Figure, Outcome
from pipeline.xtreme.run import footnotes, run
from pipeline.xtreme.submission import prediction_path
from pipeline.xtreme.transfer import Material, Mode, kind_of, read_material
from tests.pipeline.conftest import Done


@dataclass
class Training:
    """One that was asked for."""

    settings: Settings
    seed: int
    tasks: list[str]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[Training]:
    """Trainings take no time: all items get one label, and dev likes the largest learning rate."""
    made: list[Training] = []

    def train(
        material: Material,
        start: Any,
        settings: Settings,
        seed: int,
        folders: Mapping[str, Path],
        choosing: bool,
        second_steps: int | None,
    ) -> float | None:
        made.append(Training(settings, seed, list(folders)))
        assert (material.dev is not None) == choosing
        for (name, language), items in material.tests.items():
            if name in folders:
                path = prediction_path(folders[name] / "predictions", TASKS[name], language)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(material.task.text(items, guesses(material, items)), encoding="utf-8")
        return 1e6 * settings.learning_rate if choosing else None

    monkeypatch.setattr(trials, "train_and_predict", train)
    return made


def guesses(material: Material, items: list[Any]) -> list[Any]:
    if material.task.kind == "tag":
        return [[material.task.labels[0]] * len(item.words) for item in items]
    return [item.context[:3] if material.task.kind == "qa" else material.task.labels[0] for item in items]


@pytest.fixture
def ask(download: Path, model_dir: Path, tmp_path: Path) -> Callable[..., Request]:
    def make(tasks: str, **other: Any) -> Request:
        usual: dict[str, Any] = {
            "model": model_dir,
            "data": download,
            "out": tmp_path / "out",
            "seeds": (1,),
            "grid": "none",
            "changes": Changes(on_cpu=True),
            "mode": Mode(),
            "labels": download / "labels",
            "layer": None,
            "place": choose_place("cpu", "auto"),
        }
        return Request(tasks=tuple(choose_tasks(tasks.split())), **(usual | other))

    return make


def test_one_training_on_squad_serves_xquad_and_mlqa(trainings: list[Training], ask: Callable[..., Request]) -> None:
    outcome = run(ask("xquad mlqa", seeds=(3, 4)))
    assert [(each.seed, each.tasks) for each in trainings] == [(3, ["xquad", "mlqa"]), (4, ["xquad", "mlqa"])]
    assert [result.task.name for result in outcome.results] == ["xquad", "mlqa"]
    assert outcome.results[0].overall() == Figure(outcome.results[0].overall().mean, 0.0)
    run(ask("xquad mlqa", seeds=(3, 4, 5)))
    assert [each.seed for each in trainings] == [3, 4, 5], "what is finished is not done again"


def test_the_grid_is_tried_on_the_first_seed_and_the_best_on_dev_has_them_all(
    trainings: list[Training], ask: Callable[..., Request]
) -> None:
    request = ask("pawsx", seeds=(1, 2, 3), grid="published")
    outcome = run(request)
    rates = [each.settings.learning_rate for each in trainings]
    assert rates == [8e-6, 9e-6, 1e-5, 2e-5, 2e-5, 2e-5]
    assert [each.seed for each in trainings] == [1, 1, 1, 1, 2, 3]
    assert outcome.results[0].how["settings"]["learning_rate"] == 2e-5
    assert outcome.results[0].how["candidates"] == 4
    assert not any("the best of a grid" in note for note in footnotes(request, outcome))


def test_settings_that_two_tasks_try_are_trained_once(trainings: list[Training], ask: Callable[..., Request]) -> None:
    run(ask("xquad mlqa", grid="published"))
    assert sum(each.tasks == ["xquad", "mlqa"] for each in trainings) == 3, "4 epochs are in both grids"
    assert len(trainings) == 9


def test_without_an_english_dev_set_the_end_of_the_training_data_chooses(
    trainings: list[Training], ask: Callable[..., Request]
) -> None:
    outcome = run(ask("tydiqa", grid="published"))
    assert any("the last tenth of the training data chooses" in note for note in outcome.results[0].notes)


def test_recipes_are_those_of_the_scripts_unless_they_are_changed() -> None:
    squad = recipe_of("mlqa", "none", Changes()).candidates
    assert [(each.epochs, each.learning_rate, each.warmup, each.weight_decay) for each in squad] == [
        (3, 3e-5, 500, 1e-4)
    ]
    assert len(recipe_of("udpos", "published", Changes()).candidates) == 9
    changes = Changes(learning_rate=1e-4, epochs=1)
    assert len(recipe_of("udpos", "published", changes).candidates) == 3, "of equal settings one is tried"
    assert changes.words == "learning rate 0.0001, epochs 1"
    grouped = Changes(group_lengths=True)
    assert all(each.group_lengths for each in recipe_of("xnli", "published", grouped).candidates)
    assert grouped.words == "batches of like lengths"


def test_a_missing_folder_is_said_and_the_others_go_on(
    trainings: list[Training],
    ask: Callable[..., Request],
    download: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "some"
    shutil.copytree(download, data)
    shutil.rmtree(data / "xnli")
    for path in (data / "pawsx").glob("test-*"):
        path.unlink()
    outcome = run(ask("xnli pawsx panx", data=data))
    assert [result.task.name for result in outcome.results] == ["panx"] and not outcome.failed
    said = capsys.readouterr().err
    assert f"not done: xnli: {data / 'xnli/train-en.tsv'}: no such file" in said
    assert "not done: pawsx: no test file in any of its languages" in said
    assert "note: panx: no test file in af, ar," in said
    assert outcome.average is None


def test_a_damaged_file_is_a_mistake_of_its_task_alone(
    trainings: list[Training],
    ask: Callable[..., Request],
    download: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = tmp_path / "some"
    shutil.copytree(download, data)
    (data / "xnli" / "test-ru.tsv").write_text("a\tb\tmaybe\n", encoding="utf-8")
    outcome = run(ask("xnli panx", data=data))
    assert outcome.failed and [result.task.name for result in outcome.results] == ["panx"]
    assert "test-ru.tsv: line 1: label 'maybe' is not one of the training data's" in outcome.not_done["xnli"]


def test_test_sets_without_labels_are_predicted_and_not_scored(
    trainings: list[Training], ask: Callable[..., Request]
) -> None:
    request = ask("xnli tatoeba", labels=None, layer=1)
    outcome = run(request)
    assert [result.languages for result in outcome.results] == [[], []]
    assert "XNLI: no labels of the test sets, no score; predictions are written" in outcome.results[0].notes
    assert (request.out / "predictions" / "xnli" / "test-ru.tsv").exists()


def test_english_lines_of_tatoeba_that_are_not_sorted_tell_the_answers(
    ask: Callable[..., Request], tmp_path: Path
) -> None:
    folder = tmp_path / "data" / "tatoeba"
    folder.mkdir(parents=True)
    (folder / "ru-en.en").write_text("b\na\n", encoding="utf-8")
    (folder / "ru-en.ru").write_text("nogifo\nnuzu\n", encoding="utf-8")
    outcome = run(ask("tatoeba", data=tmp_path / "data", labels=None, layer=0))
    assert outcome.results[0].languages == ["ru"]


def test_a_depth_that_the_protocol_does_not_know_needs_a_layer(ask: Callable[..., Request]) -> None:
    outcome = run(ask("tatoeba"))
    assert (
        outcome.failed
        and "published for models of 12 and 24 layers, this one has 2; give --layer" in outcome.not_done["tatoeba"]
    )


def test_another_model_or_a_folder_of_something_else_is_refused(
    trainings: list[Training], ask: Callable[..., Request], model_dir: Path, tmp_path: Path
) -> None:
    run(ask("panx"))
    with pytest.raises(ValueError, match="was begun with mode zero-shot, not few-shot, 2 items a language; give a new"):
        run(ask("panx", mode=Mode(few_shot=2)))
    weights = dict(Model(ask("panx")).start.state)
    before = fingerprint(weights)
    name = next(iter(weights))
    weights[name] = weights[name] + torch.ones(())
    assert fingerprint(weights) != before
    with pytest.raises(ValueError, match="is not empty, and no run of xtreme"):
        run(ask("panx", out=model_dir))
    with pytest.raises(ValueError, match="no such folder; give what XTREME's"):
        run(ask("panx", data=tmp_path / "nowhere"))


def test_few_shot_trains_on_the_first_labelled_items_of_other_languages(
    ask: Callable[..., Request], download: Path, trainings: list[Training]
) -> None:
    zero, few = (
        read_material([TASKS["xnli"]], download, {"xnli": ["en"]}, mode, False) for mode in (Mode(), Mode(few_shot=2))
    )
    assert few.trained == ["en", "ru", "zh"] and len(few.train) == len(zero.train) + 4
    outcome = run(ask("xquad mlqa tydiqa", mode=Mode(few_shot=2)))
    assert [result.task.name for result in outcome.results] == ["mlqa", "tydiqa"]
    assert "xquad: --few-shot 2: no labelled items" in outcome.not_done["xquad"]


def test_translate_train_all_trains_on_every_language_that_the_folder_has(download: Path, tmp_path: Path) -> None:
    translated = tmp_path / "translated"
    (translated / "panx").mkdir(parents=True)
    shutil.copyfile(download / "panx" / "dev-ko.tsv", translated / "panx" / "train-ko.tsv")
    mode = Mode(translated=translated)
    material = read_material([TASKS["panx"]], download, {"panx": ["en"]}, mode, True)
    assert material.trained == ["en", "ko"] and mode.words == "translate-train-all"
    with pytest.raises(ValueError, match="no such file for any language of xnli"):
        read_material([TASKS["xnli"]], download, {"xnli": ["en"]}, mode, True)


def test_with_dictionaries_every_task_is_trained_as_xtune_trains_it(download: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"en-LANGUAGE.txt: no such file for any language of xnli"):
        kind_of(TASKS["xnli"], tmp_path)
    (tmp_path / "en-ru.txt").write_text("nogifo генасо\n", encoding="utf-8")
    mode = Mode(dictionaries=tmp_path)
    assert mode.words == "zero-shot, with the first stage of xTune"
    material = read_material([TASKS["udpos"]], download, {"udpos": ["en"]}, mode, True)
    assert material.task.headline == "f1" and material.second is None
    sampled, switched = {"alpha": 0.3, "share": 0.3}, {"switch_share": 0.3, "languages": ["ru"]}
    how = {"weight": 5.0, "mean": "elements"}
    assert material.task.described()["consistency"] == how | sampled | {"share": 0.5}
    first = {
        "xnli": how | switched,
        "panx": how | sampled,
        "xquad": {"weight": 5.0} | switched,
        "tydiqa": {"weight": 5.0} | sampled,
    }
    for name, consistency in first.items():
        assert kind_of(TASKS[name], tmp_path).described()["consistency"] == consistency
    second = {
        name: kind_of(TASKS[name], tmp_path, stage=2).with_first_stage(tmp_path).described()["consistency"]
        for name in ("xnli", "panx", "udpos", "xquad")
    }
    stage = {"first_stage": str(tmp_path), "model_weight": 5.0}
    assert second["xnli"] == how | switched | stage and second["xquad"] == {"weight": 5.0} | sampled | stage
    assert second["panx"] == how | sampled | stage | {"hard_labels": True}
    assert second["udpos"] == how | sampled | {"share": 0.5} | stage | {"model_weight": 0.3}
    with pytest.raises(ValueError, match=r"en-LANGUAGE.txt: no such file for any language of pawsx"):
        kind_of(TASKS["pawsx"], tmp_path)


def test_tasks_with_dictionaries_are_trained_apart_because_these_are_of_their_languages(
    trainings: list[Training], ask: Callable[..., Request], tmp_path: Path
) -> None:
    (tmp_path / "en-ru.txt").write_text("nogifo генасо\n", encoding="utf-8")
    (tmp_path / "en-zh.txt").write_text("nogifo 不\n", encoding="utf-8")
    run(ask("xquad mlqa", mode=Mode(dictionaries=tmp_path)))
    assert [each.tasks for each in trainings] == [["xquad"], ["mlqa"]]


def begin_and_interrupt(folder: Path) -> None:
    with making(folder, {}):
        (folder / "half").write_text("x", encoding="utf-8")
        raise KeyboardInterrupt


def test_a_start_that_was_killed_at_once_blocks_no_other_and_a_submission_is_whole(
    trainings: list[Training], ask: Callable[..., Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{RUN}.999999999.tmp").write_text("{", encoding="utf-8")
    run(ask("panx"))
    assert (
        sorted(path.name for path in out.iterdir()) == [".lock", ".locks", "predictions", RUN, "trials"]
        and len(trainings) == 1
    )
    submitted = prediction_path(out / "predictions", TASKS["panx"], "ru")
    submitted.write_text("older\n", encoding="utf-8")

    def killed(_: Path, goal: Path) -> None:
        goal.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.xtreme.trials.shutil.copyfile", killed)
    with pytest.raises(KeyboardInterrupt):
        run(ask("panx"))
    assert submitted.read_text(encoding="utf-8") == "older\n"


def test_a_folder_counts_once_its_mark_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    assert finished(folder) == (None, "")
    with pytest.raises(KeyboardInterrupt):
        begin_and_interrupt(folder)
    mark, said = finished(folder)
    assert mark is None and "was not finished and is done again" in said
    with making(folder, {"dev": 1.0}):
        assert not list(folder.iterdir())
        (folder / "whole").write_text("x", encoding="utf-8")
    mark, said = finished(folder)
    assert mark is not None and mark["dev"] == 1.0 and list(mark["files"]) == ["whole"] and not said
    (folder / "whole").write_text("y", encoding="utf-8")
    assert finished(folder)[0] is None


def test_every_language_of_every_task_has_a_family_and_a_script_and_gaps_are_from_english() -> None:
    assert {language for task in TASKS.values() for language in task.languages} == set(LANGUAGES)
    assert transfer_gap({"en": 80.0, "de": 70.0, "fr": 60.0}) == 15.0
    assert transfer_gap({"de": 70.0}) is None and transfer_gap({"en": 70.0}) is None


XTUNE = {
    "xnli": (7e-6, 5e-6, 10, 10, 256, 0, None, None),
    "pawsx": (1e-5, 1e-5, 10, 10, 256, 0, None, None),
    "panx": (1e-5, 7e-6, 10, 10, 128, 0.1, None, None),
    "udpos": (2e-5, 5e-6, 10, 10, 128, 0.1, None, None),
    "xquad": (3e-5, 1.5e-5, 4, 4, 384, 0.1, 24_000, 24_000),
    "mlqa": (3e-5, 1.5e-5, 4, 4, 384, 0.1, 24_000, 24_000),
    "tydiqa": (3e-5, 1.5e-5, 20, 10, 384, 0.1, 5_000, 2_500),
}
"""As its scripts have them: learning rate and epochs of base and of large, length, warm-up, steps of the second stage."""


@pytest.mark.parametrize("name", XTUNE)
def test_xtune_s_settings_are_of_base_or_of_large_models(name: str) -> None:
    base, large = (recipe_of(name, "xtune", Changes(), layers) for layers in (12, 24))
    (small,), (big,) = base.candidates, large.candidates
    found = (small.learning_rate, big.learning_rate, small.epochs, big.epochs, small.max_length, small.warmup)
    assert (*found, base.second_steps, large.second_steps) == XTUNE[name]
    assert small.batch == big.batch == 32 and base.best_epoch and base.source.endswith("base")
    assert (big.max_length, big.warmup) == (small.max_length, small.warmup) and large.source.endswith("large")


def test_a_row_needs_the_same_seeds_of_all_its_tasks() -> None:
    assert Outcome("m", "zero-shot", [], {}).average is None
    assert Figure.of([1.0, 3.0]).words() == "2.0 ± 1.4" and Figure.of([1.0]).as_json() == {"mean": 1.0}


MISTAKES = {
    "--dictionaries nowhere": "--dictionaries nowhere: no such folder",
    "--stages 2": "--stages 2: are of --dictionaries; give these too",
    "--group-lengths --dictionaries .": "--group-lengths: is not with --dictionaries",
    "--subwords last": "--subwords last: is none of first, sum",
    "--tasks xlni": "--tasks xlni: is none of udpos",
    "--grid best": "--grid best: is none of none, published, xtune",
    "--few-shot 2 --translated .": "is another way to train than --translated",
    "--labels nowhere": "--labels nowhere: no such folder",
    "--translated nowhere": "--translated nowhere: no such folder",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_options_that_make_no_sense_are_told_in_a_line(
    use: Callable[..., Done], download: Path, model_dir: Path, tmp_path: Path, options: str
) -> None:
    done = use("xtreme", str(model_dir), "--data", str(download), "--out", str(tmp_path / "out"), *options.split())
    assert done.code == 1 and done.err.strip().splitlines()[-1].startswith("error: ") and MISTAKES[options] in done.err
    assert not (tmp_path / "out").exists()


def test_the_check_of_predictions_ends_with_1_where_a_file_is_missing(
    use: Callable[..., Done], download: Path, tmp_path: Path
) -> None:
    done = use("xtreme-check", str(tmp_path), "--data", str(download), "--tasks", "bucc2018,tatoeba")
    assert done.code == 1 and done.err.count("no such file; bucc2018 needs one for") == 2
    made = use("xtreme-sample", str(tmp_path / "new"), "--items", "6")
    assert made.code == 0 and "9 tasks in 4 invented languages" in made.out
    assert json.loads((tmp_path / "new/squad/train-v1.1.json").read_text(encoding="utf-8"))["version"] == "1.1"
