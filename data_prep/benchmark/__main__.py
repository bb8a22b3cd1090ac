"""`python -m data_prep.benchmark`: from text to published shards and back into batches, against peers, in one run.

Every contender runs as a process of its own, pinned to one core (two for the run of two workers), in turns, so that what
slows the machine down slows all of them; what is told is the median over rounds, ratios are of the same round. Peers that
are many times slower run on the beginning of the text. Ids are compared before speed is told.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from data_prep.benchmark.peers import differing_lines, lines_of
from data_prep.benchmark.report import draw_picture, print_table
from data_prep.benchmark.text import BenchmarkText, make_corpus
from data_prep.files import write_text
from data_prep.token_files.manifest import Manifest

ENCODING, MEMORY, READING = "binarization", "peak memory", "reading"
BARE = "sentencepiece, bare batch loop"
PLAIN, XZ, TWO = "data_prep, plain text", "data_prep, .xz", "data_prep, plain text, 2 workers"
TRANSFORMERS, TOKENIZERS = "transformers, line by line, written", "tokenizers encode_batch, written"
MEGA = 1_000_000
Entry = dict[str, Any]


@dataclass
class TimedRun:
    """What one process did: its seconds, the tokens it made, and the largest memory of it or a process that it started."""

    seconds: float
    tokens: int
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


@dataclass
class Bench:
    """A corpus, its tokenizer, a folder to work in, and the runs by contender."""

    corpus: BenchmarkText
    folder: Path
    cores: list[int]
    shard_bytes: int
    runs: dict[str, list[TimedRun]] = field(default_factory=dict)

    def binarize(self, text: Path, workers: int = 1, name: str = "data") -> TimedRun:
        """`python -m data_prep mono` as a user runs it, with everything from its start to its end."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        options = ["--lang", "xx", "--tokenizer", self.corpus.tokenizer_dir, "--out", out, "--workers", workers]
        options += ["--shard-bytes", self.shard_bytes]
        seconds, peak, _ = self._run(["data_prep", "mono", text, *options], workers)
        return TimedRun(seconds, sum(shard.tokens for shard in Manifest.load(out).shards), peak)

    def peer(self, contender: str, text: Path) -> TimedRun:
        """A contender of `peers`: only its encoding (and writing) counts, not its start."""
        _, peak, output = self._run(["data_prep.benchmark.peers", contender, text, self.corpus.tokenizer_dir], 1)
        found = json.loads(output)
        return TimedRun(found["seconds"], found["tokens"], peak)

    def reading(self, data_dir: Path) -> dict[str, dict[str, float]]:
        """The training side's own measurement, of which this package knows the command only."""
        found: dict[str, dict[str, float]] = json.loads(self._run(["pipeline.benchmark.reading", data_dir], 1)[2])
        return found

    def _run(self, arguments: list[object], cores: int) -> tuple[float, int, str]:
        """Seconds, peak bytes and standard output of `python -m …`."""
        command = [sys.executable, "-m", *map(str, arguments)]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, set(self.cores[:cores]))  # inherited by the process that is started
        try:
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
                began = time.perf_counter()
                process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - began
                process.returncode = os.waitstatus_to_exitcode(status)
                out.seek(0)
                err.seek(0)
                if process.returncode:
                    raise ValueError(f"{' '.join(command)}: failed: {err.read().decode()[-300:]}")
                return seconds, usage.ru_maxrss * 1024, out.read().decode()
        finally:
            os.sched_setaffinity(0, before)


def compare_ids(bench: Bench) -> list[Entry]:
    """Compare the published ids of the text's beginning with every peer's.

    Raises:
        ValueError: SentencePiece's own ids are not the ones in the shards.
    """
    corpus, data_dir = bench.corpus, bench.folder / "slice"
    bench.binarize(corpus.slice, name="slice")
    entries = []
    # in a process of its own: what this one holds would count as memory of every process that it starts
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for contender, shown in (("sentencepiece", BARE), ("transformers", TRANSFORMERS), ("tokenizers", TOKENIZERS)):
            task = pool.submit(differing_lines, contender, corpus.slice, corpus.tokenizer_dir, data_dir)
            differ, lines = task.result()
            if contender == "sentencepiece" and differ:
                raise ValueError(f"{corpus.slice}: {differ} of {lines} lines differ from sentencepiece's ids: a fault")
            entries.append(entry("lines with other ids", shown, 100 * differ / lines, "% of lines", {}))
    return entries


def entry(name: str, contender: str, value: float, unit: str, ratio_to: dict[str, float]) -> Entry:
    """One figure, as all benchmarks of the project write it."""
    return {"name": name, "contender": contender, "value": value, "unit": unit, "ratio_to": ratio_to}


def time_contenders(bench: Bench, rounds: int, tell: Callable[[str], None]) -> list[Entry]:
    """Rates of all contenders in turns, and the ratios between those that bars are set for."""
    corpus = bench.corpus
    contenders: dict[str, Callable[[], TimedRun]] = {
        BARE: lambda: bench.peer("sentencepiece", corpus.text),
        PLAIN: lambda: bench.binarize(corpus.text),
        XZ: lambda: bench.binarize(corpus.archive),
        TRANSFORMERS: lambda: bench.peer("transformers", corpus.slice),
        TOKENIZERS: lambda: bench.peer("tokenizers", corpus.slice),
    }
    if len(bench.cores) > 1:
        contenders[TWO] = lambda: bench.binarize(corpus.text, workers=2)
    bench.runs = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            bench.runs[name].append(run())
            tell(f"round {number + 1} of {rounds}: {name}: {bench.runs[name][-1].rate / MEGA:.2f} M tokens/s")
    against = {PLAIN: (BARE, TRANSFORMERS, TOKENIZERS), XZ: (BARE,), TWO: (PLAIN,)}
    return [
        entry(
            ENCODING,
            name,
            median(run.rate for run in runs) / MEGA,
            "M tokens/s",
            {other: _ratio(runs, bench.runs[other]) for other in against.get(name, ())},
        )
        for name, runs in bench.runs.items()
    ]


