"""Times `align` against the released algorithm and the reference, on the same pairs, after checking that all agree.

Run `python kernels/benchmark.py [--json FILE]`. It knows the package's public call only.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sinkhorn_align import AlignmentSettings, Links, align

LARGEST_DISAGREEMENT = 0.002
"""Share of links that fp32 may place elsewhere than the float64 reference, where two candidates are all but equal."""


@dataclass
class Case:
    """A batch of pairs, packed for `align` and padded for the released algorithm."""

    name: str
    hidden_TD: Tensor
    source_start_B: Tensor
    source_length_B: Tensor
    target_start_B: Tensor
    target_length_B: Tensor

    @property
    def vectors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.source_start_B, self.source_length_B, self.target_start_B, self.target_length_B


def make_case(pairs: int, shortest: int, longest: int, width: int, device: str) -> Case:
    """Pairs whose sides have like lengths and share directions, as hidden states of translations do."""
    generator = torch.Generator().manual_seed(1)
    source_length_B = torch.randint(shortest, longest + 1, (pairs,), generator=generator)
    stretch_B = 0.8 + 0.4 * torch.rand(pairs, generator=generator)
    target_length_B = (source_length_B * stretch_B).long().clamp(1, longest)
    sequence_B = source_length_B + target_length_B + 3  # <s> source </s> target </s>
    first_B = sequence_B.cumsum(0) - sequence_B
    tokens = int(sequence_B.sum())
    meaning_VD = torch.randn(500, width, generator=generator) + 1.5
    word_T = torch.randint(len(meaning_VD), (tokens,), generator=generator)
    hidden_TD = meaning_VD[word_T] + 0.7 * torch.randn(tokens, width, generator=generator)
    starts = (first_B + 1, source_length_B, first_B + 2 + source_length_B, target_length_B)
    name = f"align, {pairs} pairs of {shortest}-{longest} tokens a side, width {width}, fp32, {device}"
    return Case(name, hidden_TD.to(device), *(vector.int().to(device) for vector in starts))


def released(case: Case) -> list[tuple[int, int]]:
    """The released algorithm: a padded batch, the Gram matrix of whole sequences, then pair by pair on the CPU."""
    lengths_B = case.source_length_B + case.target_length_B + 3
    sequences = torch.split(case.hidden_TD, lengths_B.tolist())
    padded_BLD = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
    gram_BLL = torch.bmm(padded_BLD, padded_BLD.transpose(1, 2))
    found: list[tuple[int, int]] = []
    for gram_LL, source, rows, target, columns in zip(gram_BLL, *(v.tolist() for v in case.vectors), strict=True):
        kernel_MN = gram_LL[1 : 1 + rows, 2 + rows : 2 + rows + columns].clamp(min=1e-6).log()
        log_plan_MN = kernel_MN
        for _ in range(2):
            log_plan_MN = log_plan_MN - log_plan_MN.logsumexp(dim=0, keepdim=True)
            log_plan_MN = log_plan_MN - log_plan_MN.logsumexp(dim=1, keepdim=True)
        plan_MN = log_plan_MN.exp().cpu()
        links_MN = mutual_argmax(plan_MN)
        if min(rows, columns) > 2:
            row_MN, column_MN = links_MN.any(1)[:, None], links_MN.any(0)[None, :]
            if not row_MN.all() and not column_MN.all():
                weight_MN = torch.where(row_MN & column_MN, 0.0, torch.where(row_MN | column_MN, 0.9, 1.0))
                links_MN |= mutual_argmax(plan_MN * weight_MN) & ~(row_MN & column_MN)
        found += [(source + i, target + j) for i, j in links_MN.nonzero().tolist()]
    return found


def mutual_argmax(plan_MN: Tensor) -> Tensor:
    """bool [M, N]: cells that are the largest of their row and of their column."""
    rows, columns = plan_MN.shape
    by_row_MN = torch.nn.functional.one_hot(plan_MN.argmax(1), columns)
    by_column_MN = torch.nn.functional.one_hot(plan_MN.argmax(0), rows).T
    return (by_row_MN * by_column_MN).bool()


def contenders(case: Case) -> dict[str, Callable[[], Links | list[tuple[int, int]]]]:
    """What is timed, by name; the reference is first, because the others are checked against it."""
    settings = AlignmentSettings()
    return {
        "reference": lambda: align(case.hidden_TD, *case.vectors, settings, backend="reference"),
        "released": lambda: released(case),
        "torch": lambda: align(case.hidden_TD, *case.vectors, settings, backend="torch"),
    }


def link_set(answer: Links | list[tuple[int, int]]) -> set[tuple[int, int]]:
    if isinstance(answer, list):
        return set(answer)
    round_L, source_L = (answer.links_RT >= 0).nonzero(as_tuple=True)
    return set(zip(source_L.tolist(), answer.links_RT[round_L, source_L].tolist(), strict=True))


def check(case: Case) -> None:
    """Stop unless every contender finds the reference's links, but for near-ties."""
    answers = {name: link_set(run()) for name, run in contenders(case).items()}
    expected = answers["reference"]
    for name, links in answers.items():
        differing = len(links ^ expected) / len(expected)
        if differing > LARGEST_DISAGREEMENT:
            raise SystemExit(f"{case.name}: {differing:.1%} of the links of {name} are not the reference's; not timed")


def measure(case: Case, repeats: int) -> list[dict]:
    """Pairs per second of every contender: medians over repeats, ratios paired within a repeat."""
    pairs = len(case.source_length_B)
    seconds: dict[str, list[float]] = {name: [] for name in contenders(case)}
    for _ in range(repeats):
        for name, run in contenders(case).items():
            synchronize(case)
            start = time.perf_counter()
            run()
            synchronize(case)
            seconds[name].append(time.perf_counter() - start)
    return [
        {
            "name": case.name,
            "contender": name,
            "value": round(pairs / statistics.median(own), 1),
            "unit": "pairs/s",
            "ratio_to": {
                other: round(statistics.median(b / a for a, b in zip(own, theirs, strict=True)), 2)
                for other, theirs in seconds.items()
                if other != name
            },
        }
        for name, own in seconds.items()
    ]


def synchronize(case: Case) -> None:
    if case.hidden_TD.is_cuda:
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python kernels/benchmark.py --json figures.json"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--repeats", type=int, default=7, help="runs of every contender (default 7)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    arguments = parser.parse_args()

    shapes = [(24, 5, 40, 384), (64, 5, 40, 768), (256, 5, 60, 768), (16, 100, 254, 768)]
    figures = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; a ratio above 1 is faster")
    for shape in shapes:
        case = make_case(*shape, device=arguments.device)
        check(case)
        print(case.name)
        for figure in measure(case, arguments.repeats):
            ratios = ", ".join(f"{ratio:.2f} x {other}" for other, ratio in figure["ratio_to"].items())
            print(f"  {figure['contender']:<10} {figure['value']:>9.1f} pairs/s   {ratios}")
            figures.append(figure)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=1)


if __name__ == "__main__":
    main()
