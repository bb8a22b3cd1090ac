"""How a command of this package ends: a user's mistake with one line, an interruption with its exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import typer

from data_prep.standard_output import DataCommand

INTERRUPTED = 128 + signal.SIGINT


def run(command: Callable[[], object]) -> None:
    """Call a command; ValueError and OSError end it as `error: …` with exit code 1, Ctrl-C as `interrupted` with 130."""
    try:
        command()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's way to end what Ctrl-C was pressed on
            print("interrupted", file=sys.stderr)
        raise


def run_one(command: Callable[..., object]) -> None:
    """`run` a module that is one command: a function with typer's annotations."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(cls=DataCommand)(command)
    run(app)
