"""The command `finetune`, a thin layer over `run`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_prep.standard_output import print_table, put
from pipeline.commands import finetune_options as opt
from pipeline.commands.finetune_options import Kind
from pipeline.commands.options import DeviceOption, ModelDir, TokenizerDir
from pipeline.finetune.files.inputs import Slice, TaskFile, parse_tests

if TYPE_CHECKING:  # the command imports what it needs when it runs: PyTorch takes seconds
    from pipeline.finetune.consistency_options import Ways
    from pipeline.finetune.run import Files
    from pipeline.finetune.tasks.task import Settings, Task


def finetune_command(
    task: opt.KindArgument,
    hf_dir: ModelDir,
    train: opt.TrainOption,
    test: opt.TestOption,
    out: opt.OutOption,
    more_tests: opt.MoreTests = None,
    dev: opt.DevOption = None,
    eval_every: opt.EvalEveryOption = None,
    name: opt.NameOption = None,
    train_items: opt.TrainItemsOption = None,
    dev_items: opt.DevItemsOption = None,
    test_items: opt.TestItemsOption = None,
    epochs: opt.EpochsOption = None,
    learning_rate: opt.LearningRateOption = None,
    batch: opt.BatchOption = 32,
    max_length: opt.MaxLengthOption = None,
    stride: opt.StrideOption = None,
    subwords: opt.SubwordsOption = None,
    code_switch: opt.CodeSwitchOption = None,
    subword_sampling: opt.SubwordSamplingOption = None,
    noise: opt.NoiseOption = None,
    translations: opt.TranslationsOption = None,
    switch_share: opt.SwitchShareOption = None,
    consistency: opt.ConsistencyOption = None,
    consistency_mean: opt.ConsistencyMeanOption = None,
    first_stage: opt.FirstStageOption = None,
    model_consistency: opt.ModelConsistencyOption = None,
    hard_labels: opt.HardLabelsOption = False,
    to: opt.ToOption = None,
    train_layers: opt.TrainLayersOption = None,
    label_smoothing: opt.LabelSmoothingOption = None,
    beam: opt.BeamOption = None,
    dropout: opt.DropoutOption = 0.1,
    seed: opt.SeedOption = 1,
    seeds: opt.SeedsOption = 1,
    freeze_embeddings: opt.FreezeEmbeddingsOption = False,
    group_lengths: opt.GroupLengthsOption = False,
    bf16: opt.Bf16Option = False,
    device: DeviceOption = "auto",
    no_model: opt.NoModelOption = False,
    report_to: opt.ReportToOption = None,
    tokenizer: TokenizerDir = None,
) -> None:
    """Fine-tune on one language, predict and score others: predictions in XTREME's layout, a table, results.json.

    classify takes lines `sentence1<TAB>sentence2<TAB>label` (XNLI, PAWS-X). tag takes `token<TAB>tag` lines with a blank line
    between sentences (XTREME's udpos and panx), .conllu, or .upos with `word/TAG` a sentence a line. qa takes SQuAD v1.1
    (XQuAD, MLQA, TyDiQA-GoldP). generate takes lines `source<TAB>target`, or .jsonl with source and target, and a model with
    a decoder. docs/finetuning.md and docs/generation.md have the rest.

    Example: python -m pipeline finetune tag hf/base --train train-en.tsv --dev dev-en.tsv --out pos --test test-*.tsv
    """
    from pipeline.finetune.consistency_options import Ways, consistent_task

    agreement = _given(weight=consistency, mean=consistency_mean)
    agreement |= _given(first_stage=first_stage, model_weight=model_consistency, hard_labels=hard_labels or None)
    of_writing = _given(train_layers=train_layers, label_smoothing=label_smoothing, beam=beam)
    usual = _given(epochs=epochs, learning_rate=learning_rate, max_length=max_length, stride=stride)
    ways = Ways(code_switch or [], subword_sampling, noise, translations or [], switch_share)
    chosen = consistent_task(task.value, ways, agreement) or _task(task, to, of_writing)
    _check_lengths(group_lengths, ways)
    always = _given(
        batch=batch, group_lengths=group_lengths, dropout=dropout, freeze_embeddings=freeze_embeddings, bf16=bf16
    )
    always |= _given(on_cpu=trains_on_cpu(device), report_to=tuple(report_to or ()))
    of_tagging, when = _subwords(task, subwords), _eval_every(eval_every, dev)
    settings = replace(chosen.defaults, **when, **usual, **of_writing, **of_tagging, **always)
    files = _files(train, dev, [*test, *(more_tests or [])], train_items, dev_items, test_items)
    _run(chosen, hf_dir, files, settings, seeds_of(seed, seeds), out, name, tokenizer, not no_model)


def predict_command(
    model_dir: Annotated[Path, typer.Argument(help="OUT/model, a model that finetune wrote")],
    file: Annotated[Path, typer.Argument(help="as the files of its task; labels are not needed")],
    raw: Annotated[bool, typer.Option("--raw", help="tag: untokenised text, a sentence a line")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Print what a fine-tuned model predicts: a label a line, `word<TAB>tag` lines, or answers as JSON.

    Words are split and encoded as in training, which the pipelines of Transformers do otherwise.

    Example: python -m pipeline predict pos/model news.txt --raw > news.tagged
    """
    from pipeline.finetune.predict import predict

    done = predict(model_dir, file, raw=raw, on_cpu=trains_on_cpu(device))
    put(done.text, end="")
    scores = "".join(f", {metric} {value:.2f}" for metric, value in done.scores.items())
    print("; ".join([f"{done.items:,} items{scores}", *done.notes]), file=sys.stderr)


def _run(chosen: Task[Any, Any], hf_dir: Path, files: Files, settings: Settings, seeds: range, *more: Any) -> None:
    from pipeline.finetune.output import table
    from pipeline.finetune.run import run

    done = run(chosen, hf_dir, files, settings, seeds, *more)
    if done.summary:
        many = f", {len(seeds)} seeds" if len(seeds) > 1 else ""
        title = f"{done.name}, trained on {', '.join(files.trained)}{many}"
        print_table(table(done.summary, files.trained, title))


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the task has defaults for the others."""
    return {name: value for name, value in options.items() if value is not None}


def trains_on_cpu(device: str) -> bool:
    """Whether the CPU is meant; ValueError for one GPU of several: the Trainer takes all that it sees."""
    from pipeline.model.devices import device_of

    chosen = device_of(device)
    if chosen.index is not None and chosen.type == "cuda":
        raise ValueError(
            f"--device {device}: fine-tuning takes all GPUs that it sees; set CUDA_VISIBLE_DEVICES={chosen.index} for this one"
        )
    return chosen.type == "cpu"


def _files(
    train: list[str],
    dev: str | None,
    test: list[str],
    train_items: str | None,
    dev_items: str | None,
    test_items: str | None,
) -> Files:
    from pipeline.finetune.run import Files

    if dev is None and dev_items is not None:
        raise ValueError(f"--dev-items {dev_items}: of no file; give --dev too")
    return Files(
        [TaskFile.parse(text) for text in train],
        None if dev is None else TaskFile.parse(dev),
        parse_tests(test),
        Slice.parse("--train-items", train_items),
        Slice.parse("--dev-items", dev_items),
        Slice.parse("--test-items", test_items),
    )


def seeds_of(first: int, count: int) -> range:
    """The seeds of as many runs; ValueError where one is too large for the libraries."""
    if first + count > 2**32:
        raise ValueError(f"--seed {first} --seeds {count}: the last one is too large; all must be below 2^32")
    return range(first, first + count)


def _check_lengths(grouped: bool, ways: Ways) -> None:
    if grouped and ways.given:
        raise ValueError(f"--group-lengths: is not with {ways.given[0]}, where a row has two lengths; leave one out")


def _eval_every(steps: int | None, dev: str | None) -> dict[str, Any]:
    if steps is not None and dev is None:
        raise ValueError(f"--eval-every {steps}: is of --dev; give that file too")
    return _given(eval_every=steps)


def _subwords(kind: Kind, subwords: str | None) -> dict[str, Any]:
    """The setting of tagging; ValueError where it is not of this task, or there is no such way."""
    from pipeline.finetune.tasks.tagging import SUBWORDS

    if subwords is not None and kind is not Kind.tag:
        raise ValueError(f"--subwords {subwords}: is of tag alone; leave it out")
    if subwords not in (None, *SUBWORDS):
        raise ValueError(f"--subwords {subwords}: is none of {', '.join(SUBWORDS)}")
    return _given(subwords=subwords)


def _task(kind: Kind, to: str | None, of_writing: dict[str, Any]) -> Task[Any, Any]:
    from pipeline.finetune.predict import TASKS
    from pipeline.finetune.tasks.generation import Generation

    if kind is Kind.generate:
        return Generation(to)
    for name in ["to"] * (to is not None) + list(of_writing):
        raise ValueError(f"--{name.replace('_', '-')}: is of generate alone; leave it out")
    return TASKS[kind.value]()
