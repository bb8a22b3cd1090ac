"""Standard output is for data alone: what a command was asked for, byte for byte, whatever else is printed beside it.

Libraries print to standard output as they please, some from C, and a progress bar redirects it. Commands therefore take it
for themselves before they import anything, and all else that is printed there goes to standard error. Knows nothing of what
is printed.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from data_prep.quiet import quiet

WIDEST_TABLE = 1 << 16
LIMIT = 1 << 63  # of whole numbers, as NumPy and PyTorch have them

_claimed: TextIO | None = None


@contextmanager
def claimed() -> Iterator[None]:
    """Take standard output for `put` and `data_stream`; until the block ends, all else printed there goes to standard error.

    The descriptor itself is changed, so that C code and child processes are included. Where `sys.stdout` is not the
    process's descriptor 1 (as within tests), it alone is replaced. Blocks may be nested.
    """
    global _claimed
    if _claimed is not None:
        yield
        return
    usual = sys.stdout
    usual.flush()
    kept = os.dup(1) if _is_descriptor_1(usual) else None
    try:
        if kept is None:
            _claimed = usual
        else:
            # UTF-8 whatever the locale: the words come from files that are. Names of files that are not keep their bytes.
            _claimed = os.fdopen(os.dup(kept), "w", encoding="utf-8", errors="surrogateescape", newline="\n")
            os.dup2(2, 1)
        sys.stdout = sys.stderr
        yield
        _claimed.flush()
    finally:
        sys.stdout = usual
        stream, _claimed = _claimed, None
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)
            _close_quietly(stream)


def _is_descriptor_1(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 1
    except (OSError, ValueError):
        return False


def _close_quietly(stream: TextIO | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except OSError:
        pass  # the reader has gone; `claimed` has told of it where the block itself ended well


def data_stream() -> TextIO:
    """Where data goes: standard output, claimed or not."""
    return sys.stdout if _claimed is None else _claimed


def put(*words: object, end: str = "\n", flush: bool = False) -> None:
    """Print data: `print` onto standard output."""
    print(*words, end=end, file=data_stream(), flush=flush)


def data_console(width_off_terminal: int = 200) -> Console:
    """A rich console on standard output, for tables; wide where it is no terminal, so that nothing is cut.

    Brackets and colons in what is printed stand for themselves: names of files and words of text may hold them.
    """
    stream = data_stream()
    width = None if stream.isatty() else width_off_terminal
    return Console(file=stream, width=width, markup=False, emoji=False)


def shares_a_terminal() -> bool:
    """Whether data goes to a terminal, where what is drawn on standard error, as a bar, would run into it."""
    return data_stream().isatty()


def print_table(table: Table) -> None:
    """Print a table as data, with nothing of it cut: where it does not fit a terminal, the terminal breaks its lines."""
    console = data_console()
    width = Measurement.get(console, console.options.update(max_width=WIDEST_TABLE), table)
    console.width = max(min(console.width, width.maximum), width.minimum) if console.is_terminal else width.maximum
    console.print(table)


class DataCommand(typer.core.TyperCommand):
    """A command of typer that claims standard output as soon as its words are understood; its help is printed as usual.

    It takes `--verbose` beside its own options, and without it hides what libraries say; see `quiet`. A reader of its output
    that has gone (`… | head`) ends it without a word, with 141 as it ends other programs.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params += _common_parameters()

    def invoke(self, ctx: Any) -> Any:
        for option in self.params:
            _check_number(option.opts[0], ctx.params.get(option.name))
        try:
            with claimed(), quiet(ctx.meta[__name__]):
                return super().invoke(ctx)
        except BrokenPipeError:
            # typer would end with 1, which is an error's
            raise typer.Exit(128 + signal.SIGPIPE) from None


def _check_number(option: str, value: object) -> None:
    """ValueError where a number is none to calculate with: a comparison with NaN holds for no limit, so that none finds it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{option} {value}: must be a finite number")
    if isinstance(value, int) and not -LIMIT < value < LIMIT:
        raise ValueError(f"{option} {value}: must be below 2^63 = {LIMIT}")


def _note(ctx: typer.Context, verbose: bool) -> bool:
    ctx.meta[__name__] = verbose
    return verbose


def _verbose(
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", callback=_note, expose_value=False, help="show all that libraries log, not errors alone"
        ),
    ] = False,
) -> None:
    """The option that every command has."""


@cache
def _common_parameters() -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.command()(_verbose)
    return list(typer.main.get_command(app).params)
