"""Steps of `finetune classify` against the Trainer with rows padded to `--max-length`, as XTREME's scripts pad them.

    python -m pipeline.benchmark.finetune_step MODEL [--pairs FILE] [--json FILE]

Both are `fine_tune` with the same seed, so that they begin with the same weights and have the same batches; rows are padded to
the longest of the batch, or all to the same length. Runs are in turns, the figure is the median of the steps' paired ratios.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.table import Table
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase, Trainer, TrainerCallback

from data_prep.files import check_output, write_text
from data_prep.standard_output import print_table, put
from pipeline import command_line
from pipeline.finetune.files.read_pairs import SentencePair, read_pairs
from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.classification import Classification
from pipeline.finetune.tasks.task import Settings, Start
from pipeline.finetune.training import fine_tune

PEER, OURS = "padded to the maximum", "finetune"
SEED = 1
WARM_UP = 1
POOL = 50
"""Batches that the pairs fill, of which the first `--steps` are trained on: among so many the Trainer groups by length."""
LARGEST_LOSS_DIFFERENCE = 1e-4
WORDS, WORDS_SPREAD = 21, 7
"""Words of a generated sentence, about those of PAWS; the second has them in another order, and every other one a new word."""


@dataclass
class Step:
    """What was measured of an optimizer step."""

    processor: float
    """Seconds of the process, which other jobs of the machine change little."""
    clock: float
    loss: float
    tokens: int
    """Real ones."""
    places: int


class _Times(TrainerCallback):
    """The time from the beginning of a step to its end, the update included."""

    def __init__(self) -> None:
        self.spent: list[tuple[float, float]] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.process_time(), time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = time.process_time(), time.perf_counter()
        self.spent.append((now[0] - self._begun[0], now[1] - self._begun[1]))


class _Measured(Trainer):
    """A Trainer that keeps what its steps were."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.times = _Times()
        self.add_callback(self.times)
        self.losses: list[float] = []
        self.rows: list[tuple[int, int]] = []

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *more: Any, **named: Any) -> Tensor:
        mask = inputs["attention_mask"]
        loss = super().training_step(model, inputs, *more, **named)
        self.losses.append(loss.item())
        self.rows.append((int(mask.sum()), mask.numel()))
        return loss

    def steps(self) -> list[Step]:
        measured = zip(self.times.spent, self.losses, self.rows, strict=True)
        return [Step(processor, clock, loss, *row) for (processor, clock), loss, row in measured]


class _Classification(Classification):
    def trainer(self, settings: Settings) -> Callable[..., Trainer]:
        return _Measured


class _Padded(_Classification):
    """Rows as long as they may be."""

    def __init__(self, max_length: int) -> None:
        self._max_length = max_length

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return DataCollatorWithPadding(tokenizer, padding="max_length", max_length=self._max_length)


def draw_pairs(count: int, tokenizer: PreTrainedTokenizerBase) -> list[SentencePair]:
    """Pairs of scrambled sentences of the vocabulary's words, of about PAWS's lengths."""
    draw = random.Random(SEED)  # noqa: S311 (nothing is secret)
    words = [piece[1:] for piece in tokenizer.get_vocab() if piece[:1] == "▁" and piece[1:].isalpha()]
    words.sort()
    pairs = []
    for number in range(count):
        first = draw.choices(words, k=max(4, round(draw.gauss(WORDS, WORDS_SPREAD))))
        second = draw.sample(first, len(first))
        if number % 2:
            second[draw.randrange(len(second))] = draw.choice(words)
        pairs.append(SentencePair(" ".join(first), " ".join(second), str(1 - number % 2), number + 1))
    return pairs


def run(task: Classification, start: Start, settings: Settings, pairs: Sequence[SentencePair]) -> list[Step]:
    """The steps of one training."""
    task.learn(Path("pairs"), pairs)
    rows = task.train_features(pairs, start.tokenizer, settings)
    with tempfile.TemporaryDirectory(prefix="pipeline_benchmark_") as out:
        trainer = fine_tune(task, start, settings, SEED, rows, None, Path(out))
    assert isinstance(trainer, _Measured)
    return trainer.steps()


Rounds = list[dict[str, list[Step]]]


