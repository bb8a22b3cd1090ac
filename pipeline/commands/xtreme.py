"""The commands `xtreme…`: a model's row on XTREME, a check of predictions, the tasks' files from the hub, a miniature."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_prep.files import write_text
from data_prep.standard_output import print_table, put
from pipeline.commands.finetune_options import Bf16Option, FreezeEmbeddingsOption, GroupLengthsOption
from pipeline.commands.options import DeviceOption, DtypeOption, ModelDir, TokenizerDir
from pipeline.xtreme.catalog import check_data, choose_tasks

if TYPE_CHECKING:  # a command imports what it needs when it runs: PyTorch takes seconds
    from pipeline.xtreme.request import Request
    from pipeline.xtreme.results import Outcome
    from pipeline.xtreme.transfer import Mode

DataOption = Annotated[Path, typer.Option(help="folder that XTREME's scripts/download_data.sh makes (`download`)")]
TasksOption = Annotated[
    list[str] | None, typer.Option(help="a task alone, or several apart by commas; may be repeated; default: all nine")
]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        help="folder with TASK/test-LANGUAGE.tsv or .json, right answers that the test files lack; default: DATA/labels",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path, typer.Option(help="folder for what is found; where it was begun before, it is gone on with")
]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="the first seed")]
SeedsOption = Annotated[int, typer.Option(min=1, help="how many; mean and deviation are shown")]
GridOption = Annotated[
    str,
    typer.Option(
        help="none: the settings of XTREME's scripts; published: XLM-E's grid, chosen on English dev; xtune: xTune's settings"
    ),
]
FewShotOption = Annotated[int, typer.Option(min=0, help="train on so many labelled items of each other language too")]
TranslatedOption = Annotated[
    Path | None,
    typer.Option(
        help="translate-train-all: folder with TASK/train-LANGUAGE.tsv or .json, or XTREME's own xtreme_translations, "
        "trained on beside English"
    ),
]
DictionariesOption = Annotated[
    Path | None,
    typer.Option(
        help="folder with MUSE's en-LANGUAGE.txt: tasks are trained with xTune's example consistency, each as released"
    ),
]
StagesOption = Annotated[
    int, typer.Option(min=1, max=2, help="of xTune, with --dictionaries; 2: also agreeing with the first's model")
]
LearningRateOption = Annotated[float | None, typer.Option("--lr", help="instead of the published one")]
EpochsOption = Annotated[float | None, typer.Option(min=0.01, help="instead of the published number")]
BatchOption = Annotated[int | None, typer.Option(min=1, help="rows of a step, instead of 32")]
SubwordsOption = Annotated[
    str, typer.Option(help="POS and NER: a word is to the head its first subword (first) or their sum (sum)")
]
LayerOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="of sentence vectors; default: 8 of 12, 14 of 24; for others it is needed", show_default=False
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="trainings at a time, each in a process of its own, on the GPUs in turn; default: as many as there are GPUs",
        show_default=False,
    ),
]


def xtreme_command(
    hf_dir: ModelDir,
    data: DataOption,
    out: OutOption,
    tasks: TasksOption = None,
    seed: SeedOption = 1,
    seeds: SeedsOption = 1,
    grid: GridOption = "none",
    few_shot: FewShotOption = 0,
    translated: TranslatedOption = None,
    dictionaries: DictionariesOption = None,
    stages: StagesOption = 1,
    labels: LabelsOption = None,
    learning_rate: LearningRateOption = None,
    epochs: EpochsOption = None,
    batch: BatchOption = None,
    group_lengths: GroupLengthsOption = False,
    freeze_embeddings: FreezeEmbeddingsOption = False,
    bf16: Bf16Option = False,
    subwords: SubwordsOption = "first",
    layer: LayerOption = None,
    tokenizer: TokenizerDir = None,
    jobs: JobsOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Fine-tune a model for XTREME's tasks, and print its row beside published ones.

    OUT has results.json, row.md, row.tex, languages.png, and predictions/ as XTREME's leaderboard takes them. What is
    finished is not done again, and commands with the same OUT share the work. Exit code 1 where a task's files are damaged; a
    task without files is said and left out.

    Example: python -m pipeline xtreme hf/base --data download --out xtreme/base --seeds 5
    """
    chosen = choose_tasks(_names(tasks))
    check_data(data)
    if group_lengths and dictionaries is not None:
        raise ValueError("--group-lengths: is not with --dictionaries, where a row has two lengths; leave one out")
    # These take seconds to import.
    from pipeline.commands.finetune import seeds_of, trains_on_cpu
    from pipeline.model.devices import choose_place
    from pipeline.xtreme.recipes import Changes
    from pipeline.xtreme.request import Request

    request = Request(
        model=hf_dir,
        data=data,
        out=out,
        tasks=tuple(chosen),
        seeds=tuple(seeds_of(seed, seeds)),
        grid=_grid(grid),
        changes=Changes(
            learning_rate,
            epochs,
            batch,
            freeze_embeddings,
            bf16,
            trains_on_cpu(device),
            _subwords(subwords),
            group_lengths,
        ),
        mode=_mode(few_shot, translated, dictionaries, stages),
        labels=_labels(labels, data),
        layer=layer,
        place=choose_place(device, dtype),
        tokenizer=tokenizer,
    )
    _run(request, jobs, worker)


