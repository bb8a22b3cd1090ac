"""The command `symmetrize`: two directed files of links made one."""

from __future__ import annotations

import sys
from itertools import zip_longest
from pathlib import Path
from typing import Annotated

import typer

from data_prep.standard_output import put
from pipeline.align.link_files import pharaoh_lines
from pipeline.align.symmetrize import check_method, symmetrize
from pipeline.texts.lines import STDIN, name_of


def symmetrize_command(
    forward: Annotated[Path, typer.Argument(help="links of one direction, a pair a line as `0-0 1-2`; -: stdin")],
    backward: Annotated[Path, typer.Argument(help="links of the same pairs from the other direction")],
    method: Annotated[
        str,
        typer.Option(
            help="intersect, union, grow-diag, grow-diag-final or grow-diag-final-and; as Moses and atools do"
        ),
    ] = "grow-diag-final-and",
    reverse: Annotated[
        bool, typer.Option("--reverse", help="BACKWARD is `target-source`: turn its links round")
    ] = False,
) -> None:
    """Print the links that two directed alignments make together, a pair a line; words count from where the files do.

    For fast_align, eflomal and GIZA++, whose two directions differ; the links of `align` are symmetric already. fast_align -r
    and eflomal write both as `source-target`; an aligner that was run with source and target exchanged needs --reverse.

    Example: python -m pipeline symmetrize forward.links backward.links --method grow-diag-final-and > links.pharaoh
    """
    check_method(method)
    if forward == backward == STDIN:
        raise ValueError("- -: stdin cannot be both directions; give a file for one")
    pairs = 0
    both = pharaoh_lines(forward), pharaoh_lines(backward)
    for first, second in zip_longest(*both):
        if first is None or second is None:
            shorter, longer = (forward, backward) if first is None else (backward, forward)
            more = pairs + 1 + sum(1 for of in both for _ in of)
            raise ValueError(
                f"{name_of(shorter)} has {pairs:,} lines, {name_of(longer)} has {more:,}; the first {pairs:,} pairs were "
                "written; give links of the same pairs"
            )
        turned = {(j, i) for i, j in second} if reverse else second
        put(" ".join(f"{i}-{j}" for i, j in symmetrize(first, turned, method)))
        pairs += 1
    print(f"{pairs:,} pairs: {method}", file=sys.stderr)
