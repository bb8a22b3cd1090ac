"""Memory of `python -m pipeline align` over a long stream: resident memory of its process every so many pairs.

    python -m pipeline.benchmark.align_memory HF_DIR SOURCE TARGET --pairs 1000000 --layer 1 --json FILE

The two line-aligned files are sent to its standard input again and again, until there were `--pairs` of them.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated, Any

import psutil
import typer

from pipeline import command_line


def pairs_of(source: Path, target: Path) -> Iterator[bytes]:
    """Lines `source ||| target` of the files, without end."""
    sides = [path.read_bytes().splitlines() for path in (source, target)]
    if not sides[0] or len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"{source}: {len(sides[0])} lines, {target} has {len(sides[1])}; give translations line by line"
        )
    lines = [b" ||| ".join(of_pair) + b"\n" for of_pair in zip(*sides, strict=True)]
    return itertools.cycle(lines)


def send(lines: Iterator[bytes], pairs: int, stdin: IO[bytes]) -> None:
    """Write so many lines and close; a process that ended before tells why itself."""
    with suppress(BrokenPipeError), stdin:
        for line in itertools.islice(lines, pairs):
            stdin.write(line)


def benchmark(
    hf_dir: Annotated[Path, typer.Argument(help="XLM-R-shaped Hugging Face folder with its SentencePiece model")],
    source: Annotated[Path, typer.Argument(help="one sentence a line")],
    target: Annotated[Path, typer.Argument(help="its translations, line by line")],
    pairs: Annotated[int, typer.Option(min=1, help="pairs that are aligned")] = 1_000_000,
    every: Annotated[int, typer.Option(min=1, help="pairs between two measurements")] = 50_000,
    layer: Annotated[int, typer.Option(min=0, help="low layers are quick, and take the same way through the code")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figures there, as they come")] = None,
) -> None:
    """Measure the memory that aligning a long stream takes.

    Example: python -m pipeline.benchmark.align_memory small train.en train.de --layer 1 --json memory.json
    """
    lines = pairs_of(source, target)
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "align",
        str(hf_dir),
        "-",
        "--layer",
        str(layer),
        "--method",
        "ot-filter",
    ]
    entries: list[dict[str, Any]] = []
    started = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        threading.Thread(target=send, args=(lines, pairs, process.stdin), daemon=True).start()
        watched = psutil.Process(process.pid)
        done = 0
        for done, _ in enumerate(process.stdout, start=1):
            if done % every == 0:
                megabytes = watched.memory_info().rss / 1e6
                entries.append({"name": "resident memory", "pairs": done, "value": round(megabytes, 1), "unit": "MB"})
                print(
                    f"{done:,} pairs: {megabytes:,.1f} MB, {done / (time.monotonic() - started):,.0f} pairs/s",
                    flush=True,
                )
                if json_file:
                    json_file.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    if process.returncode:
        raise ValueError(f"align: ended with exit code {process.returncode}; its error stands above")
    if done != pairs:
        raise ValueError(f"align: {done:,} lines came for {pairs:,} pairs")


def main() -> None:
    command_line.run(lambda: typer.run(benchmark))


if __name__ == "__main__":
    main()
