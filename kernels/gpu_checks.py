"""Everything about the Triton kernels that needs a GPU, in one run: are they right, always the same, clean, and how fast.

Run `python kernels/gpu_checks.py` on a machine with a CUDA device; it takes about 8 minutes at most and writes one file.
`--dry-run` runs the same code on small batches in Triton's interpreter, on any machine; its times mean nothing.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from itertools import islice
from pathlib import Path

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import torch

try:
    import triton
except ModuleNotFoundError:
    sys.exit("error: the package triton is not installed; `pip install triton` (it comes with PyTorch for CUDA)")
from torch import Tensor

from sinkhorn_align import AlignmentSettings, Links, Spans, align
from sinkhorn_align.agreement import compare
from sinkhorn_align.gpu.launch import align_planned
from sinkhorn_align.gpu.tiles import Plan, Tile, capability_of, fused_tile

SETTINGS = {
    "clip": AlignmentSettings(),
    "exp": AlignmentSettings(cost="exp", temperature=8.0),
    "cosine": AlignmentSettings(cost="exp", similarity="cosine", temperature=0.1),
}
MOST_TOO_CLOSE = 0.01
"""Share of pairs that may differ from the reference where two candidates are closer than fp32 resolves."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass
class Sizes:
    """How much a run does; a dry run does as little as reaches every line."""

    pairs: int
    width: int
    longest: int
    repeats: int
    timed_pairs: int
    timed_lengths: tuple[int, ...]
    tuned_shapes: tuple[tuple[int, int], ...]


REAL = Sizes(2000, 256, 512, 30, 2048, (16, 32, 64, 128), ((16, 16), (32, 32), (64, 64), (64, 128), (128, 128)))
DRY = Sizes(12, 32, 40, 1, 2, (16,), ((16, 16),))


@dataclass
class Batch:
    """A packed batch on the device, its spans on the CPU, as a collator leaves them."""

    hidden_TD: Tensor
    spans: Spans

    def align(self, settings: AlignmentSettings, backend: str = "triton") -> Links:
        return align(self.hidden_TD, self.spans, settings, backend=backend)  # type: ignore[arg-type]

    def plan(self) -> Plan:
        return Plan.of(self.spans.checked(len(self.hidden_TD)), self.hidden_TD.device)


@dataclass
class Report:
    """What one run found; the content of the results file."""

    environment: dict[str, str | bool]
    checks: list[dict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    benchmark: list[dict] = field(default_factory=list)
    tuning: list[dict] = field(default_factory=list)

    def check(self, name: str, passed: bool, detail: str) -> None:
        print(f"{'ok    ' if passed else 'FAILED'} {name}: {detail}", flush=True)
        self.checks.append({"name": name, "passed": passed, "detail": detail})

    def leave_out(self, what: str) -> None:
        print(f"left out: {what}", flush=True)
        self.left_out.append(what)


def make_batch(source_B: Tensor, target_B: Tensor, width: int, dtype: torch.dtype, device: str, seed: int = 1) -> Batch:
    """Pairs of these lengths that share directions, as hidden states of translations do; special tokens are NaN."""
    generator = torch.Generator().manual_seed(seed)
    sequence_B = source_B + target_B + 3  # <s> source </s> target </s>
    first_B = sequence_B.cumsum(0) - sequence_B
    vectors = (first_B + 1, source_B, first_B + 2 + source_B, target_B)
    tokens = int(sequence_B.sum())
    meaning_VD = torch.randn(500, width, generator=generator) + 1.5
    word_T = torch.randint(len(meaning_VD), (tokens,), generator=generator)
    hidden_TD = meaning_VD[word_T] + 0.7 * torch.randn(tokens, width, generator=generator)
    hidden_TD /= width**0.5 / 4  # dot products of some tens at every width
    hidden_TD[torch.cat([first_B, first_B + 1 + source_B, first_B + 2 + source_B + target_B])] = float("nan")
    return Batch(hidden_TD.to(device, dtype), Spans(*(vector.int() for vector in vectors)))


def ragged_lengths(pairs: int, longest: int, seed: int) -> tuple[Tensor, Tensor]:
    """Mostly sentences of up to 64 tokens, empty sides among them, and one pair in fifty of any length."""
    generator = torch.Generator().manual_seed(seed)
    lengths_2B = torch.randint(0, min(longest, 64) + 1, (2, pairs), generator=generator)
    lengths_2B[:, ::50] = torch.randint(0, longest + 1, lengths_2B[:, ::50].shape, generator=generator)
    return lengths_2B[0], lengths_2B[1]


def same(first: Links, second: Links) -> bool:
    return all(torch.equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Links))


