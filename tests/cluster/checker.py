"""Runs `./launch.sh check` again and again in one process, which imports torch once; one JSON line in, one out.

A line holds the words of the command and variables of its environment; the answer holds the exit code, what was printed,
and the seconds that it took.
"""

import contextlib
import io
import json
import os
import sys
import time

from rich.console import Console

from pipeline.cluster.options import parse
from pipeline.cluster.supervise import check


def run(words: list[str]) -> int:
    try:
        return check(parse(["check", *words]), Console(file=sys.stdout, width=200))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


print("{}", flush=True)
for line in sys.stdin:
    case = json.loads(line)
    kept = dict(os.environ)
    os.environ.update(case["environment"])
    began, output, errors = time.monotonic(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = run(case["words"])
    os.environ.clear()
    os.environ.update(kept)
    took = time.monotonic() - began
    print(
        json.dumps({"code": code, "output": output.getvalue(), "errors": errors.getvalue(), "seconds": took}),
        flush=True,
    )
