"""awesome-align fine-tuned by its own objectives, from the same weights on the same pairs as `adapt`: AER before and after.

    python -m pipeline.benchmark.awesome_finetuning HF_DIR PAIRS GOLD… --peers PYTHON [--layer N] [--steps N] [--objective so]
        [--seed N]

PYTHON is that of an environment with `awesome-align`, which gets the weights as `pipeline.benchmark.align` gives them. PAIRS
has `source ||| target` lines. The recipe is its own (AdamW, 2e-5) but for the layer, the steps and 32 pairs a step; links are
its own, too; those of our aligner with both models stand beside them, so that training and extraction can be told apart. Time
is the processor's, so that what else runs on the machine does not count.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Annotated

import torch
import typer
from rich.table import Table

from data_prep.files import check_output, write_text
from data_prep.standard_output import print_table, put
from pipeline import command_line
from pipeline.benchmark.align import ON_BERT, Peer, our_run, pair_lines, write_bert
from pipeline.evaluate.alignment_error import distinct, gold_folders
from pipeline.evaluate.gold import Gold, read_gold, score_links
from pipeline.weights.loading import load_model

PAIRS_AT_ONCE, ACCUMULATED = 8, 4  # 32 pairs a step, as `adapt` takes
WEIGHTS = "pytorch_model.bin"
LAST_LINES = 8  # of what a failed peer said


@dataclass(frozen=True)
class Recipe:
    """What of its own recipe is chosen."""

    layer: int
    steps: int
    objectives: Sequence[str]
    seed: int
    """Of the order of the pairs and of dropout."""


def finetune(python: Path, model: Path, pairs: Path, out: Path, recipe: Recipe) -> float:
    """Seconds of the processor for the whole fine-tuning, loading included; ValueError where it fails."""
    options = {
        "output_dir": out,
        "model_name_or_path": model,
        "train_data_file": pairs,
        "align_layer": recipe.layer,
        "max_steps": recipe.steps,
        "per_gpu_train_batch_size": PAIRS_AT_ONCE,
        "gradient_accumulation_steps": ACCUMULATED,
        "save_steps": recipe.steps,
        "seed": recipe.seed,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    flags = ["--do_train", "--no_cuda", "--extraction", "softmax", *(f"--train_{name}" for name in recipe.objectives)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(python), "-m", "awesome_align.run_train", *words, *flags], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError("awesome-align failed:\n" + "\n".join(done.stderr.splitlines()[-LAST_LINES:]))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def scores(python: Path, model: Path, golds: Sequence[Gold], layer: int, folder: Path) -> list[float]:
    """AER of every gold folder in percent, by awesome-align's own extraction."""
    pairs = folder / "gold.txt"
    lines = [line for gold in golds for line in pair_lines(gold.source, gold.target)]
    pairs.write_text("".join(lines), encoding="utf-8")
    with Peer(python, model, pairs, layer, torch.get_num_threads(), ["awesome-align"]) as peer:
        links = iter(peer.align()[1])
    return [100 * score_links(list(islice(links, len(gold))), gold).aer for gold in golds]


def our_scores(start: Path, weights: Path, golds: Sequence[Gold], layer: int, out: Path) -> list[float]:
    """The same by our aligner, mutual argmax on sides encoded apart, in the new folder `out`. start: has the tokenizer."""
    shutil.copytree(start, out)
    shutil.copyfile(weights / WEIGHTS, out / WEIGHTS)
    options = next(iter(ON_BERT.values()))
    return [100 * score_links(our_run(out, layer, gold, options)()[1], gold).aer for gold in golds]


def stages(
    hf_dir: Path, pairs: Path, golds: Sequence[Gold], python: Path, recipe: Recipe
) -> Iterator[tuple[str, float, list[float]]]:
    """(which, seconds of training, AER) before and after."""
    with tempfile.TemporaryDirectory(prefix="awesome_finetuning_") as folder:
        start, tuned = Path(folder) / "start", Path(folder) / "tuned"
        write_bert(hf_dir, load_model(hf_dir)[1], start)
        yield "before", 0.0, scores(python, start, golds, recipe.layer, Path(folder))
        yield "before, our argmax", 0.0, our_scores(start, start, golds, recipe.layer, Path(folder) / "ours")
        seconds, name = finetune(python, start, pairs.absolute(), tuned, recipe), " + ".join(recipe.objectives)
        yield name, seconds, scores(python, tuned, golds, recipe.layer, Path(folder))
        yield f"{name}, our argmax", seconds, our_scores(start, tuned, golds, recipe.layer, Path(folder) / "ours_tuned")


def benchmark(
    hf_dir: Annotated[Path, typer.Argument(help="XLM-R-shaped Hugging Face folder with its SentencePiece model")],
    pairs: Annotated[Path, typer.Argument(help="file of `source ||| target` lines to fine-tune on")],
    gold: Annotated[list[Path], typer.Argument(help="gold folders, or folders of such folders")],
    peers: Annotated[Path, typer.Option(help="python of an environment with awesome-align")],
    layer: Annotated[int, typer.Option(min=0, help="layer to align at, and to train")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps of 32 pairs")] = 100,
    objective: Annotated[
        list[str] | None, typer.Option(help="so, co, psi, tlm, mlm; may be repeated; default: so")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="decides the order of the pairs")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures there")] = None,
) -> None:
    """Fine-tune awesome-align on pairs and print its AER before and after.

    Example: python -m pipeline.benchmark.awesome_finetuning small pairs.txt gold --peers peers/bin/python
    """
    if json_file is not None:
        check_output(json_file)
    if not any("|||" in line for line in pairs.read_text(encoding="utf-8").splitlines()):
        raise ValueError(f"{pairs}: has no `source ||| target` line; give pairs to fine-tune on")
    golds = [read_gold(folder) for folder in gold_folders(gold)]
    names = distinct([f"{each.source_language}-{each.target_language}" for each in golds])
    drawn = Table("", "processor, s", *names, "mean", title="awesome-align, AER in %")
    entries = []
    recipe = Recipe(layer, steps, objective or ["so"], seed)
    for which, seconds, aers in stages(hf_dir, pairs, golds, peers, recipe):
        drawn.add_row(which, f"{seconds:.0f}", *(f"{aer:.2f}" for aer in (*aers, mean(aers))))
        entries.append({"which": which, "seconds": seconds, "aer": dict(zip(names, aers, strict=True))})
        put(f"{which}: mean AER {mean(aers):.2f} %")
    print_table(drawn)
    if json_file:
        write_text(json_file, json.dumps(entries, indent=1) + "\n")


def main() -> None:
    command_line.run_one(benchmark)


if __name__ == "__main__":
    main()