def check_correctness(report: Report, sizes: Sizes, device: str) -> None:
    """Every cost and dtype against the float64 reference."""
    for seed, (name, settings) in enumerate(SETTINGS.items()):
        for dtype_name, dtype in DTYPES.items():
            pairs = sizes.pairs if dtype_name == "bf16" else max(1, sizes.pairs // 4)
            lengths = ragged_lengths(pairs, sizes.longest, seed)
            batch = make_batch(*lengths, sizes.width, dtype, device, seed)
            agreement = compare(batch.align(settings), batch.hidden_TD, batch.spans, settings)
            detail = f"{pairs} pairs, {len(agreement.too_close)} too close to call, {len(agreement.wrong)} wrong"
            passed = not agreement.wrong and len(agreement.too_close) <= max(1, MOST_TOO_CLOSE * pairs)
            report.check(
                f"{name}, {dtype_name}: equals the reference", passed, "; ".join([detail, *agreement.wrong[:3]])
            )


def check_repeatability(report: Report, sizes: Sizes, device: str) -> None:
    """The same bits from run to run, and for a pair whatever else is in the batch."""
    settings = SETTINGS["clip"]
    source_B, target_B = ragged_lengths(sizes.pairs, sizes.longest, seed=9)
    batch = make_batch(source_B, target_B, sizes.width, torch.bfloat16, device)
    first = batch.align(settings)
    runs = 2 if sizes.repeats == 1 else 20
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


def check_sanitizer(report: Report, device: str) -> None:
    """compute-sanitizer's memory and race checks over a small correctness run."""
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if device == "cpu" or tool is None:
        report.leave_out(f"compute-sanitizer: {'no CUDA device' if device == 'cpu' else 'not installed'}")
        return
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else every access lies in a cached block
    for name in ("memcheck", "racecheck"):
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, __file__, "--sanitized"]
        try:
            run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
        except subprocess.TimeoutExpired:
            report.check(name, False, "not finished after 90 s")
            continue
        last = (run.stdout + run.stderr).strip().splitlines()[-1:]
        report.check(name, run.returncode == 0, f"exit code {run.returncode}: {' '.join(last)}")