def _ratio(runs: list[TimedRun], others: list[TimedRun]) -> float:
    return median(run.rate / other.rate for run, other in zip(runs, others, strict=True))


def measure_memory(bench: Bench, longer: Path | None) -> list[Entry]:
    """The largest memory of any process in the runs that were timed, and on a text several times as long."""
    peaks = {name: max(run.peak_bytes for run in bench.runs[name]) for name in (PLAIN, XZ, TWO) if name in bench.runs}
    entries = [entry(MEMORY, name, peak / MEGA, "MB", {}) for name, peak in peaks.items()]
    if longer:
        peak = bench.binarize(longer).peak_bytes
        name = f"{PLAIN}, {longer.stat().st_size / MEGA:.0f} MB of it"
        entries.append(entry(MEMORY, name, peak / MEGA, "MB", {PLAIN: peak / peaks[PLAIN]}))
    return entries


def measure_reading(bench: Bench) -> list[Entry]:
    """Rates of ready batches from what was binarized: blocks of the text, and pairs of its lines."""
    bench.binarize(bench.corpus.text)
    pairs = ["--pair", "xx-yy", "--keep-identical", "--tokenizer", bench.corpus.tokenizer_dir]
    text = bench.corpus.slice
    bench._run(["data_prep", "parallel", text, text, *pairs, "--out", bench.folder / "data"], 1)
    entries = []
    for kind, found in bench.reading(bench.folder / "data").items():
        for what in ("packed", "masked"):
            entries.append(entry(READING, f"{kind}, {what}", found[what] / MEGA, "M tokens/core-second", {}))
        entries.append(entry(READING, f"{kind}, opening to first batch", found["first_batch_seconds"], "s", {}))
    return entries


def measure_start(bench: Bench, shards: int) -> list[Entry]:
    """Seconds from an unopened folder of very many shards to a first batch."""
    text, name = bench.folder / "many.txt", "many"
    # one document, so one shard, a line
    text.write_text("\n\n".join(islice(chain.from_iterable(lines_of(bench.corpus.text)), shards)), encoding="utf-8")
    replace(bench, shard_bytes=1).binarize(text, workers=len(bench.cores), name=name)
    made = len(Manifest.load(bench.folder / name).shards)
    seconds = bench.reading(bench.folder / name)["mono"]["first_batch_seconds"]
    return [entry(READING, f"mono, opening {made:,} shards to first batch", seconds, "s", {})]


def main(
    text: Annotated[
        list[Path] | None, typer.Option(help="Text to use, plain or compressed; else it is generated.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="TOKENIZER_DIR; else one is trained on the text.")] = None,
    megabytes: Annotated[int, typer.Option(help="The text is repeated or cut to this size.")] = 100,
    slice_megabytes: Annotated[int, typer.Option(help="How much of it slow peers get.")] = 2,
    shard_bytes: Annotated[
        int, typer.Option(help="Text per shard of all runs of data_prep: small enough that every worker has several.")
    ] = 16 << 20,
    rounds: Annotated[int, typer.Option(help="Rounds in which every contender runs once.")] = 5,
    memory_times: Annotated[int, typer.Option(help="Measure memory also on so many times the text; 0: do not.")] = 4,
    start_shards: Annotated[int, typer.Option(help="Measure the start with so many shards; 0: do not.")] = 10_000,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write a PNG here.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder to work in (about 12 times the text); else a temporary one.")
    ] = None,
) -> None:
    """Measure data_prep against its peers.

    Example: python -m data_prep.benchmark --text de.txt.xz --text en.txt.xz --tokenizer xlmr --megabytes 500 --json b.json
    """
    for name, value in (("--megabytes", megabytes), ("--slice-megabytes", slice_megabytes), ("--rounds", rounds)):
        if value < 1:
            raise ValueError(f"{name} {value}: must be at least 1")
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        corpus = make_corpus(folder, text or [], tokenizer, megabytes * MEGA, slice_megabytes * MEGA)
        bench = Bench(corpus, folder, sorted(os.sched_getaffinity(0)), shard_bytes)
        print(f"{corpus.description}; shards of {shard_bytes / MEGA:.0f} MB; {len(bench.cores)} cores, {rounds} rounds")
        sys.stdout.flush()
        entries = compare_ids(bench)
        entries += time_contenders(bench, rounds, lambda line: print(line, file=sys.stderr, flush=True))
        entries += measure_memory(bench, corpus.longer(memory_times) if memory_times else None)
        entries += measure_reading(bench)
        entries += measure_start(bench, start_shards) if start_shards else []
    print_table(entries, f"Slow peers on the first {slice_megabytes} MB of it, their starting time not counted")
    if json_file:
        write_text(json_file, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    if picture:
        draw_picture(entries, picture)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
