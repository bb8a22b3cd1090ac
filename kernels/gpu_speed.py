"""How fast the Triton kernels are: `gpu_checks`' figures, each beside the rate of a plain copy, and better launch sizes.

What can be captured is timed as a CUDA graph over inputs in turn, larger together than the second-level cache: neither
Python's time to launch nor what the cache still holds is in the figure. What waits for the host is timed call by call.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice

import torch
import triton
from benchmark_peers import real_lengths
from gpu_batches import MOST_TOO_CLOSE, SETTINGS, Batch, Sizes, make_batch
from record import Report

from sinkhorn_align import AlignmentSettings, Links
from sinkhorn_align.gpu.launch import align_planned
from sinkhorn_align.gpu.tiles import Tile, capability_of, fused_tile

COLD_BYTES = 256 << 20
"""Of inputs in turn: some times the second-level cache of any GPU."""
Run = Callable[[], Links]


@dataclass(frozen=True)
class Contender:
    """A way from a batch to its links; `captured`: as a CUDA graph."""

    of: Callable[[Batch], Run]
    captured: bool


def contenders(settings: AlignmentSettings) -> dict[str, Contender]:
    """What is timed, by name; each is right, or `measure` refuses to time it."""

    def planned(batch: Batch, unfused: bool) -> Run:
        plan = batch.plan()
        return lambda: align_planned(batch.hidden_TD, plan, settings, unfused=unfused)

    return {
        "fused, planned": Contender(lambda batch: planned(batch, False), captured=True),
        "product + Sinkhorn/filter kernel, planned": Contender(lambda batch: planned(batch, True), captured=True),
        "align, triton": Contender(lambda batch: lambda: batch.align(settings), captured=False),
        "align, torch": Contender(lambda batch: lambda: batch.align(settings, backend="torch"), captured=False),
    }


def wall_seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def seconds_of(run: Callable[[], object], device: str, repeats: int) -> float:
    """Median seconds of a call, by the device's own clock where it has one, with a cold second-level cache."""
    if device == "cpu":
        return wall_seconds(run)
    run()
    flush = torch.empty(COLD_BYTES, dtype=torch.int8, device=device)
    return statistics.median(_event_seconds(run, flush) for _ in range(repeats))


def replayed_seconds(runs: list[Callable[[], object]], device: str, repeats: int) -> float:
    """Seconds a call: these calls, each on inputs of its own, captured one after another and replayed; the median."""
    if device == "cpu":
        return wall_seconds(runs[0])
    for run in runs:
        run()  # compiled before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in runs:
            run()
    graph.replay()
    return statistics.median(_event_seconds(graph.replay, None) for _ in range(repeats)) / len(runs)


def _event_seconds(run: Callable[[], object], flush: torch.Tensor | None) -> float:
    if flush is not None:
        flush.zero_()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


