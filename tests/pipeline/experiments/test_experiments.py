"""Experiments: the file, the arms' configs, and what is compared."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.evaluate.alignment_error import evaluate, evaluate_halves
from pipeline.evaluate.gold import read_gold
from pipeline.experiments import measure
from pipeline.experiments.compare import (
    ArmOutcome,
    as_json,
    differences,
    direction_table,
    draw,
    standard_error,
    table,
    task_table,
)
from pipeline.experiments.measure import Yardstick, best_retrieval, chosen_layer, mean_aer, measure_start, reported_aer
from pipeline.experiments.plan import check_places, common_start, read_experiment, trials
from pipeline.experiments.training import has_finished
from pipeline.experiments.transfer import Tasks
from pipeline.finetune.predict import TASKS
from pipeline.generate.generator import Generator, Written
from pipeline.generate.model import load_text_model
from pipeline.settings.align_options import Way
from pipeline.settings.sizes import longest_sequence
from pipeline.texts.sentence_files import find_pairs
from pipeline.weights.loading import load_model
from tests.conftest import ROOT
from tests.pipeline.generation_kit import module, save, tokenizer_with_tags

EXPERIMENTS = ROOT / "pipeline" / "experiments"


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """An experiment of two arms on the quickstart's config."""
    content = {
        "config": "pipeline/configs/quickstart.yaml",
        "settings": {"data.path": "here", "run.steps": 40},
        "arms": {"with": {}, "without": {"objectives.dwa": None, "run.steps": 50}},
        "baseline": "without",
        "gold": ["gold"],
        "measured": 20,
    }
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def measurement(chosen: dict[str, list[float]], reported: dict[str, list[float]]) -> dict[str, Any]:
    aer = {pair: {"chosen_on": chosen[pair], "reported_on": reported[pair]} for pair in chosen}
    return {"aer": aer, "aer_argmax_separate": aer, "retrieval": {"a-b": [0.2, 0.8], "a-c": [0.6, 0.1]}}


def outcome(arm: str, seed: int, aer: float) -> ArmOutcome:
    return ArmOutcome(arm, seed, {10: measurement({"a-b": [0.5, 0.4]}, {"a-b": [0.1, aer]})}, 2.0, 3.0)


def test_an_arm_overrides_the_experiment_which_overrides_the_config(experiment: Path, tmp_path: Path) -> None:
    plan = read_experiment(experiment, ["batch.pairs=8", "run.steps=45"])
    planned = trials(plan, tmp_path / "out", [3, 4])
    assert [(trial.arm, trial.seed) for trial in planned] == [("with", 3), ("without", 3), ("with", 4), ("without", 4)]
    with_it, without = (trial.config(plan) for trial in planned[:2])
    assert with_it.objectives.dwa is not None and without.objectives.dwa is None
    assert (with_it.run.steps, without.run.steps) == (45, 50)
    assert with_it.data.path == Path("here") and with_it.batch.pairs == 8
    assert with_it.run.out == tmp_path / "out" / "with" / "seed_3" and with_it.run.seed == 3
    assert (with_it.run.save_every, with_it.run.keep_every) == (20, 20)
    assert [trial.arm for trial in trials(plan, tmp_path, [1], ["without"])] == ["without"]


def test_every_seed_may_start_from_a_model_of_its_own(experiment: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    content["settings"]["model"] = {"init": "starts/seed_{seed}"}
    experiment.write_text(yaml.safe_dump(content), encoding="utf-8")
    plan = read_experiment(experiment)
    planned = trials(plan, tmp_path / "out", [3, 4], ["with"])
    assert [trial.config(plan).model.init for trial in planned] == [Path("starts/seed_3"), Path("starts/seed_4")]
    assert common_start(plan, planned) is None, "neither is where the other started"
    assert common_start(plan, planned[:1]) == Path("starts/seed_3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "other"}, "baseline = 'other' is none of the arms: with, without"),
        ({"arm": {}}, "unknown key arm"),
        ({"gold": []}, r"gold = \[\]: list should have at least 1 item"),
    ],
)
def test_a_wrong_experiment_is_named(experiment: Path, change: dict[str, Any], message: str) -> None:
    content = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    experiment.write_text(yaml.safe_dump(content | change), encoding="utf-8")
    with pytest.raises(ValueError, match=message) as error:
        read_experiment(experiment)
    assert str(error.value).startswith(f"{experiment}: ") and "\n" not in str(error.value)


