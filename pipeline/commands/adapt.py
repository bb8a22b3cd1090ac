"""The command `adapt`: bitext in, a model that aligns it better out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import FromOneOption, ModelDir


def adapt_command(
    model: ModelDir,
    out: Annotated[Path, typer.Option(help="folder for everything that is made; the same command goes on in it")],
    texts: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SOURCE TARGET | FILE",
            help="line-aligned text, or one file of pairs (.tsv, .tmx, .jsonl …); tokenised or not. What `data_prep "
            "parallel` reads",
        ),
    ] = None,
    pair: Annotated[
        str | None, typer.Option(help="languages, as en-de; default: by the names' ends, text.en text.de")
    ] = None,
    mix: Annotated[
        Path | None, typer.Option(help="several language pairs at once: a CORPORA.yaml, as `data_prep mix` takes")
    ] = None,
    links: Annotated[
        Path | None,
        typer.Option(
            help="word links of SOURCE and TARGET, a line a pair, as 0-0 1-2 (Pharaoh, words from 0): what the model learns, "
            "in place of its own"
        ),
    ] = None,
    gold: Annotated[
        list[Path] | None,
        typer.Option(help="folder of manual alignments, or a folder of such; measures AER and chooses the layer by it"),
    ] = None,
    from_one: FromOneOption = None,
    steps: Annotated[int, typer.Option(min=1, help="optimizer steps of 32 pairs")] = 200,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="decides the order of the pairs")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="processes that encode text")] = 1,
) -> None:
    """Make an encoder a better word aligner of your own translations, without annotation or by it.

    Writes token files, trains, measures before and after, exports to OUT/model, and prints a table. Ctrl-C saves; the same
    command goes on.

    Example: xlm-align adapt xlm-roberta-base text.en text.de --out adapted
    """
    from pipeline.adapt.adapt import adapt
    from pipeline.adapt.request import Request
    from pipeline.evaluate.alignment_error import gold_folders
    from pipeline.evaluate.gold import read_gold

    request = Request.of(model, texts or [], pair, mix, steps, seed, links)
    golds = [read_gold(folder, from_one=from_one) for folder in gold_folders(gold or [])]
    for remark in (remark for each in golds for remark in each.notes):
        print(f"note: {remark}", file=sys.stderr)
    adapt(request, out, golds, workers)
