"""The command `symmetrize`: two directed files of links made one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from data_prep.standard_output import put


def symmetrize_command(
    forward: Annotated[Path, typer.Argument(help="links of one direction, a pair a line as `0-0 1-2`, or NAACL's")],
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
    """Print the links that two directed alignments make together, a pair a line, words from 0.

    For fast_align, eflomal and GIZA++, whose two directions differ; the links of `align` are symmetric already. fast_align -r
    and eflomal write both as `source-target`; an aligner that was run with source and target exchanged needs --reverse.

    Example: python -m pipeline symmetrize forward.links backward.links --method grow-diag-final-and > links.pharaoh
    """
    from pipeline.align.link_files import read_links
    from pipeline.align.symmetrize import check_method, symmetrize

    check_method(method)
    both = []
    pairs = None
    for path in (forward, backward):
        found = read_links(path, pairs, texts=str(forward))
        for said in found.notes:
            print(f"note: {path}: {said}", file=sys.stderr)
        both.append(found.possible)
        pairs = len(found.possible)
    for first, second in zip(*both, strict=True):
        turned = {(j, i) for i, j in second} if reverse else second
        put(" ".join(f"{i}-{j}" for i, j in symmetrize(first, turned, method)))
    print(f"{pairs:,} pairs: {method}", file=sys.stderr)