def test_a_wrong_arm_or_setting_is_named(experiment: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--arm other: choose of with, without"):
        trials(read_experiment(experiment), tmp_path, [1], ["other"])
    with pytest.raises(ValueError, match=r"unknown key optimizer.rl; did you mean optimizer.lr\?"):
        trials(read_experiment(experiment, ["optimizer.rl=1"]), tmp_path, [1])
    with pytest.raises(ValueError, match=r"override 'optimizer\.lr': write key=value"):
        read_experiment(experiment, ["optimizer.lr"])
    with pytest.raises(ValueError, match=r"nothing.yaml: no such experiment, neither as a file nor by name"):
        read_experiment(tmp_path / "nothing.yaml")


def test_a_task_s_files_and_settings_are_checked_before_anything_is_trained(experiment: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    task = {"task": "tag", "train": ["qaa=train.tsv"], "test": ["qab=test.tsv"], "shown": ["accuracy"]}
    content |= {"finetuned": {"class": task}, "gold": [str(tmp_path)], "made_by": "make it"}
    experiment.write_text(yaml.safe_dump(content), encoding="utf-8")
    plan = read_experiment(experiment)
    with pytest.raises(
        ValueError, match=r"^finetuned\.class: train\.tsv: no such file or folder; make it with `make it`$"
    ):
        check_places(plan)
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_text("word\tnoun\n", encoding="utf-8")
    made = {name: [f"qaa={tmp_path}/{name}.tsv"] for name in ("train", "test")}
    tuning = plan.finetuned["class"].model_copy(update=made)
    check_places(plan.model_copy(update={"finetuned": {"class": tuning}}))
    first = Tasks({"class": tuning})
    (tmp_path / "test.tsv").write_text("word\tverb\n", encoding="utf-8")
    assert Tasks({"class": tuning}).content != first.content, "another yardstick"
    with pytest.raises(
        ValueError, match=r"^finetuned\.class\.settings\.max_length = 128: the model of mlm takes 64 tokens"
    ):
        first.check(64, "mlm")
    first.check(128, "mlm")
    wrong = tuning.model_copy(update={"settings": {"epoch": 3}})
    with pytest.raises(ValueError, match=r"^finetuned\.class\.settings\.epoch: is none of batch, .*epochs"):
        Tasks({"class": wrong})


def test_a_task_s_table_has_the_arms_that_can_do_it() -> None:
    outcomes = [outcome("writes", 1, 0.1), outcome("writes", 2, 0.1), outcome("reads", 1, 0.1)]
    for index, each in enumerate(outcomes):
        done = {"object": {"qaa": {"exact_match": 90.0 + 2 * index}}} if each.arm == "writes" else {}
        each.last["finetuned"] = done
    drawn = task_table(outcomes, None, "object", ["exact_match"])
    assert [list(column.cells) for column in drawn.columns] == [["writes"], ["91.00 ± 1.00"]]


def test_translations_are_told_by_direction() -> None:
    outcomes = [outcome("all", 1, 0.1), outcome("all", 2, 0.1), outcome("encoder", 1, 0.1)]
    for index, each in enumerate(outcomes[:2]):
        scores = {"bleu": 1.0, "chrf": 50.0 + index, "exact_match": 10.0 * index}
        each.last["translation"] = {"a-b": scores, "b-a": {**scores, "chrf": 7.0}}
    drawn = direction_table(outcomes)
    assert [str(column.header) for column in drawn.columns] == [
        "arm",
        "chrF, a-b",
        "chrF, b-a",
        "exact, a-b",
        "exact, b-a",
    ]
    rows = [list(cells) for cells in zip(*(column.cells for column in drawn.columns), strict=True)]
    assert rows == [
        ["all", "50.50 ± 0.50", "7.00 ± 0.00", "5.00 ± 5.00", "5.00 ± 5.00"],
        ["encoder", "", "", "", ""],
    ]


@pytest.mark.parametrize("longer", [1, 2])
def test_a_model_that_writes_on_and_on_is_stopped_by_the_longest_reference(
    longer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_with_tags()
    model = load_text_model(save(tmp_path / "model", module(len(tokenizer)), tokenizer, "target"))
    for language in ("de", "en"):
        (tmp_path / f"x.de-en.{language}").write_text("the fox\nthe\n", encoding="utf-8")
    pairs = find_pairs(tmp_path / "x.de-en.de", tmp_path / "x.de-en.en")
    longest = len(tokenizer("the fox").input_ids)
    written: list[int] = []

    class Counting(Generator):
        def generate(self, texts: Iterable[str]) -> list[Written]:
            found = super().generate(texts)
            written.extend(each.hypotheses[0].tokens for each in found)
            return found

    monkeypatch.setattr(measure, "LONGER", longer)
    monkeypatch.setattr(measure, "Generator", Counting)
    assert set(measure.translations(model, pairs)) == {"de-en", "en-de"}
    assert written == [longer * longest] * 4, "none of its texts would end"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_experiments_of_the_repository_are_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXPERIMENTS.parents[1])
    plan = read_experiment(path)
    configs = [trial.config(plan) for trial in trials(plan, Path("out"), [1])]
    assert len(configs) == len(plan.arms) >= 2
    differ = [config.model_dump(exclude={"run": {"out"}}) for config in configs]
    assert all(differ.count(config) == 1 for config in differ)
    for task in plan.finetuned.values():
        longest = task.settings.get("max_length", TASKS[task.task]().defaults.max_length)
        assert all(longest <= longest_sequence(config) for config in configs), "the models take less"


def test_the_layer_is_chosen_on_one_half_and_reported_on_the_other() -> None:
    chosen = {"a-b": [0.5, 0.1, 0.3], "a-c": [0.2, 0.5, 0.3]}  # means: 0.35, 0.3, 0.3
    found = measurement(chosen, {"a-b": [0.0, 0.7, 0.1], "a-c": [0.0, 0.6, 0.1]})
    assert chosen_layer(found["aer"]) == 1
    assert reported_aer(found["aer"]) == {"a-b": 0.7, "a-c": 0.6}
    assert mean_aer(found["aer"]) == pytest.approx(0.65)
    assert best_retrieval(found) == (1, pytest.approx(0.45))
    assert best_retrieval(found | {"retrieval": {}}) is None


def test_halves_are_every_second_pair(hf_dir: Path, gold_dir: Path) -> None:
    encoder, tokenizer = load_model(hf_dir)
    gold = read_gold(gold_dir)
    joint, separate_way, softmax = Way(), Way("argmax", "separate"), Way("softmax", "separate")
    ((chosen, reported),) = evaluate_halves(encoder, tokenizer, gold, joint)
    assert chosen == evaluate(encoder, tokenizer, gold.part(slice(0, None, 2))).layers
    assert reported == evaluate(encoder, tokenizer, gold.part(slice(1, None, 2))).layers
    both = evaluate_halves(encoder, tokenizer, gold, separate_way, softmax)
    for way, halves in zip((separate_way, softmax), both, strict=True):
        assert halves.chosen_on == evaluate(encoder, tokenizer, gold.part(slice(0, None, 2)), way).layers
        assert halves.reported_on == evaluate(encoder, tokenizer, gold.part(slice(1, None, 2)), way).layers
    assert both[0] != both[1]
    assert len(gold.part(slice(0, None, 2))) == 2 and len(gold) == 3


def test_a_run_counts_as_finished_with_its_own_settings_only(experiment: Path, tmp_path: Path) -> None:
    plan = read_experiment(experiment)
    trial = trials(plan, tmp_path / "out", [1])[0]
    assert not has_finished(plan, trial)
    trial.out.mkdir(parents=True)
    (trial.out / "config.yaml").write_text(trial.config(plan).dump(), encoding="utf-8")
    metrics = trial.out / "metrics.jsonl"
    for text, finished in (('{"kind": "end", "finished": false}', False), ('{"kind": "end", "fin', False)):
        metrics.write_text(text, encoding="utf-8")
        assert has_finished(plan, trial) is finished
    metrics.write_text('{"kind": "end", "step": 40, "finished": true}\n', encoding="utf-8")
    assert has_finished(plan, trial)
    longer = read_experiment(experiment, ["run.steps=60", "optimizer.lr=1e-4"])
    with pytest.raises(
        ValueError, match=r"trained with other settings than with has now \(optimizer\.lr, run\.steps\)"
    ):
        has_finished(longer, trials(longer, tmp_path / "out", [1])[0])


def test_what_was_measured_counts_with_the_same_gold_only(hf_dir: Path, gold_dir: Path, tmp_path: Path) -> None:
    first = measure_start(hf_dir, tmp_path, Yardstick([gold_dir], []))
    kept = json.loads((tmp_path / "start.json").read_text(encoding="utf-8"))
    kept["measured"]["retrieval"] = "as kept"
    (tmp_path / "start.json").write_text(json.dumps(kept), encoding="utf-8")
    assert measure_start(hf_dir, tmp_path, Yardstick([gold_dir], []))["retrieval"] == "as kept"
    (gold_dir / "pharaoh.txt").unlink(missing_ok=True)
    (gold_dir / "alignv2.txt").write_text("1 1 1\n", encoding="utf-8")
    again = measure_start(hf_dir, tmp_path, Yardstick([gold_dir], []))
    assert again["retrieval"] == {} and again["aer"] != first["aer"]


def test_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    found = [outcome(*given) for given in (("base", 1, 0.5), ("base", 2, 0.7), ("new", 1, 0.4), ("new", 2, 0.3))]
    found.append(outcome("new", 3, 0.0))  # without a baseline of its seed
    less = differences(found, "new", "base")
    assert less == pytest.approx([-0.1, -0.4])
    assert standard_error(less) == pytest.approx(statistics.stdev(less) / math.sqrt(2))
    result = as_json(found, "base", None)
    assert result["arms"]["new"]["less_baseline"] == pytest.approx(-0.25)
    assert result["arms"]["new"]["less_baseline_error"] == pytest.approx(standard_error(less))
    assert "less_baseline_error" not in as_json(found[::2], "base", None)["arms"]["new"]
    draw(found, None, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_difference_is_named_as_a_difference_and_has_its_sign() -> None:
    found = [outcome("base", 1, 0.5), outcome("new", 1, 0.4), outcome("worse", 1, 0.62)]
    drawn = table(found, "base", None)
    columns = {str(column.header): list(column.cells) for column in drawn.columns}
    assert columns["AER minus base's"] == ["", "-10.00", "+12.00"]


def test_data_that_is_missing_is_told_with_what_makes_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.experiments", "generated", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    missing = "error: gold: quickstart/corpus/gold: no such file or folder; make it with "
    assert done.stderr == f"{missing}`python -m pipeline quickstart --out quickstart --steps 1`\n"
    assert not (tmp_path / "out").exists()
