"""Times `align` against its peers on the same pairs, after checking that all find the same links.

    python kernels/benchmark.py [--device cuda] [--quick] [--minutes N] [--json FILE] [--csv FILE] [--picture FILE]

The same command on CPU and GPU; what a machine cannot run is left out with a line. Contenders run in turns, a figure is the
median over repeats, a ratio that of paired repeats. GB/s counts every hidden state once, whatever a contender reads. On a GPU
the released algorithm, a loop of Python over pairs and cells, runs on few of the pairs; its time is scaled to all of them.
"""

import argparse
import csv
import json
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmark_peers import (
    Case,
    Links,
    links_of_mask,
    padded_labels,
    padded_sequences,
    padded_sides,
    pot_plan,
    real_lengths,
    released_labels,
    released_product,
)
from record import Record, environment

from sinkhorn_align import AlignmentSettings, Spans, align
from sinkhorn_align import Links as Answer
from sinkhorn_align.cpu.native import align_native

LARGEST_DISAGREEMENT = 0.002
"""Share of links that fp32 may place elsewhere than the float64 reference, where two candidates are all but equal."""
CHECKED_PAIRS = 256
"""Pairs of a case whose links are compared with the reference's, which takes them one by one."""
RELEASED_PAIRS_ON_GPU = 64
OURS, OURS_LABELS = "align", "align, labelling alone"
RELEASED, RELEASED_LABELS = "released", "released, labelling alone"
Run = Callable[[], object]


@dataclass
class Contender:
    """What is timed; `links` turns its result into links to check, None where it gives none; `pairs`, where it takes fewer."""

    run: Run
    links: Callable[[Any], Links] | None = None
    pairs: int | None = None


@dataclass
class Figures:
    """The entries of the JSON file, and what was left out; until when (`time.monotonic`) anything more is begun."""

    record: Record
    until: float = math.inf
    entries: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)
        self.record.add("figure", entry)

    def leave_out(self, what: str) -> None:
        if what not in self.left_out:
            self.left_out.append(what)
            self.record.add("left out", {"what": what})
            print(f"left out: {what}", flush=True)

    def time_is_up(self, what: str) -> bool:
        """Whether it is too late to begin something, which is then left out."""
        if late := time.monotonic() > self.until:
            self.leave_out(f"{what}: the time is up")
        return late


def make_case(name: str, source_length_B: torch.Tensor, target_length_B: torch.Tensor, width: int, device: str) -> Case:
    """Pairs of these lengths that share directions, as hidden states of translations do; bf16 on a GPU, else fp32."""
    generator = torch.Generator().manual_seed(1)
    sequence_B = source_length_B + target_length_B + 3  # <s> source </s> target </s>
    first_B = sequence_B.cumsum(0) - sequence_B
    tokens = int(sequence_B.sum())
    meaning_VD = torch.randn(500, width, generator=generator) + 1.5
    word_T = torch.randint(len(meaning_VD), (tokens,), generator=generator)
    hidden_TD = meaning_VD[word_T] + 0.7 * torch.randn(tokens, width, generator=generator)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    starts = (first_B + 1, source_length_B, first_B + 2 + source_length_B, target_length_B)
    return Case(name, hidden_TD.to(device, dtype), Spans(*(vector.int() for vector in starts)))


def cases(device: str, quick: bool) -> Iterator[Case]:
    """Ragged pairs with the lengths of real corpora, then pairs of one length; what tells most comes first."""
    if device == "cpu":
        ragged, lengths, uniform = [(32, 384), (256, 768)], (32,) if quick else (16, 64, 128), 64
    else:
        ragged = [(2048, 768)] if quick else [(2048, 768), (256, 768), (2048, 1024)]
        lengths, uniform = (64,) if quick else (64, 32, 16, 128, 256), 2048
    for pairs, width in ragged:
        yield make_case(f"{pairs} pairs of real lengths, width {width}", *real_lengths(pairs), width, device)
    for length in lengths:
        length_B = torch.full((uniform,), length)
        yield make_case(f"{uniform} pairs of {length} x {length}, width 768", length_B, length_B, 768, device)


def contenders(case: Case, figures: Figures, compiled: bool) -> dict[str, Contender]:
    """What is timed on a case, by name."""
    settings, cuda = AlignmentSettings(), case.hidden_TD.is_cuda
    found = {OURS: Contender(lambda: align(case.hidden_TD, case.spans, settings), links_of_answer)}
    found |= released_contenders(case.first(RELEASED_PAIRS_ON_GPU) if cuda else case)
    of_mask = {"links": lambda answer: links_of_mask(case, answer[0])}
    found["PyTorch, one padded block"] = Contender(lambda: padded_labels(*padded_sides(case)), **of_mask)
    if compiled:
        fast = torch.compile(padded_labels, dynamic=False)
        found["PyTorch, padded, torch.compile"] = Contender(lambda: fast(*padded_sides(case)), **of_mask)
    solve = pot_plan()
    if solve is None:
        figures.leave_out("POT (pip install POT)")
    elif case.is_square:
        found["POT, batched, plan only"] = Contender(lambda: solve(case))
    batched = Contender(lambda: align(case.hidden_TD, case.spans, settings, backend="torch"), links_of_answer)
    if cuda:
        found |= gpu_contenders(case, settings) | {"align, batched PyTorch": batched}
    else:
        figures.leave_out("the fused Triton kernel, and product + Sinkhorn/filter kernel: no CUDA device")
        found["align, batched PyTorch"] = batched
        found[OURS_LABELS] = Contender(labels_alone(case, settings), links_of_answer)
    return found


