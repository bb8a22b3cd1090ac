"""How a command of this package ends: a user's mistake with one line, an interruption with its exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


def run(command: Callable[[], object]) -> None:
    """Call a command; ValueError and OSError end it as `error: …` with exit code 1, Ctrl-C as `interrupted` with 130.

    A reader of standard output that has gone (`… | head`) ends it without a word, with 141, as it ends other programs.
    """
    try:
        command()
    except BrokenPipeError:
        # What is left in the buffer has no reader; without this the interpreter would tell of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
