"""The quickstart: the public commands one after another on a generated corpus, and a summary of what came out.

Runs what a user would type, as subprocesses; adds only the summary and the picture.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.table import Table

from data_prep.files import write_text
from data_prep.standard_output import data_console
from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline import shipped
from pipeline.align.aligner import Aligner
from pipeline.align.word_alignment import WordLinks
from pipeline.cluster.finished import finished
from pipeline.evaluate.alignment_error import evaluate
from pipeline.evaluate.gold import Gold, read_gold
from pipeline.model.encoder import Encoder
from pipeline.objectives.catalog import build_objectives
from pipeline.run_folder import CONFIG, METRICS, read_training
from pipeline.settings.added_words import AddedWords
from pipeline.settings.align_options import AlignOptions, resolve
from pipeline.settings.schema import load_config
from pipeline.show.picture import draw_alignments
from pipeline.stages import PYTHON, run_stage
from pipeline.training.build import build_model
from pipeline.weights.loading import load_model
from pipeline.weights.opening import open_weights

RECIPE = shipped.CONFIGS / "quickstart.yaml"
VOCABULARY = 300


def quickstart(out: Path, seed: int, steps: int | None = None) -> None:
    """Make, binarize, pretrain, export, align and evaluate under `out`; writes summary.json and alignment.png there.

    steps: optimizer steps; None: as in the config, which is what it takes to learn to align.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty; give another --out, or delete it to start over")
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    binarize(out, seed)
    gold_folders = sorted((out / "corpus" / "gold").iterdir())
    train(out, seed, steps, gold_folders)
    run_stage("export", [*PYTHON, "pipeline", "export", str(out / "run"), str(out / "model")])

    summary = summarize(out, [read_gold(folder) for folder in gold_folders])
    summary["seconds"] = round(time.monotonic() - started, 1)
    write_text(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    show(summary)


def binarize(out: Path, seed: int) -> None:
    """Corpus, tokenizer, and token files for training and validation."""
    corpus, tokenizer = out / "corpus", out / "tokenizer"
    run_stage("corpus", [*PYTHON, "data_prep", "sample", "--out", str(corpus), "--seed", str(seed)])
    texts = sorted([*(corpus / "mono").iterdir(), *(corpus / "parallel").iterdir()])
    arguments = [*map(str, texts), "--vocab-size", str(VOCABULARY), "--out", str(tokenizer)]
    run_stage("tokenizer", [*PYTHON, "data_prep", "tokenizer", "train", *arguments])
    blocks = ["--block-tokens", str(load_config(RECIPE, [f"run.out={out}"]).data.block_tokens)]
    for part, data in ((corpus, out / "data"), (corpus / "valid", out / "valid")):
        common = ["--tokenizer", str(tokenizer), "--out", str(data)]
        for text in sorted((part / "mono").iterdir()):
            run_stage("token files", [*PYTHON, "data_prep", "mono", str(text), "--lang", text.stem, *blocks, *common])
        for source in sorted((part / "parallel").iterdir()):
            pair = source.suffixes[-2].removeprefix(".")
            if source.suffix == f".{pair.split('-')[0]}":
                target = source.with_suffix(f".{pair.split('-')[1]}")
                run_stage(
                    "token files", [*PYTHON, "data_prep", "parallel", str(source), str(target), "--pair", pair, *common]
                )


def train(out: Path, seed: int, steps: int | None, gold_folders: list[Path]) -> None:
    """Pretrain with DeepSpeed on two ranks of one thread each: so small a model gains nothing from more threads."""
    settings = {
        "data.path": out / "data",
        "validation.data": out / "valid",
        "validation.gold": [str(folder) for folder in gold_folders],
        "validation.retrieval": [str(out / "corpus" / "valid" / "parallel")],
        "run.out": out / "run",
        "run.seed": seed,
    }
    if steps is not None:
        settings["run.steps"] = steps
    overrides = [f"{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in settings.items()]
    launcher = ["--num_accelerators", "2"]
    run_stage("pretraining", [*PYTHON, "pipeline.cluster.launch", "train", str(RECIPE), *launcher, *overrides])
    if not finished(load_config(RECIPE, overrides)):
        raise ValueError(f"pretraining was stopped before its last step; delete {out} to start over")


def summarize(out: Path, golds: list[Gold]) -> dict[str, Any]:
    """AER before and after, with what is recorded of aligning, losses, throughput, where things lie; draws the picture."""
    config = load_config(out / "run" / CONFIG)
    trained, tokenizer = load_model(out / "model")
    options = resolve(trained.config.layers, open_weights(out / "model").record.options)
    # The seed decides the initial weights: this is the model that training started from.
    untrained = build_model(config, build_objectives(config), AddedWords(tokenizer.vocab_size))[0].encoder.eval()

    scores: dict[str, list[float]] = {"before": [], "after": []}
    drawn: list[WordLinks] = []
    # Latin and Cyrillic: the font that matplotlib brings has no Hangul.
    shown = next(gold for gold in golds if (gold.source_language, gold.target_language) == ("qaa", "qac"))
    for name, encoder in (("before", untrained), ("after", trained)):
        scores[name] = [aer_of(encoder, tokenizer, gold, options) for gold in golds]
        drawn.append(links_of(encoder, tokenizer, shown, options))
    picture = out / "alignment.png"
    pair = longest_pair(shown)
    draw_alignments(shown.source[pair], shown.target[pair], shown.sure[pair], drawn, picture)

    steps = [line for _, line in sorted(read_training(out / "run").train.items())]
    return {
        "aer_before": mean(scores["before"]),
        "aer_after": mean(scores["after"]),
        "aer_by_pair": {
            f"{gold.source_language}-{gold.target_language}": {"before": before, "after": after}
            for gold, before, after in zip(golds, scores["before"], scores["after"], strict=True)
        },
        "layer": options.layer,
        "method": options.method,
        "encoding": options.encoding,
        "steps": config.run.steps,
        "losses_first": {key: value for key, value in steps[0].items() if key.endswith("_loss")},
        "losses_last": {key: value for key, value in steps[-1].items() if key.endswith("_loss")},
        "tokens_per_second": median(line["tokens_per_second"] for line in steps),
        "paths": {
            "model": str(out / "model"),
            "checkpoints": str(out / "run" / "checkpoints"),
            "metrics": str(out / "run" / METRICS),
            "picture": str(picture),
        },
    }


def longest_pair(gold: Gold) -> int:
    """The pair with most links says most in a picture."""
    return max(range(len(gold)), key=lambda pair: len(gold.sure[pair]))


def aer_of(encoder: Encoder, tokenizer: Tokenizer, gold: Gold, options: AlignOptions) -> float:
    """AER of the gold folder's pairs."""
    scores = evaluate(encoder, tokenizer, gold, options.way)
    return scores.layers[options.layer].aer


def links_of(encoder: Encoder, tokenizer: Tokenizer, gold: Gold, options: AlignOptions) -> WordLinks:
    """The links of the pair that is drawn."""
    pair = longest_pair(gold)
    (links,) = Aligner(encoder, tokenizer, options).align([(gold.source[pair], gold.target[pair])])
    return links


def show(summary: dict[str, Any]) -> None:
    """The table at the end."""
    drawn = Table("", "before", "after", title="XLM-Align quickstart")
    for pair, aer in summary["aer_by_pair"].items():
        drawn.add_row(f"AER {pair}, held out", f"{aer['before']:.3f}", f"{aer['after']:.3f}")
    drawn.add_row("AER, mean", f"{summary['aer_before']:.3f}", f"{summary['aer_after']:.3f}")
    for name, first in summary["losses_first"].items():
        drawn.add_row(name.replace("_", " "), f"{first:.3f}", f"{summary['losses_last'][name]:.3f}")
    console = data_console()
    console.print(drawn)
    console.print(
        f"{summary['steps']} steps, {summary['tokens_per_second']:,.0f} tokens/s, {summary['seconds']:.0f} s in all"
    )
    for name, path in summary["paths"].items():
        console.print(f"{name}: {path}", soft_wrap=True, highlight=False)
