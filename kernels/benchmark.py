"""Times `align` against its peers on the same pairs, after checking that all find the same links.

    python kernels/benchmark.py [--device cuda] [--quick] [--json FILE] [--csv FILE] [--picture FILE]

The same command on CPU and GPU; what a machine cannot run is left out with a line. Contenders run in turns, a figure is the
median over repeats, a ratio that of paired repeats. GB/s counts every hidden state once, whatever a contender reads.
"""

import argparse
import csv
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
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
    released_labels,
    released_product,
)

from sinkhorn_align import AlignmentSettings, Spans, align
from sinkhorn_align import Links as Answer
from sinkhorn_align.cpu.native import align_native

LARGEST_DISAGREEMENT = 0.002
"""Share of links that fp32 may place elsewhere than the float64 reference, where two candidates are all but equal."""
LOG_LENGTH, LOG_LENGTH_SPREAD, LOG_RATIO, LOG_RATIO_SPREAD = 3.03, 0.58, 0.17, 0.21
"""XLM-R tokens a side of 12,000 pairs of Multi30k en-de, en-cs and TICO-19 en-fr, en-hi: mean and spread of the source
side's log length, and of the log of target over source."""
OURS, OURS_LABELS = "align", "align, labelling alone"
RELEASED, RELEASED_LABELS = "released", "released, labelling alone"
Run = Callable[[], object]


@dataclass
class Contender:
    """What is timed; `links` turns its result into links to check, None where it gives none."""

    run: Run
    links: Callable[[Any], Links] | None = None


@dataclass
class Figures:
    """The entries of the JSON file, and what was left out."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, what: str) -> None:
        if what not in self.left_out:
            self.left_out.append(what)
            print(f"left out: {what}", flush=True)


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


def cases(device: str, quick: bool) -> list[Case]:
    """Ragged pairs with the lengths of real corpora, then pairs of one length."""
    found = []
    for pairs, width in (
        [(32, 384), (256, 768)] if quick or device == "cpu" else [(256, 768), (2048, 768), (2048, 1024)]
    ):
        generator = torch.Generator().manual_seed(2)
        log_length_B = LOG_LENGTH + LOG_LENGTH_SPREAD * torch.randn(pairs, generator=generator)
        log_ratio_B = LOG_RATIO + LOG_RATIO_SPREAD * torch.randn(pairs, generator=generator)
        sides = [torch.exp(log_B).round().long().clamp(1, 254) for log_B in (log_length_B, log_length_B + log_ratio_B)]
        found.append(make_case(f"{pairs} pairs of real lengths, width {width}", *sides, width, device))
    lengths = (32,) if quick else (16, 64, 128) if device == "cpu" else (16, 32, 64, 128, 256)
    for length in lengths:
        length_B = torch.full((64 if device == "cpu" else 2048,), length)
        found.append(
            make_case(f"{len(length_B)} pairs of {length} x {length}, width 768", length_B, length_B, 768, device)
        )
    return found


def contenders(case: Case, figures: Figures, compiled: bool) -> dict[str, Contender]:
    """What is timed on a case, by name."""
    settings, cuda = AlignmentSettings(), case.hidden_TD.is_cuda
    found = {OURS: Contender(lambda: align(case.hidden_TD, case.spans, settings), links_of_answer)}
    padded_BLD = padded_sequences(case)
    gram_BLL = released_product(padded_BLD)
    as_given = {"links": lambda links: links}
    found[RELEASED] = Contender(lambda: released_labels(case, released_product(padded_BLD)), **as_given)
    found[RELEASED_LABELS] = Contender(lambda: released_labels(case, gram_BLL), **as_given)
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
    expected = links_of_answer(align(case.hidden_TD.cpu(), case.spans, AlignmentSettings(), backend="reference"))
    kept = {}
    for name, contender in running.items():
        answer = contender.run()
        if contender.links:
            differing = len(contender.links(answer) ^ expected) / len(expected)
            if differing > LARGEST_DISAGREEMENT:
                figures.leave_out(f"{name} on {case.name}: {differing:.1%} of its links are not the reference's")
                continue
        kept[name] = contender
    return kept


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
    for _ in range(repeats):
        for name, contender in running.items():
            seconds[name].append(seconds_of(contender.run, device))
    pairs = case.spans.pairs
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
        if device == "cuda":
            entry["launches"], entry["syncs"] = launches_and_syncs(running[name].run)
        figures.entries.append(entry)
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


def environment(device: str) -> dict[str, Any]:
    """What a figure depends on besides the code."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    return {
        "device": name,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "commit": commit.stdout.strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeats", type=int, default=7, help="runs of every contender (default 7)")
    parser.add_argument("--quick", action="store_true", help="few small cases")
    parser.add_argument(
        "--no-compile", action="store_true", help="leave torch.compile out, which takes a while to start"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    parser.add_argument("--csv", metavar="FILE", help="and there, a row a figure")
    parser.add_argument("--picture", metavar="FILE", help="draw them into a PNG")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is there; leave it out for the CPU")

    figures, device = Figures(), arguments.device
    here = environment(device)
    copy = copy_rate(device, arguments.repeats)
    print(", ".join(f"{key} {value}" for key, value in here.items()), f"copy {copy / 1e9:.1f} GB/s", sep=", ")
    for case in cases(device, arguments.quick):
        measure(case, figures, arguments.repeats, device, copy, not arguments.no_compile)
    if arguments.json:
        content = {"environment": {**here, "copy_gigabytes_per_second": copy / 1e9}, "figures": figures.entries}
        content["left_out"] = figures.left_out
        Path(arguments.json).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.csv:
        rows = [{k: v for k, v in entry.items() if k != "ratio_to"} for entry in figures.entries]
        with open(arguments.csv, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
    if arguments.picture:
        draw(figures.entries, arguments.picture)


if __name__ == "__main__":
    main()