def copy_bandwidth(device: str, repeats: int) -> float:
    """Bytes a second, read and written, of a large copy."""
    numbers = 1 << 20 if device == "cpu" else 1 << 29
    source = torch.ones(numbers, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * numbers / seconds_of(lambda: target.copy_(source), device, repeats)


def least_bytes(batch: Batch) -> int:
    """Each side's hidden states, read once."""
    tokens = int((batch.spans.source_length_B + batch.spans.target_length_B).sum())
    return tokens * batch.hidden_TD.shape[1] * batch.hidden_TD.element_size()


def in_turn(batch: Batch) -> list[Batch]:
    """The batch and as many copies as are, together, larger than any cache."""
    copies = 1 if batch.hidden_TD.device.type == "cpu" else 1 + COLD_BYTES // least_bytes(batch)
    return [batch, *(Batch(batch.hidden_TD.clone(), batch.spans) for _ in range(copies - 1))]


def benchmark(report: Report, sizes: Sizes, device: str, width: int) -> None:
    """Pairs of real lengths and of one length on both sides, clip cost, bf16; the share of a copy made in the same run."""
    bandwidth = copy_bandwidth(device, sizes.repeats)
    copy = {"name": "copy", "contender": "copy_", "value": round(bandwidth / 1e9, 1), "unit": "GB/s"}
    report.record.add("figure", copy)
    cases = {f"{pairs} pairs of real lengths": real_lengths(pairs) for pairs in sizes.real_pairs}
    for length in sizes.timed_lengths:
        length_B = torch.full((sizes.timed_pairs,), length)
        cases[f"{sizes.timed_pairs} pairs of {length} x {length}"] = (length_B, length_B)
    for name, lengths in cases.items():
        if not report.time_is_up(name):
            batch = make_batch(*lengths, width, torch.bfloat16, device)
            measure(report, f"{name}, width {width}, bf16, {device}", batch, bandwidth, sizes.repeats)


def most_others(batch: Batch) -> float:
    """Partners that may differ where candidates are too close to call: a share of all, and one pair's in a small batch."""
    tokens_B = batch.spans.source_length_B + batch.spans.target_length_B
    return max(MOST_TOO_CLOSE * float(tokens_B.sum()), float(tokens_B.max()))


def measure(report: Report, name: str, batch: Batch, bandwidth: float, repeats: int) -> None:
    """Record the time of every contender that gives the batched path's links, and the ratios between them."""
    device, seconds = batch.hidden_TD.device.type, {}
    expected = batch.align(SETTINGS["clip"], backend="torch")
    batches = in_turn(batch)
    for contender, way in contenders(SETTINGS["clip"]).items():
        if report.time_is_up(f"{contender}, {name}"):
            continue
        runs = [way.of(each) for each in (batches if way.captured else batches[:1])]
        other = int((runs[0]().partner_T != expected.partner_T).sum())
        if other > most_others(batch):
            report.check(f"{contender}, {name}", False, f"{other} partners differ; not timed")
            continue
        seconds[contender] = own = (
            replayed_seconds(runs, device, repeats) if way.captured else seconds_of(runs[0], device, repeats)
        )
        share = least_bytes(batch) / own / bandwidth
        figure = {"name": name, "contender": contender, "value": round(own * 1e6, 1), "unit": "µs"}
        ratios = {before: round(theirs / own, 2) for before, theirs in seconds.items() if before != contender}
        figure |= {"ratio_to": ratios, "share_of_copy": round(share, 3)}
        report.record.add("figure", figure)
        print(f"{name}, {contender}: {figure['value']} µs, {share:.0%} of copy bandwidth", flush=True)


def candidates(default: Tile) -> Iterator[Tile]:
    """The default launch sizes of a shape, then others around it: 1 to 16 warps, half and double steps, 2 to 4 stages."""
    yield default
    for warps in (1, 2, 4, 8, 16):
        for depth in (default.depth, default.depth * 2):
            for stages in (2, 3, 4):
                tile = replace(default, depth=depth, warps=warps, stages=stages, registers=None)
                if default.warps // 4 <= warps <= default.warps * 2 and tile != default:
                    yield tile


def tune(report: Report, sizes: Sizes, device: str, width: int) -> None:
    """The fastest launch sizes for the commonest shapes, beside the defaults; stops when the time is up, and says so."""
    settings = SETTINGS["clip"]
    for rows, columns in sizes.tuned_shapes:
        lengths = (torch.full((sizes.timed_pairs,), rows), torch.full((sizes.timed_pairs,), columns))
        batch = make_batch(*lengths, width, torch.bfloat16, device)
        plan, times = batch.plan(), {}
        default = fused_tile(rows, columns, 2, capability_of(batch.hidden_TD.device))
        for tile in islice(candidates(default), 2 if device == "cpu" else None):
            if report.time_is_up(f"tuning of {rows} x {columns} from {tile} on"):
                break
            try:
                run = partial(align_planned, batch.hidden_TD, plan, settings, lambda *_, tile=tile: tile)
                times[tile] = seconds_of(run, device, sizes.repeats)
            except (RuntimeError, triton.TritonError) as error:  # too large, or what the compiler cannot do
                report.leave_out(f"{tile}: {type(error).__name__}: {str(error).splitlines()[0]}")
                continue
            tuned = asdict(tile) | {"µs": round(times[tile] * 1e6, 1), "is_default": tile == default}
            report.record.add("tuning", tuned)
        if default in times:
            best = min(times, key=lambda tile: times[tile])
            print(f"{rows} x {columns}: best {best}, {times[default] / times[best]:.2f} x the default", flush=True)
