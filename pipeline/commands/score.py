"""The commands `score` and `score-text`: links of any aligner, in files, against manual ones; texts against references."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data_prep.files import check_output, write_text
from data_prep.standard_output import print_table
from pipeline.commands.options import FromOneOption

if TYPE_CHECKING:
    from pipeline.align.link_files import LinkFile
    from pipeline.evaluate.gold import Gold


def score_command(
    links: Annotated[
        list[Path], typer.Argument(help="files of links, a pair a line as `0-0 1-2` (Pharaoh) or NAACL's")
    ],
    gold: Annotated[
        Path, typer.Option(help="folder with test.<src>, test.<trg> and gold links, or a file of gold links alone")
    ],
    from_one: FromOneOption = None,
    links_from_one: Annotated[
        bool | None,
        typer.Option(
            "--links-from-one/--links-from-zero",
            help="LINKS count words from 1, or from 0; default: 0, or as the sentences leave no doubt",
        ),
    ] = None,
    reverse: Annotated[bool, typer.Option("--reverse", help="LINKS are `target-source`: turn each round")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")] = None,
) -> None:
    """Print AER, precision, recall and F1 of link files against manual word alignments.

    Example: python -m pipeline score links.pharaoh --gold gold/en-de
    """
    from rich.table import Table

    from pipeline.align.link_files import read_links
    from pipeline.evaluate.gold import score_links

    if json_file is not None:
        check_output(json_file, [*links, gold, *gold.glob("*")])
    truth, lengths = _read_truth(gold, links[0], from_one)
    if lengths is not None and reverse:
        lengths = [(n, m) for m, n in lengths]
    table = Table(title=f"against {gold}, {len(truth.sure):,} pairs")
    for name in ("links of", "AER %", "precision %", "recall %", "F1 %", "links"):
        table.add_column(name, justify="left" if name == "links of" else "right", overflow="fold")
    entries = []
    for path in links:
        found = read_links(path, len(truth.sure), from_one=links_from_one, lengths=lengths, texts=str(gold))
        _say(f"{path}: {note}" for note in found.notes)
        predicted = [{(j, i) if reverse else (i, j) for i, j in pair} for pair in found.possible]
        score = score_links(predicted, truth)
        shares = (score.aer, score.precision, score.recall, score.f1)
        table.add_row(str(path), *(f"{100 * share:.2f}" for share in shares), f"{score.links:,}")
        entries.append(
            {"kind": "score", "file": str(path), "gold": str(gold), "pairs": len(truth.sure), **asdict(score)}
        )
    print_table(table)
    if json_file is not None:
        write_text(json_file, json.dumps(entries, indent=1) + "\n")


def score_text_command(
    texts: Annotated[Path, typer.Argument(help="what was written, a text a line, as `generate` prints it")],
    references: Annotated[Path, typer.Argument(help="what should have been written, line by line")],
    language: Annotated[
        str | None,
        typer.Option(
            help="of the texts, as de or zh: how words are found, and which share of the texts is in it; default: words "
            "stand between spaces, and languages are not looked at"
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the scores to this file")] = None,
) -> None:
    """Print BLEU, chrF, ROUGE-L, exact match and the shares in the right script and language, in per cent, of texts in a file.

    Example: python -m pipeline score-text out.de reference.de --language de
    """
    from rich.table import Table

    from pipeline.evaluate.generation import score_texts
    from pipeline.texts.lines import read_lines

    if json_file is not None:
        check_output(json_file, [texts, references])
    found, right = read_lines(texts, "texts, one a line"), read_lines(references, "texts, one a line")
    if len(found) != len(right):
        raise ValueError(
            f"{texts}: {len(found)} lines, {references} has {len(right)}; line n of one must belong to line n of the other"
        )
    if not found:
        raise ValueError(f"{texts}: is empty; give texts, one a line")
    score = score_texts(found, right, language)
    if language is not None and score.right_language is None:
        print(f"note: --language {language}: is not known to py3langid, so that no share is told", file=sys.stderr)
    table = Table(title=f"{texts} against {references}, {len(found):,} texts")
    metrics = score.metrics()
    for name in metrics:
        table.add_column(f"{name} %", justify="right")
    table.add_row(*(f"{value:.2f}" for value in metrics.values()))
    print_table(table)
    print(f"BLEU: {score.signature}", file=sys.stderr)
    if json_file is not None:
        entry = {"kind": "score-text", "file": str(texts), "references": str(references), "texts": len(found)}
        write_text(json_file, json.dumps([{**entry, **asdict(score)}], indent=1) + "\n")


def _read_truth(gold: Path, links: Path, from_one: bool | None) -> tuple[Gold | LinkFile, list[tuple[int, int]] | None]:
    """The gold links, and the sentences' lengths where the gold has sentences."""
    from pipeline.align.link_files import read_links
    from pipeline.evaluate.gold import read_gold

    if gold.is_dir():
        whole = read_gold(gold, from_one=from_one)
        _say(whole.notes)
        return whole, [(len(a), len(b)) for a, b in zip(whole.source, whole.target, strict=True)]
    alone = read_links(gold, from_one=from_one)
    if not alone.line_a_pair:
        first = read_links(links)
        pairs = len(first.sure) if first.line_a_pair else max(len(first.sure), len(alone.sure))
        alone = read_links(gold, pairs, from_one=from_one, texts=str(links))
    _say(f"{gold}: {note}" for note in alone.notes)
    return alone, None


def _say(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