def released_contenders(case: Case) -> dict[str, Contender]:
    """The released algorithm from hidden states, and from the product on."""
    padded_BLD = padded_sequences(case)
    gram_BLL = released_product(padded_BLD)
    return {
        RELEASED: Contender(
            lambda: released_labels(case, released_product(padded_BLD)), lambda links: links, case.spans.pairs
        ),
        RELEASED_LABELS: Contender(lambda: released_labels(case, gram_BLL), lambda links: links, case.spans.pairs),
    }


def labels_alone(case: Case, settings: AlignmentSettings) -> Run:
    """The part of `align` on a CPU that follows the products, on given similarities."""
    spans = case.spans.checked(len(case.hidden_TD))
    sides = zip(*(vector.tolist() for vector in spans), strict=True)
    of_pairs = [case.hidden_TD[s : s + m] @ case.hidden_TD[t : t + n].T for s, m, t, n in sides]
    cells_B = torch.tensor([similarity_MN.numel() for similarity_MN in of_pairs])
    similarities = torch.cat([similarity_MN.flatten() for similarity_MN in of_pairs]), cells_B.cumsum(0) - cells_B
    return lambda: align_native(case.hidden_TD, spans, settings, similarities)


def gpu_contenders(case: Case, settings: AlignmentSettings) -> dict[str, Contender]:
    """The Triton paths without the host's planning, and the batched path."""
    from sinkhorn_align.gpu.launch import align_planned
    from sinkhorn_align.gpu.tiles import Plan

    plan = Plan.of(case.spans.checked(len(case.hidden_TD)), case.hidden_TD.device)
    return {
        "fused, planned": Contender(lambda: align_planned(case.hidden_TD, plan, settings), links_of_answer),
        "product + Sinkhorn/filter kernel, planned": Contender(
            lambda: align_planned(case.hidden_TD, plan, settings, unfused=True), links_of_answer
        ),
    }


def links_of_answer(answer: Answer) -> Links:
    round_L, source_L = (answer.links_RT.cpu() >= 0).nonzero(as_tuple=True)
    return set(zip(source_L.tolist(), answer.links_RT.cpu()[round_L, source_L].tolist(), strict=True))


def correct(case: Case, running: dict[str, Contender], figures: Figures) -> dict[str, Contender]:
    """Those that find the reference's links, but for near-ties; the others are named and not timed."""
    kept: dict[str, Contender] = {}
    expected_of: dict[int, Links] = {}
    for name, contender in running.items():
        if figures.time_is_up(f"{name} on {case.name}"):
            continue
        part = case.first(min(CHECKED_PAIRS, contender.pairs or CHECKED_PAIRS))
        if contender.links and part.spans.pairs not in expected_of:
            expected_of[part.spans.pairs] = reference_links(part)
        try:
            answer = contender.run()
            found = contender.links(answer) if contender.links else None
        except Exception as error:  # of a peer, or of a compiler: the others are still timed
            figures.leave_out(f"{name} on {case.name}: {type(error).__name__}: {first_line(error)}")
            continue
        if found is not None:
            expected = expected_of[part.spans.pairs]
            differing = len({link for link in found if link[0] < len(part.hidden_TD)} ^ expected) / len(expected)
            if differing > LARGEST_DISAGREEMENT:
                figures.leave_out(f"{name} on {case.name}: {differing:.1%} of its links are not the reference's")
                continue
        kept[name] = contender
    return kept


def reference_links(case: Case) -> Links:
    return links_of_answer(align(case.hidden_TD.cpu(), case.spans, AlignmentSettings(), backend="reference"))


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def seconds_of(run: Run, device: str) -> float:
    """One run, from an idle device to an idle device."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def launches_and_syncs(run: Run) -> tuple[int, int]:
    """Kernel launches of one run, and how often the host waits for the device."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    ) as profile:
        run()
    names = [event.name for event in profile.events()]
    return sum("LaunchKernel" in name for name in names), sum("Synchronize" in name for name in names)