def figures(rounds: Rounds) -> list[dict[str, Any]]:
    """Entries of the JSON file, after the warm-up of every run: the paired ratio of steps, and how the losses differ."""
    entries: list[dict[str, Any]] = []
    timed = [(ours, peer) for of in rounds for ours, peer in list(zip(of[OURS], of[PEER], strict=True))[WARM_UP:]]
    for metric in ("processor", "clock"):
        ratios = [getattr(peer, metric) / getattr(ours, metric) for ours, peer in timed]
        for contender, place in ((OURS, 0), (PEER, 1)):
            entries.append(
                {
                    "name": f"finetune step: seconds by the {metric}",
                    "contender": contender,
                    "value": median(getattr(pair[place], metric) for pair in timed),
                    "unit": "s",
                    "ratio_to": {PEER: round(median(ratios), 3)} if place == 0 else {},
                    "ratios": [round(ratio, 3) for ratio in ratios] if place == 0 else [],
                }
            )
    for contender, place in ((OURS, 0), (PEER, 1)):
        share = sum(pair[place].tokens for pair in timed) / sum(pair[place].places for pair in timed)
        entries.append(
            {"name": "share of places that are no padding", "contender": contender, "value": share, "unit": ""}
        )
    entries.append(
        {"name": "loss difference", "contender": OURS, "value": largest_difference(rounds), "unit": "", "ratio_to": {}}
    )
    return entries


def largest_difference(rounds: Rounds) -> float:
    """The largest relative difference of the losses at any step."""
    pairs = [two for of in rounds for two in zip(of[OURS], of[PEER], strict=True)]
    return max(abs(ours.loss / peer.loss - 1) for ours, peer in pairs)


def show(entries: list[dict[str, Any]], title: str) -> None:
    table = Table(title=title)
    for column in ("contender", "s of the processor", "×", "s by the clock", "×", "real places"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for contender in (PEER, OURS):
        of = {entry["name"].rpartition(" ")[2]: entry for entry in entries if entry["contender"] == contender}
        cells = []
        for metric in ("processor", "clock"):
            ratio = of[metric]["ratio_to"].get(PEER, 1.0)
            cells += [f"{of[metric]['value']:.2f}", f"{ratio:.2f}"]
        table.add_row(contender, *cells, f"{of['padding']['value']:.1%}")
    print_table(table)


def benchmark(
    hf_dir: Annotated[Path, typer.Argument(help="what finetune takes: a Hugging Face folder, a run, a checkpoint")],
    pairs_file: Annotated[
        Path | None, typer.Option("--pairs", help="labelled pairs; by default some are generated, of PAWS's lengths")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="rows of a step")] = 32,
    steps: Annotated[int, typer.Option(min=WARM_UP + 1, max=POOL, help="of each run; the first is not counted")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="runs of each, in turns")] = 2,
    max_length: Annotated[int, typer.Option(min=8, help="tokens of a row, as published")] = 128,
    any_order: Annotated[bool, typer.Option("--any-order", help="without finetune's --group-lengths")] = False,
    freeze_embeddings: Annotated[bool, typer.Option("--freeze-embeddings", help="as finetune's, for both")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures there")] = None,
) -> None:
    """Time steps of `finetune classify` against Hugging Face's Trainer on rows that are all padded to the maximum.

    Example: python -m pipeline.benchmark.finetune_step hf/base --pairs pawsx/train-en.tsv --json figures.json
    """
    if json_file is not None:
        check_output(json_file)
    start = read_start(hf_dir)
    count = batch * POOL
    pairs = draw_pairs(count, start.tokenizer) if pairs_file is None else read_pairs(pairs_file)
    if len(pairs) < count:
        raise ValueError(f"{pairs_file}: {len(pairs)} pairs, {POOL} batches of {batch} need {count}; give more")
    settings = replace(
        Classification.defaults, epochs=steps / POOL, batch=batch, max_length=max_length, dropout=0.0,
        group_lengths=not any_order, freeze_embeddings=freeze_embeddings,
    )  # fmt: skip
    contenders: dict[str, Callable[[], Classification]] = {
        PEER: partial(_Padded, max_length),
        OURS: _Classification,
    }
    measured: Rounds = []
    for number in range(rounds):
        turn = list(contenders) if number % 2 == 0 else list(contenders)[::-1]
        measured.append({name: run(contenders[name](), start, settings, pairs[:count]) for name in turn})
    entries = figures(measured)
    show(entries, f"{rounds} rounds of {steps} steps of {batch} pairs")
    difference = entries[-1]["value"]
    put(f"largest relative difference of the losses at any step: {difference:.1e}")
    if json_file is not None:
        write_text(json_file, json.dumps(entries, indent=1) + "\n")
    if difference > LARGEST_LOSS_DIFFERENCE:
        raise ValueError(f"the losses differ by {difference:.1e} at some step: the two do not do the same work")


def main() -> None:
    command_line.run_one(benchmark)


if __name__ == "__main__":
    main()