def xtreme_check_command(
    predictions: Annotated[Path, typer.Argument(help="folder with TASK/test-LANGUAGE.tsv or .json")],
    data: DataOption,
    tasks: TasksOption = None,
) -> None:
    """Check predictions as XTREME's leaderboard would: a line per problem, exit code 1 on any.

    Example: python -m pipeline xtreme-check xtreme/base/predictions --data download
    """
    from pipeline.xtreme.submission import problems

    check_data(data)
    chosen = choose_tasks(_names(tasks))
    found = problems(predictions, data, chosen)
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if found:
        raise typer.Exit(1)
    put(f"{predictions}: all predictions are of their test sets, of {len(chosen)} tasks")


def xtreme_download_command(
    out: Annotated[Path, typer.Argument(help="folder for the files; those that are there are left")],
    tasks: TasksOption = None,
    dataset: Annotated[str, typer.Option(help="of the hub, or its folder")] = "google/xtreme",
    multi_nli: Annotated[str, typer.Option(help="XNLI's training data, likewise")] = "nyu-mll/multi_nli",
) -> None:
    """Fetch XTREME's tasks from the data sets of the hub, in the layout of its own download; all but BUCC.

    Example: python -m pipeline xtreme-download download --tasks udpos,panx
    """
    chosen = choose_tasks(_names(tasks))
    # This takes seconds to import.
    from pipeline.xtreme.hub_data import Hub, fetch

    written = fetch(out, chosen, Hub(dataset, multi_nli))
    put(f"{out}: {written} {'file' if written == 1 else 'files'} written")


def xtreme_sample_command(
    out: Annotated[Path, typer.Argument(help="new folder")],
    items: Annotated[int, typer.Option(min=1, help="to train on, of every task; a third of it for dev and test")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="chooses words and sentences")] = 0,
) -> None:
    """Write a miniature of XTREME in invented languages: every task in the layout of its download, few sentences.

    Example: python -m pipeline xtreme-sample download
    """
    from pipeline.xtreme.sample import write_sample

    names = write_sample(out, items, seed)
    put(f"{out}: {len(names)} tasks in 4 invented languages, labels of the test sets in {out / 'labels'}")


def _run(request: Request, jobs: int | None, worker: bool) -> None:
    """In a process of `run_workers` (worker) only what takes time."""
    from pipeline.xtreme.run import footnotes, run, work
    from pipeline.xtreme.workers import end_with_parent, gpus, run_workers

    if worker:
        end_with_parent()
        work(request)
        return
    on = [] if request.place.device.type == "cpu" else gpus()
    at_a_time = jobs or max(len(on), 1)
    with_help = partial(run_workers, sys.argv[1:], at_a_time, on) if at_a_time > 1 else None
    outcome = run(request, with_help)
    _write(outcome, footnotes(request, outcome), request.out)
    if outcome.failed:
        raise typer.Exit(1)


def _names(tasks: list[str] | None) -> list[str]:
    return [name.strip() for text in tasks or [] for name in text.split(",") if name.strip()]


def _grid(grid: str) -> str:
    from pipeline.xtreme.recipes import GRIDS

    if grid not in GRIDS:
        raise ValueError(f"--grid {grid}: is none of {', '.join(GRIDS)}")
    return grid


def _subwords(subwords: str) -> str:
    from pipeline.finetune.tasks.tagging import SUBWORDS

    if subwords not in SUBWORDS:
        raise ValueError(f"--subwords {subwords}: is none of {', '.join(SUBWORDS)}")
    return subwords


def _mode(few_shot: int, translated: Path | None, dictionaries: Path | None, stages: int) -> Mode:
    from pipeline.xtreme.transfer import Mode

    if few_shot and translated is not None:
        raise ValueError(f"--few-shot {few_shot}: is another way to train than --translated; give one of them")
    if translated is not None and not translated.is_dir():
        raise ValueError(
            f"--translated {translated}: no such folder; give one with TASK/train-LANGUAGE.tsv or .json, or "
            "xtreme_translations"
        )
    if dictionaries is not None and not dictionaries.is_dir():
        raise ValueError(f"--dictionaries {dictionaries}: no such folder; give one with en-LANGUAGE.txt")
    if stages > 1 and dictionaries is None:
        raise ValueError(f"--stages {stages}: are of --dictionaries; give these too")
    return Mode(few_shot, translated, dictionaries, stages)


def _labels(labels: Path | None, data: Path) -> Path | None:
    if labels is not None and not labels.is_dir():
        raise ValueError(f"--labels {labels}: no such folder; give one with TASK/test-LANGUAGE.tsv or .json")
    beside = data / "labels"
    return labels if labels is not None else beside if beside.is_dir() else None


def _write(outcome: Outcome, notes: list[str], out: Path) -> None:
    """The tables on standard output, and everything as files."""
    from pipeline.xtreme.picture import draw_by_language
    from pipeline.xtreme.tables import as_latex, as_markdown, for_terminal, tables_of

    tables = tables_of(outcome)
    for table in tables[:2]:
        print_table(for_terminal(table))
    for note in notes:
        put(f"- {note}")
    write_text(out / "row.md", as_markdown(tables, notes))
    write_text(out / "row.tex", as_latex(tables, notes))
    draw_by_language(outcome, out / "languages.png")
    content = outcome.as_json() | {"notes": notes}
    write_text(out / "results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
