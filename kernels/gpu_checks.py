"""Everything about the Triton kernels that needs a GPU, in one run: are they right, always the same, clean, and how fast.

Run `python kernels/gpu_checks.py` on a machine with a CUDA device; nothing is begun after `--minutes`. Every check and every
figure is a line of the record, on the disk before the next is begun, and a section that fails does not stop the others.
`--dry-run` runs the same code on small batches in Triton's interpreter, on any machine; its times mean nothing.
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from itertools import product

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import numpy
import torch

try:
    import triton
except ModuleNotFoundError:
    sys.exit("error: the package triton is not installed; `pip install triton` (it comes with PyTorch for CUDA)")
import gpu_speed
from gpu_batches import DRY, DTYPES, MOST_TOO_CLOSE, REAL, SANITIZED, SETTINGS, Batch, Sizes, make_batch, ragged_lengths
from record import Record, Report, environment

from sinkhorn_align import Links, Spans
from sinkhorn_align.agreement import compare
from sinkhorn_align.gpu.launch import align_planned

COMPILED_SIDES = (16, 32, 64, 128, 200, 400)
MOST_COMPILERS = 16
LONGEST_MEMCHECK = 90
"""Seconds; some containers let compute-sanitizer wait for ever."""


def compile_first(report: Report, sizes: Sizes, device: str) -> None:
    """Every shape of the checks in as many processes as there are processors: Triton's cache then has what they need."""
    if device == "cpu":
        report.leave_out("compiling: the interpreter compiles nothing")
        return
    todo = [("bf16", name) for name in SETTINGS] + [("fp16", "clip"), ("fp32", "clip")]
    work = [(*each, rows, columns) for each in todo for rows, columns in product(COMPILED_SIDES, repeat=2)]
    begin = time.monotonic()
    pool = ProcessPoolExecutor(
        min(MOST_COMPILERS, len(os.sched_getaffinity(0))), mp_context=multiprocessing.get_context("spawn")
    )
    done = [pool.submit(align_one_pair, sizes.width, *each) for each in work]
    failed = [error for error in (future.exception() for future in done) if error]
    pool.shutdown()
    detail = f"{len(work)} shapes in {time.monotonic() - begin:.0f} s" + (f"; {failed[0]}" if failed else "")
    report.check("every shape compiles", not failed, detail)


def align_one_pair(width: int, dtype: str, cost: str, rows: int, columns: int) -> None:
    """Compile what a pair of this shape takes."""
    batch = make_batch(torch.tensor([rows]), torch.tensor([columns]), width, DTYPES[dtype], "cuda")
    batch.align(SETTINGS[cost])
    torch.cuda.synchronize()