def seconds_of(run: Callable[[], object], device: str, repeats: int) -> float:
    """Median seconds of a call, on the device's own clock where it has one, with a cold second-level cache."""
    if device == "cpu":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    run()
    flush = torch.empty(256 << 20, dtype=torch.int8, device=device)
    times = []
    for _ in range(repeats):
        flush.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def copy_bandwidth(device: str, repeats: int) -> float:
    """Bytes a second, read and written, of a large copy."""
    numbers = 1 << 20 if device == "cpu" else 1 << 29
    source = torch.ones(numbers, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * numbers / seconds_of(lambda: target.copy_(source), device, repeats)


def contenders(batch: Batch, settings: AlignmentSettings) -> dict[str, Callable[[], object]]:
    """What is timed, by name, from hidden states to links; each is right, or `benchmark` refuses to time it."""
    plan = batch.plan()
    return {
        "fused, planned": lambda: align_planned(batch.hidden_TD, plan, settings),
        "product + Sinkhorn/filter kernel, planned": lambda: align_planned(
            batch.hidden_TD, plan, settings, unfused=True
        ),
        "align, triton": lambda: batch.align(settings),
        "align, torch": lambda: batch.align(settings, backend="torch"),
    }


def benchmark(report: Report, sizes: Sizes, device: str, width: int) -> None:
    """Pairs of one length on both sides, clip cost, bf16; the share of the bandwidth of a copy made in the same run."""
    settings, bandwidth = SETTINGS["clip"], copy_bandwidth(device, sizes.repeats)
    report.benchmark.append({"name": "copy", "contender": "copy_", "value": round(bandwidth / 1e9, 1), "unit": "GB/s"})
    for length in sizes.timed_lengths:
        length_B = torch.full((sizes.timed_pairs,), length)
        batch = make_batch(length_B, length_B, width, torch.bfloat16, device)
        seconds = {}
        expected = batch.align(settings, backend="torch")
        for name, run in contenders(batch, settings).items():
            other = float((run().partner_T != expected.partner_T).float().mean())  # type: ignore[attr-defined]
            if other > MOST_TOO_CLOSE:
                report.check(f"{name}, length {length}", False, f"{other:.1%} of partners differ; not timed")
                continue
            seconds[name] = seconds_of(run, device, sizes.repeats)
        floor_bytes = 2 * length * width * 2 * sizes.timed_pairs
        for name, own in seconds.items():
            share = floor_bytes / own / bandwidth
            figure = {
                "name": f"{sizes.timed_pairs} pairs of {length} x {length}, width {width}, bf16, {device}",
                "contender": name,
                "value": round(own * 1e6, 1),
                "unit": "µs",
                "ratio_to": {other: round(theirs / own, 2) for other, theirs in seconds.items() if other != name},
                "share_of_copy_bandwidth": round(share, 3),
            }
            report.benchmark.append(figure)
            print(f"{figure['name']}, {name}: {figure['value']} µs, {share:.0%} of copy bandwidth", flush=True)


def candidates(default: Tile) -> Iterator[Tile]:
    """The default launch sizes of a shape, then others around it."""
    yield default
    for warps in (default.warps // 2, default.warps, default.warps * 2):
        for depth in (default.depth // 2, default.depth, default.depth * 2):
            for stages in (2, 3, 4):
                tile = Tile(default.rows, default.columns, depth, warps, stages)
                if 1 <= warps <= 16 and tile != default:
                    yield tile


def tune(report: Report, sizes: Sizes, device: str, width: int, until: float) -> None:
    """The fastest launch sizes for the commonest shapes, beside the defaults; stops when the time is up, and says so."""
    settings = SETTINGS["clip"]
    for rows, columns in sizes.tuned_shapes:
        lengths = (torch.full((sizes.timed_pairs,), rows), torch.full((sizes.timed_pairs,), columns))
        batch = make_batch(*lengths, width, torch.bfloat16, device)
        plan, times = batch.plan(), {}
        default = fused_tile(rows, columns, 2, capability_of(batch.hidden_TD.device))
        for tile in islice(candidates(default), 2 if device == "cpu" else None):
            if time.monotonic() > until:
                report.leave_out(f"tuning of {rows} x {columns} from {tile} on: time is up")
                break
            try:
                run = partial(align_planned, batch.hidden_TD, plan, settings, lambda *_, tile=tile: tile)
                times[tile] = seconds_of(run, device, sizes.repeats)
            except triton.runtime.errors.OutOfResources as error:
                report.leave_out(f"{tile}: {error}")
        if default in times:
            best = min(times, key=lambda tile: times[tile])
            report.tuning.append(
                {
                    "default": asdict(default) | {"µs": round(times[default] * 1e6, 1)},
                    "best": asdict(best) | {"µs": round(times[best] * 1e6, 1)},
                }
            )
            print(f"{rows} x {columns}: best {best}, {times[default] / times[best]:.2f} x the default", flush=True)


def environment_of(device: str) -> dict[str, str | bool]:
    commit = subprocess.run(
        ["git", "-C", Path(__file__).parent, "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "Triton's interpreter on the CPU",
        "dry_run": device == "cpu",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": commit.stdout.strip() or "unknown",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python kernels/gpu_checks.py --out gpu.json")
    parser.add_argument("--out", metavar="FILE", default="gpu_checks.json", help="results file (default %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=8, help="tuning, which comes last, stops after these (default 8)"
    )
    parser.add_argument("--dry-run", action="store_true", help="small batches in Triton's interpreter")
    parser.add_argument("--sanitized", action="store_true", help="a small correctness run only, for compute-sanitizer")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        print("error: gpu_checks needs a CUDA device and finds none; use --dry-run", file=sys.stderr)
        return 2

    until = time.monotonic() + 60 * arguments.minutes
    device = "cpu" if arguments.dry_run else "cuda"
    sizes, width = (DRY, 32) if arguments.dry_run else (REAL, 768)
    report = Report(environment_of(device))
    if arguments.sanitized:
        check_correctness(report, Sizes(60, 64, 200, 1, 1, (), ()), device)
        return int(not all(check["passed"] for check in report.checks))
    check_correctness(report, sizes, device)
    check_repeatability(report, sizes, device)
    check_graph_and_sync(report, sizes, device)
    check_sanitizer(report, device)
    benchmark(report, sizes, device, width)
    tune(report, sizes, device, width, until)
    Path(arguments.out).write_text(json.dumps(asdict(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    failed = [check["name"] for check in report.checks if not check["passed"]]
    print(f"{len(report.checks) - len(failed)} checks passed, {len(failed)} failed; wrote {arguments.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
