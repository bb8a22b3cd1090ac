"""The command `finetune`, a thin layer over `run`."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data_prep.standard_output import print_table, put
from pipeline.commands.options import DeviceOption, ModelDir, TokenizerDir
from pipeline.finetune.files.inputs import Slice, TaskFile, parse_tests

if TYPE_CHECKING:  # the command imports what it needs when it runs: PyTorch takes seconds
    from pipeline.finetune.run import Files
    from pipeline.finetune.tasks.task import Settings, Task


class Kind(str, Enum):
    """What is predicted: a label for a sentence pair, a tag for every word, a span that answers a question, or a text."""

    classify = "classify"
    tag = "tag"
    qa = "qa"
    generate = "generate"


def finetune_command(
    task: Annotated[Kind, typer.Argument(help="classify: sentence pairs; tag: words; qa: SQuAD v1.1; generate: texts")],
    hf_dir: ModelDir,
    train: Annotated[list[str], typer.Option(help="FILE or LANGUAGE=FILE; may be repeated")],
    test: Annotated[list[str], typer.Option(help="FILE or LANGUAGE=FILE, one a language; may be repeated")],
    out: Annotated[Path, typer.Option(help="new folder for predictions, results.json and the model")],
    more_tests: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="more test files: `--test test-*.tsv` may be unquoted"),
    ] = None,
    dev: Annotated[
        str | None, typer.Option(help="FILE by which the best epoch is chosen; without it, the last")
    ] = None,
    eval_every: Annotated[
        int | None, typer.Option(min=1, help="steps between two evaluations on --dev; default: once an epoch")
    ] = None,
    name: Annotated[str | None, typer.Option(help="XTREME's name of the data set, a folder of the predictions")] = None,
    train_items: Annotated[
        str | None, typer.Option(help="FIRST-LAST: these sentences, pairs or questions alone")
    ] = None,
    dev_items: Annotated[str | None, typer.Option(help="FIRST-LAST, of --dev")] = None,
    test_items: Annotated[str | None, typer.Option(help="FIRST-LAST, of every test file")] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0.01, help="default: classify and generate 5, tag 10, qa 3")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="default: 2e-5, qa 3e-5, generate 5e-5")] = None,
    batch: Annotated[int, typer.Option(min=1, help="rows of a step, on each device")] = 32,
    max_length: Annotated[
        int | None, typer.Option(min=4, help="tokens of a row; default: 128, generate 256, qa 384")
    ] = None,
    stride: Annotated[int | None, typer.Option(min=0, help="qa: tokens shared by two windows of a context")] = None,
    subwords: Annotated[
        str | None,
        typer.Option(help="tag: what a word is to the head, its first subword (first, default) or their sum"),
    ] = None,
    code_switch: Annotated[
        list[str] | None,
        typer.Option(
            help="classify and tag: a dictionary, FILE or LANGUAGE=FILE, a word and its translation a line; what is said of a "
            "sentence with words from it must agree with what is said of the sentence (xTune); may be repeated"
        ),
    ] = None,
    switch_share: Annotated[
        float | None, typer.Option(min=0, max=1, help="of the words, to be looked up in a dictionary; default: 0.3")
    ] = None,
    consistency: Annotated[float | None, typer.Option(min=0, help="weight of that agreement; default: 5")] = None,
    consistency_mean: Annotated[
        str | None,
        typer.Option(
            help="over elements, as released (default): the weight is divided by the number of labels; or items"
        ),
    ] = None,
    first_stage: Annotated[
        Path | None,
        typer.Option(help="OUT/model of a training with dictionaries, whose second stage this is (xTune)"),
    ] = None,
    model_consistency: Annotated[
        float | None, typer.Option(min=0, help="weight of the agreement with the first stage; default: 5")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="generate: language of all texts to write; default: each file's")
    ] = None,
    train_layers: Annotated[
        str | None,
        typer.Option(
            help="generate: all (default); decoder; or FIRST-LAST, these layers of the encoder alone, as 1-10 for tests in "
            "languages that are not trained on"
        ),
    ] = None,
    label_smoothing: Annotated[float | None, typer.Option(min=0, max=1, help="generate; default: 0")] = None,
    beam: Annotated[int | None, typer.Option(min=1, help="generate, for dev and test; default: 5")] = None,
    dropout: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="decides head, order and dropout")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="runs with seeds from --seed on; mean and deviation are shown")] = 1,
    freeze_embeddings: Annotated[
        bool, typer.Option("--freeze-embeddings", help="keep the word embeddings as they are: faster, less memory")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="bf16 autocast, where the hardware has it")] = False,
    device: DeviceOption = "auto",
    no_model: Annotated[bool, typer.Option("--no-model", help="do not keep the fine-tuned model")] = False,
    report_to: Annotated[list[str] | None, typer.Option(help="the Trainer's: tensorboard, wandb")] = None,
    tokenizer: TokenizerDir = None,
) -> None:
    """Fine-tune on one language, predict and score others: predictions in XTREME's layout, a table, results.json.

    classify takes lines `sentence1<TAB>sentence2<TAB>label` (XNLI, PAWS-X). tag takes `token<TAB>tag` lines with a blank line
    between sentences (XTREME's udpos and panx), .conllu, or .upos with `word/TAG` a sentence a line. qa takes SQuAD v1.1
    (XQuAD, MLQA, TyDiQA-GoldP). generate takes lines `source<TAB>target`, or .jsonl with source and target, and a model with
    a decoder. docs/finetuning.md and docs/generation.md have the rest.

    Example: python -m pipeline finetune tag hf/base --train train-en.tsv --dev dev-en.tsv --out pos --test test-*.tsv
    """
    of_writing = _given(train_layers=train_layers, label_smoothing=label_smoothing, beam=beam)
    agreement = _given(
        switch_share=switch_share,
        weight=consistency,
        mean=consistency_mean,
        first_stage=first_stage,
        model_weight=model_consistency,
    )
    chosen = _consistent(task, code_switch or [], agreement, seed) or _task(task, to, of_writing)
    of_tagging = _subwords(task, subwords)
    if eval_every is not None and dev is None:
        raise ValueError(f"--eval-every {eval_every}: is of --dev; give that file too")
    settings = replace(
        chosen.defaults,
        **_given(eval_every=eval_every),
        **_given(epochs=epochs, learning_rate=learning_rate, max_length=max_length, stride=stride),
        **of_writing,
        **of_tagging,
        batch=batch,
        dropout=dropout,
        freeze_embeddings=freeze_embeddings,
        bf16=bf16,
        on_cpu=trains_on_cpu(device),
        report_to=tuple(report_to or ()),
    )
    if seed + seeds > 2**32:
        raise ValueError(f"--seed {seed} --seeds {seeds}: the last one is too large; all must be below 2^32")
    files = _files(train, dev, [*test, *(more_tests or [])], train_items, dev_items, test_items)
    _run(chosen, hf_dir, files, settings, range(seed, seed + seeds), out, name, tokenizer, not no_model)


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


def _subwords(kind: Kind, subwords: str | None) -> dict[str, Any]:
    """The setting of tagging; ValueError where it is not of this task, or there is no such way."""
    from pipeline.finetune.tasks.tagging import SUBWORDS

    if subwords is not None and kind is not Kind.tag:
        raise ValueError(f"--subwords {subwords}: is of tag alone; leave it out")
    if subwords not in (None, *SUBWORDS):
        raise ValueError(f"--subwords {subwords}: is none of {', '.join(SUBWORDS)}")
    return _given(subwords=subwords)


def _consistent(kind: Kind, dictionaries: list[str], options: dict[str, Any], seed: int) -> Task[Any, Any] | None:
    """The task with example consistency; None: it is not asked for. ValueError where the options do not go together."""
    from pipeline.finetune.code_switching import CodeSwitcher, read_dictionary
    from pipeline.finetune.consistency import MEANS
    from pipeline.finetune.tasks.consistent import Consistency, ConsistentClassification, ConsistentTagging

    if not dictionaries and options:
        raise ValueError(
            "--switch-share, --consistency… and --first-stage: are of --code-switch; give a dictionary too"
        )
    if not dictionaries:
        return None
    kinds = {Kind.classify: ConsistentClassification, Kind.tag: ConsistentTagging}
    if kind not in kinds:
        raise ValueError(f"--code-switch {dictionaries[0]}: is of classify and tag; leave it out")
    if options.get("mean", MEANS[0]) not in MEANS:
        raise ValueError(f"--consistency-mean {options['mean']}: is none of {', '.join(MEANS)}")
    if "model_weight" in options and "first_stage" not in options:
        raise ValueError(f"--model-consistency {options['model_weight']:g}: is of --first-stage; give that model too")
    files = [TaskFile.parse(text) for text in dictionaries]
    share = options.pop("switch_share", 0.3)
    switcher = CodeSwitcher({file.language: read_dictionary(file.path) for file in files}, share, seed)
    return kinds[kind](Consistency(switcher, **options))


def _task(kind: Kind, to: str | None, of_writing: dict[str, Any]) -> Task[Any, Any]:
    from pipeline.finetune.predict import TASKS
    from pipeline.finetune.tasks.generation import Generation

    if kind is Kind.generate:
        return Generation(to)
    for name in ["to"] * (to is not None) + list(of_writing):
        raise ValueError(f"--{name.replace('_', '-')}: is of generate alone; leave it out")
    return TASKS[kind.value]()
