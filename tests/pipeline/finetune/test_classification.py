"""Classification: a tiny task is learned, pairs that are cut are counted, one line a prediction."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.classification import Classification
from pipeline.finetune.training import fine_tune
from tests.pipeline.finetune.conftest import QUICK, WORDS, Done

Write = Callable[[str, str], Path]


def pairs(count: int, seed: int, labels: tuple[str, str] = ("contradiction", "entailment"), longest: int = 5) -> str:
    """Pairs whose label is whether `fox` is in the second sentence."""
    draw = random.Random(seed)
    words = [word for word in WORDS if word != "fox"]
    lines = []
    for _ in range(count):
        first, second = (draw.choices(words, k=draw.randint(1, longest)) for _ in range(2))
        label = draw.randrange(2)
        lines.append("\t".join([" ".join(first), " ".join([*["fox"] * label, *second]), labels[label]]))
    return "".join(f"{line}\n" for line in lines)


def test_a_tiny_task_is_learned_and_written_in_xtremes_layout(
    use: Callable[..., Done], write: Write, model_dir: Path, tmp_path: Path
) -> None:
    train, dev, test = write("train-en.tsv", pairs(300, 1)), write("dev-en.tsv", pairs(20, 2)), pairs(40, 3)
    unlabelled = "".join("\t".join(line.split("\t")[:2]) + "\n" for line in test.splitlines())
    files = [write("test-de.tsv", test), write("test-ur.tsv", unlabelled)]
    done = use(
        "finetune", "classify", model_dir, "--train", train, "--dev", dev, "--test", *files, "--out", tmp_path / "out",
        "--epochs", 8, *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    german, urdu = (
        (tmp_path / "out" / "predictions" / "xnli" / f"test-{language}.tsv").read_bytes() for language in ("de", "ur")
    )
    assert german == urdu, "labels are not needed to predict"
    predicted, gold = (
        german.decode().removesuffix("\n").split("\n"),
        [line.split("\t")[2] for line in test.splitlines()],
    )
    assert set(predicted) == {"contradiction", "entailment"}
    right = 100 * sum(a == b for a, b in zip(predicted, gold, strict=True)) / len(gold)
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["summary"]["mean"]["accuracy"]["mean"] == right >= 90
    assert "ur: no labels, no score" in done.err


def test_labels_0_and_1_are_pawsx_and_cut_pairs_are_counted(
    use: Callable[..., Done], write: Write, model_dir: Path, tmp_path: Path
) -> None:
    train = write("train-en.tsv", pairs(16, 1, ("0", "1")))
    test = write("test-de.tsv", pairs(3, 2, ("0", "1")) + " ".join(["box"] * 200) + "\tfox\t1\n")
    done = use(
        "finetune", "classify", model_dir, "--train", train, "--test", test, "--out", tmp_path / "out", "--epochs", 1, *QUICK
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "de: 1 pairs cut at the longest side" in done.err and "train: " not in done.err
    lines = (tmp_path / "out" / "predictions" / "pawsx" / "test-de.tsv").read_text().splitlines()
    assert len(lines) == 4 and set(lines) <= {"0", "1"}


class Recording(Classification):
    """Keeps the lengths of the rows of every batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        usual = super().collator(tokenizer)

        def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
            self.batches.append([len(row["input_ids"]) for row in rows])
            return usual(rows)

        return collate


def test_grouped_rows_of_a_batch_have_like_lengths_and_every_row_comes_once(
    write: Write, model_dir: Path, tmp_path: Path
) -> None:
    path, start = write("train-en.tsv", pairs(160, 1, longest=9)), read_start(model_dir)
    spread = {}
    for grouped in (False, True):
        task = Recording()
        items = task.read(path)
        task.learn(path, items)
        settings = replace(task.defaults, epochs=1, batch=4, group_lengths=grouped, on_cpu=True)
        rows = task.train_features(items, start.tokenizer, settings)
        fine_tune(task, start, settings, 1, rows, None, tmp_path / f"out-{grouped}")
        lengths = sorted(length for batch in task.batches for length in batch)
        assert lengths == sorted(len(row["input_ids"]) for row in rows.rows)
        spread[grouped] = sum(max(batch) - min(batch) for batch in task.batches)
    assert 3 * spread[True] < spread[False]


def test_training_ends_after_so_many_steps_at_the_most(write: Write, model_dir: Path, tmp_path: Path) -> None:
    path, start = write("train-en.tsv", pairs(10, 1)), read_start(model_dir)
    task = Recording()
    items = task.read(path)
    task.learn(path, items)
    settings = replace(task.defaults, epochs=2, batch=4, on_cpu=True)
    rows = task.train_features(items, start.tokenizer, settings)
    for most, steps in ((None, 6), (7, 6), (5, 5), (2, 2)):
        trainer = fine_tune(task, start, settings, 1, rows, None, tmp_path / f"out-{most}", most)
        assert trainer.state.global_step == steps
        assert trainer.optimizer.param_groups[0]["lr"] == 0, "the rate has fallen to 0 by then"
