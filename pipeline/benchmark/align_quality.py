"""AER of our word aligner beside SimAlign and eflomal on whole gold folders: the same sentences for all, and no timing.

    python -m pipeline.benchmark.align_quality HF_DIR GOLD… --peers PYTHON [--layer N] [--more-text PLACE] [--json FILE]

SimAlign is given the same model at the same layer. eflomal has no model: it learns from a folder's own sentences, or from
these and the pairs of `--more-text`, and what counts are the links that both of its directions have.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from data_prep.files import check_output, write_text
from data_prep.standard_output import print_table, put
from pipeline import command_line
from pipeline.align.word_alignment import WordLinks
from pipeline.benchmark.align import Peer, pair_lines, write_for_simalign
from pipeline.evaluate.alignment_error import evaluate, gold_folders
from pipeline.evaluate.gold import AlignmentScore, Gold, read_gold, score_links
from pipeline.settings.align_options import Way, check_layer
from pipeline.texts.sentence_files import find_pairs
from pipeline.texts.sentence_pairs import split_raw
from pipeline.weights.loading import load_model

SIMALIGN = {"SimAlign, inter": "a", "SimAlign, itermax": "i"}
EFLOMAL, EFLOMAL_MORE = "eflomal", "eflomal, more text"
Scores = dict[str, AlignmentScore]
"""By contender, of one gold folder."""


def more_lines(places: Sequence[Path], gold: Gold) -> list[str]:
    """The pairs in the places that are in the gold's languages, split into words; one without words is left out."""
    lines: list[str] = []
    for found in find_pairs(*places):
        if set(found.languages) == {gold.source_language, gold.target_language}:
            texts = dict(zip(found.languages, found.read(), strict=True))
            sides = [[split_raw(line) for line in texts[name]] for name in (gold.source_language, gold.target_language)]
            kept = [(a, b) for a, b in zip(*sides, strict=True) if a and b]
            lines += pair_lines([a for a, _ in kept], [b for _, b in kept])
    return lines


def score_ours(hf_dir: Path, golds: dict[str, Gold], layer: int) -> tuple[dict[str, Scores], dict[str, int]]:
    """At the layer, and at each folder's best one, and which that is; mutual argmax on separate sides at the layer."""
    encoder, tokenizer = load_model(hf_dir)
    check_layer(layer, encoder.config.layers)
    scores, best = {}, {}
    for name, gold in golds.items():
        found = evaluate(encoder, tokenizer, gold)
        best[name] = found.best_layer
        scores[name] = {f"ours, layer {layer}": found.layers[layer], "ours, best layer": found.layers[found.best_layer]}
        separate = evaluate(encoder, tokenizer, gold, Way("argmax", "separate"))
        scores[name][f"ours, argmax, separate, layer {layer}"] = separate.layers[layer]
    return scores, best


def add_theirs(
    scores: dict[str, Scores], hf_dir: Path, golds: dict[str, Gold], layer: int, peers: Path, more_text: Sequence[Path]
) -> dict[str, int]:
    """Add what the peers reach; returns how many pairs of more text eflomal had, by folder."""
    more_pairs = {}
    with tempfile.TemporaryDirectory(prefix="align_quality_") as folder:
        out = Path(folder)
        write_for_simalign(hf_dir, load_model(hf_dir)[1], out / "simalign")

        def align(lines: list[str], *words: str) -> list[WordLinks]:
            (out / "pairs.txt").write_text("".join(lines), encoding="utf-8")
            with Peer(peers, out / "simalign", out / "pairs.txt", layer, torch.get_num_threads(), words) as peer:
                return peer.align()[1]

        lines_of = {name: pair_lines(gold.source, gold.target) for name, gold in golds.items()}
        for contender, method in SIMALIGN.items():
            # One run for all folders: it treats every pair by itself.
            links = iter(
                align([line for lines in lines_of.values() for line in lines], "simalign", "--methods", method)
            )
            for name, gold in golds.items():
                scores[name][contender] = score_links(list(islice(links, len(gold))), gold)
        for name, gold in golds.items():
            lines, more = lines_of[name], more_lines(more_text, gold)
            scores[name][EFLOMAL] = score_links(align(lines, "eflomal"), gold)
            if more:
                more_pairs[name] = len(more)
                scores[name][EFLOMAL_MORE] = score_links(align(lines + more, "eflomal")[: len(gold)], gold)
    return more_pairs


def table(scores: dict[str, Scores], golds: dict[str, Gold]) -> Table:
    """AER in percent, a row a folder and their mean, the best of each marked; a mean only where all folders have one."""
    contenders = list(dict.fromkeys(contender for of_folder in scores.values() for contender in of_folder))
    drawn = Table(title="AER on whole gold folders, % (lower is better)")
    for column in ("folder", "pairs", *contenders):
        drawn.add_column(column, justify="left" if column == "folder" else "right")
    rows = {name: {c: 100 * score.aer for c, score in of_folder.items()} for name, of_folder in scores.items()}
    complete = [c for c in contenders if all(c in row for row in rows.values())]
    rows["mean"] = {c: mean(row[c] for row in rows.values()) for c in complete}
    for name, row in rows.items():
        best = min(row.values())
        cells = [f"{row[c]:.2f}{' *' if row[c] == best else '  '}" if c in row else "" for c in contenders]
        drawn.add_row(name, f"{len(golds[name]):,}" if name in golds else "", *cells)
    return drawn


def benchmark(
    hf_dir: Annotated[Path, typer.Argument(help="XLM-R-shaped Hugging Face folder with its SentencePiece model")],
    gold: Annotated[list[Path], typer.Argument(help="gold folders, or folders of such folders")],
    peers: Annotated[Path | None, typer.Option(help="python of an environment with simalign and eflomal")] = None,
    layer: Annotated[int, typer.Option(min=0, help="layer, ours and SimAlign's")] = 7,
    more_text: Annotated[
        list[Path] | None, typer.Option(help="line-aligned files that eflomal learns from too; may be repeated")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures there")] = None,
) -> None:
    """Score the word aligner beside others on all sentences of gold folders.

    Example: python -m pipeline.benchmark.align_quality small gold --peers peers/bin/python --json figures.json
    """
    if json_file is not None:
        check_output(json_file)
    golds: dict[str, Gold] = {}
    for folder in gold_folders(gold):
        golds[folder.resolve().name] = read_gold(folder)
    scores, best = score_ours(hf_dir, golds, layer)
    more_pairs: dict[str, int] = {}
    if peers is not None:
        more_pairs = add_theirs(scores, hf_dir, golds, layer, peers, more_text or [])
    print_table(table(scores, golds))
    for name, pairs in more_pairs.items():
        put(f"{name}: {EFLOMAL_MORE}: {pairs:,} pairs beside the folder's own")
    if json_file:
        entries: list[dict[str, Any]] = [
            {"folder": name, "pairs": len(golds[name]), "contender": contender, **asdict(score)}
            | ({"layer": best[name]} if contender == "ours, best layer" else {})
            | ({"more_pairs": more_pairs[name]} if contender == EFLOMAL_MORE else {})
            for name, of_folder in scores.items()
            for contender, score in of_folder.items()
        ]
        write_text(json_file, json.dumps(entries, indent=1) + "\n")


def main() -> None:
    command_line.run_one(benchmark)


if __name__ == "__main__":
    main()