def measure(case: Case, figures: Figures, repeats: int, device: str, copy: float, compiled: bool) -> None:
    """Add the figures of one case."""
    running = correct(case, contenders(case, figures, compiled), figures)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    pairs = case.spans.pairs
    for repeat in range(repeats):
        if repeat and figures.time_is_up(f"repeats {repeat + 1} to {repeats} of {case.name}"):
            break
        for name, contender in running.items():
            seconds[name].append(seconds_of(contender.run, device) * pairs / (contender.pairs or pairs))
    print(f"\n{case.name}, {str(case.hidden_TD.dtype)[6:]}, {device}")
    for name, own in seconds.items():
        middle = statistics.median(own)
        peers = {OURS_LABELS: [RELEASED_LABELS], RELEASED_LABELS: [OURS_LABELS]}
        others = peers.get(name, [other for other in seconds if other not in (name, *peers)])
        ratios = {
            other: statistics.median(b / a for a, b in zip(own, seconds[other], strict=True))
            for other in others
            if other in seconds
        }
        entry = {"name": case.name, "contender": name, "value": middle * 1e6, "unit": "µs", "ratio_to": ratios}
        entry |= {"pairs_per_second": pairs / middle, "gigabytes_per_second": case.least_bytes / middle / 1e9}
        entry["share_of_copy"] = case.least_bytes / middle / copy
        if running[name].pairs not in (None, pairs):
            entry["scaled_from_pairs"] = running[name].pairs
        if device == "cuda":
            entry["launches"], entry["syncs"] = launches_and_syncs(running[name].run)
        figures.add(entry)
        told = f"{ratios[RELEASED]:8.2f} x released" if RELEASED in ratios else ""
        if name == OURS_LABELS and RELEASED_LABELS in ratios:
            told = f"{ratios[RELEASED_LABELS]:8.2f} x released labelling"
        print(
            f"  {name:<42} {entry['value']:>12,.0f} µs {entry['pairs_per_second']:>12,.0f} pairs/s "
            f"{entry['gigabytes_per_second']:>8.2f} GB/s {entry['share_of_copy']:>6.1%} of copy {told}",
            flush=True,
        )


def copy_rate(device: str, repeats: int) -> float:
    """Bytes a second, read and written, of a copy too large for any cache."""
    source = torch.ones(1 << (28 if device == "cpu" else 30), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / statistics.median(seconds_of(lambda: target.copy_(source), device) for _ in range(repeats))


def draw(entries: list[dict[str, Any]], path: str) -> None:
    """Pairs per second of every contender, one row of bars a case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(entry["name"] for entry in entries if entry["unit"] == "µs"))
    figure, axes = pyplot.subplots(len(names), 1, figsize=(9, 2.2 * len(names)), squeeze=False)
    for axis, name in zip(axes[:, 0], names, strict=True):
        own = [entry for entry in entries if entry["name"] == name and "labelling" not in entry["contender"]]
        colors = ["#4c78a8" if entry["contender"].startswith(("align", "fused")) else "#bbbbbb" for entry in own]
        bars = axis.barh([e["contender"] for e in own], [e["pairs_per_second"] for e in own], color=colors)
        axis.bar_label(bars, fmt="%.3g", padding=3)
        axis.set_xscale("log")
        axis.margins(x=0.2)
        axis.invert_yaxis()
        axis.set_title(f"{name}: pairs per second", loc="left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=7, help="runs of every contender (default 7)")
    parser.add_argument("--quick", action="store_true", help="few small cases")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out, which takes a while to start"
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="nothing is begun after so many (default: no limit)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there, anew after every case")
    parser.add_argument("--record", metavar="FILE", help="append a line of JSON to it for every figure once it is made")
    parser.add_argument("--csv", metavar="FILE", help="write the figures there too, a row a figure")
    parser.add_argument("--picture", metavar="FILE", help="draw them into a PNG")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is there; leave it out for the CPU")

    device = arguments.device
    figures = Figures(Record(arguments.record), time.monotonic() + 60 * arguments.minutes)
    here = environment(device)
    copy = copy_rate(device, arguments.repeats)
    here["copy_gigabytes_per_second"] = copy / 1e9
    figures.record.add("environment", here)
    print(", ".join(f"{key} {value}" for key, value in here.items()))
    for case in cases(device, arguments.quick):
        if not figures.time_is_up(case.name):
            measure(case, figures, arguments.repeats, device, copy, not arguments.no_compile)
        if arguments.json:
            content = {"environment": here, "figures": figures.entries, "left_out": figures.left_out}
            write_whole(arguments.json, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if arguments.csv:
        write_table(figures.entries, arguments.csv)
    if arguments.picture:
        draw(figures.entries, arguments.picture)


def write_whole(path: str, text: str) -> None:
    """Replace a file: whoever reads it, at any time, finds all of one version."""
    beside = Path(f"{path}.new")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_table(entries: list[dict[str, Any]], path: str) -> None:
    rows = [{k: v for k, v in entry.items() if k != "ratio_to"} for entry in entries]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