def check_correctness(report: Report, sizes: Sizes, device: str) -> None:
    """Every cost in bf16, and every dtype, against the float64 reference."""
    cases = [(name, "bf16", sizes.pairs) for name in SETTINGS]
    cases += [("clip", dtype, max(1, sizes.pairs // 3)) for dtype in ("fp16", "fp32")]
    for seed, (name, dtype, pairs) in enumerate(cases):
        if report.time_is_up(f"{name}, {dtype}: equals the reference"):
            continue
        lengths = ragged_lengths(pairs, sizes.longest, seed)
        batch = make_batch(*lengths, sizes.width, DTYPES[dtype], device, seed)
        agreement = compare(batch.align(SETTINGS[name]), batch.hidden_TD, batch.spans, SETTINGS[name])
        detail = f"{pairs} pairs, {len(agreement.too_close)} too close to call, {len(agreement.wrong)} wrong"
        passed = not agreement.wrong and len(agreement.too_close) <= max(1, MOST_TOO_CLOSE * pairs)
        report.check(f"{name}, {dtype}: equals the reference", passed, "; ".join([detail, *agreement.wrong[:3]]))


def same(first: Links, second: Links) -> bool:
    return all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Links))


def check_repeatability(report: Report, sizes: Sizes, device: str) -> None:
    """The same bits from run to run, and for a pair whatever else is in the batch."""
    settings = SETTINGS["clip"]
    source_B, target_B = ragged_lengths(sizes.pairs, sizes.longest, seed=9)
    batch = make_batch(source_B, target_B, sizes.width, torch.bfloat16, device)
    first = batch.align(settings)
    runs = max(2, sizes.repeats)
    equal = sum(same(batch.align(settings), first) for _ in range(runs))
    report.check("same bits every run", equal == runs, f"{equal} of {runs} runs")

    chosen_B = torch.arange(0, len(source_B), 3)
    part = Batch(batch.hidden_TD, Spans(*(vector[chosen_B] for vector in batch.spans)))
    alone, differing = part.align(settings), 0
    for start_B, length_B in zip(part.spans[::2], part.spans[1::2], strict=True):
        for start, length in zip(start_B.tolist(), length_B.tolist(), strict=True):
            side = slice(start, start + length)
            differing += not torch.equal(alone.partner_T[side], first.partner_T[side])
            differing += not torch.equal(alone.score_T[side], first.score_T[side])
    report.check(
        "links do not depend on neighbours", differing == 0, f"{differing} sides of {len(chosen_B)} pairs differ"
    )


def check_graph_and_sync(report: Report, sizes: Sizes, device: str) -> None:
    """No wait for the device in the public call, and a captured graph that follows the hidden states."""
    if device == "cpu":
        report.leave_out("sync and CUDA graph checks: no CUDA device")
        return
    settings = SETTINGS["clip"]
    lengths = ragged_lengths(sizes.pairs, sizes.longest, seed=5)
    batch = make_batch(*lengths, sizes.width, torch.bfloat16, device)
    batch.align(settings)  # compiled before the check
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch.align(settings)
        report.check("no synchronization", True, "set_sync_debug_mode('error') saw none")
    except RuntimeError as error:
        report.check("no synchronization", False, str(error).splitlines()[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")

    plan, graph = batch.plan(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = align_planned(batch.hidden_TD, plan, settings)
    other = make_batch(*lengths, sizes.width, torch.bfloat16, device, seed=6)
    batch.hidden_TD.copy_(other.hidden_TD)
    graph.replay()
    report.check("CUDA graph", same(captured, other.align(settings)), "replayed on other hidden states")


def check_memory(report: Report, sizes: Sizes, device: str) -> None:
    """compute-sanitizer's memory check over a small correctness run."""
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if device == "cpu" or tool is None:
        report.leave_out(f"compute-sanitizer: {'no CUDA device' if device == 'cpu' else 'not installed'}")
        return
    seconds = min(LONGEST_MEMCHECK, report.until - time.monotonic())
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else every access lies in a cached block
    command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, __file__, "--sanitized"]
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        report.leave_out(f"memcheck: not finished after {seconds:.0f} s")
        return
    last = (run.stdout + run.stderr).strip().splitlines()[-1:]
    report.check("memcheck", run.returncode == 0, f"exit code {run.returncode}: {' '.join(last)}")


def speed(report: Report, sizes: Sizes, device: str) -> None:
    gpu_speed.benchmark(report, sizes, device, timed_width(device))


def tuning(report: Report, sizes: Sizes, device: str) -> None:
    gpu_speed.tune(report, sizes, device, timed_width(device))


def timed_width(device: str) -> int:
    return 768 if device == "cuda" else 32


Section = Callable[[Report, Sizes, str], None]
SECTIONS: dict[str, Section] = {
    "compile": compile_first,
    "right": check_correctness,
    "repeatable": check_repeatability,
    "graph": check_graph_and_sync,
    "speed": speed,
    "tuning": tuning,
    "memcheck": check_memory,
}


def run_sections(chosen: list[str], report: Report, sizes: Sizes, device: str) -> None:
    """One after another; one that fails is a failed check, with the end of its traceback on stderr."""
    for name in chosen:
        if report.time_is_up(name):
            continue
        try:
            SECTIONS[name](report, sizes, device)
        except Exception as error:  # of a kernel, a compiler or the device: what comes after may still tell something
            traceback.print_exc()
            report.check(name, False, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")


def interpreter_fails() -> str:
    """Why Triton's interpreter cannot run here, or nothing."""
    versions = [tuple(map(int, given.split(".")[:2])) for given in (triton.__version__, numpy.__version__)]
    if versions[0] < (3, 7) and versions[1] >= (2, 4):
        return (
            f"the interpreter of Triton {triton.__version__} does not know NumPy {numpy.__version__}; take Triton 3.7, or "
            "NumPy before 2.4"
        )
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python kernels/gpu_checks.py --out gpu.jsonl"
    )
    parser.add_argument(
        "--out", metavar="FILE", default="gpu_checks.jsonl", help="is appended to (default %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=8, help="nothing is begun after so many (default 8)")
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), help="some of the sections"
    )
    parser.add_argument("--dry-run", action="store_true", help="small batches in Triton's interpreter")
    parser.add_argument("--sanitized", action="store_true", help="a small correctness run only, for compute-sanitizer")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        print("error: gpu_checks needs a CUDA device and finds none; use --dry-run", file=sys.stderr)
        return 2

    if arguments.dry_run and (why := interpreter_fails()):
        print(f"error: {why}", file=sys.stderr)
        return 2

    device, sizes = ("cpu", DRY) if arguments.dry_run else ("cuda", REAL)
    if arguments.sanitized:
        report = Report(Record(None))
        check_correctness(report, SANITIZED, device)
        return int(not all(report.checks.values()))
    report = Report(Record(arguments.out), time.monotonic() + 60 * arguments.minutes)
    report.record.add("environment", environment(device) | {"dry_run": arguments.dry_run})
    run_sections(arguments.only, report, sizes, device)
    failed = [name for name, passed in report.checks.items() if not passed]
    print(f"{len(report.checks) - len(failed)} checks passed, {len(failed)} failed; wrote {arguments.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
