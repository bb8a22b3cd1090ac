"""`python -m data_prep …`: names the commands, and how each of them ends. Their options and help are in `commands`."""

from __future__ import annotations

import signal
import sys
from functools import partial

import typer

from data_prep.commands import binarize, files, tokenizer
from data_prep.parallel.ranks import run_on_ranks

app = typer.Typer(
    help="Text to token files: tokenizer, monolingual text, translation pairs, inspection.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(binarize.app)
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(files.app)


def _print_error(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and give its exit code: 0, 1 (an error, one line), 2 (wrong usage, one line; no command: the help), 130
    (interrupted), 141 (the reader of its output has gone).

    Under mpiexec every rank calls this, and rank 0 alone reads the arguments and prints.
    """
    return run_on_ranks(partial(_run, arguments), _print_error)


def _run(arguments: list[str] | None) -> int:
    interrupted = 128 + signal.SIGINT
    told = "interrupted"
    try:
        code = app(arguments, standalone_mode=False)
    except binarize.JobInterruptedError:
        code, told = interrupted, "interrupted; finished shards are kept, run the same command again"
    except (KeyboardInterrupt, typer.Abort):
        code = interrupted
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            _print_error(f"{error.filename}: {error.strerror}")
        else:
            _print_error(str(error))
        code = 1
    except Exception as error:
        # typer's usage errors changed their base class between versions; what they share is this method
        if not hasattr(error, "format_message"):
            raise
        code = 2
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message(), file=sys.stderr)
        else:
            _print_error(error.format_message())
    if code == interrupted:  # typer makes it of Ctrl-C
        print(told, file=sys.stderr)
    return code if isinstance(code, int) else 0
