"""What aligning a batch of pairs takes beside the forward that feeds it.

    python -m pipeline.benchmark.labelling [--device cuda] [--json FILE]

The encoder is an XLM-R base of random weights; `align` reads the hidden states that its forward gave. Both run in turns, the
figure is the median of their paired ratios.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import torch
import typer

from data_prep.files import check_output, write_text
from data_prep.standard_output import put
from pipeline import command_line
from pipeline.data.packing import Packed, pack_flat
from pipeline.model.encoder import Encoder
from pipeline.settings.sizes import EncoderConfig
from sinkhorn_align import Spans, align

VOCABULARY = 30_000
LOG_LENGTH, LOG_LENGTH_SPREAD, LOG_RATIO, LOG_RATIO_SPREAD = 3.03, 0.58, 0.17, 0.21
"""XLM-R tokens a side as `kernels/benchmark.py` draws them, after Multi30k and TICO-19: mean and spread of the source side's
log length, and of the log of target over source."""


def draw(pairs: int) -> tuple[Packed, Spans]:
    """Pairs `<s> source </s> target </s>` of random tokens, and where their sides lie."""
    generator = torch.Generator().manual_seed(2)
    log_length_B = LOG_LENGTH + LOG_LENGTH_SPREAD * torch.randn(pairs, generator=generator)
    log_ratio_B = LOG_RATIO + LOG_RATIO_SPREAD * torch.randn(pairs, generator=generator)
    source_B, target_B = (
        log_B.exp().round().int().clamp(1, 254) for log_B in (log_length_B, log_length_B + log_ratio_B)
    )
    sequence_B = (source_B + target_B + 3).long()
    first_B = (sequence_B.cumsum(0) - sequence_B).int()
    ids_T = torch.randint(4, VOCABULARY, (int(sequence_B.sum()),), generator=generator)
    packed = pack_flat(ids_T.numpy(), sequence_B.numpy())
    return packed, Spans(first_B + 1, source_B, first_B + 2 + source_B, target_B)


def seconds_of(run: Callable[[], object], device: str) -> float:
    """One run, from an idle device to an idle device."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def measure(pairs: int, repeats: int, device: str) -> tuple[list[float], list[float]]:
    """Seconds of every run: of the forward, and of the whole call of `align`. bf16 on a GPU, else fp32."""
    packed, spans = draw(pairs)
    packed = packed.to(torch.device(device))
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    encoder = Encoder(EncoderConfig(vocab_size=VOCABULARY)).to(device, dtype).eval()
    hidden_TD = encoder(packed)
    align(hidden_TD, spans)  # the first call compiles
    forward: list[float] = []
    call: list[float] = []
    for _ in range(repeats):
        forward.append(seconds_of(lambda: encoder(packed), device))
        call.append(seconds_of(lambda: align(hidden_TD, spans), device))
    return forward, call


def benchmark(
    pairs: Annotated[int, typer.Option(min=1, help="pairs in the batch, of real lengths")] = 256,
    repeats: Annotated[int, typer.Option(min=1, help="runs of both")] = 3,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="where both run")] = "cpu",
    json_file: Annotated[Path | None, typer.Option("--json", help="write the figure there")] = None,
) -> None:
    """Time aligning a batch of pairs beside the forward of the 12 x 768 encoder that feeds it.

    Example: python -m pipeline.benchmark.labelling --device cuda --json share.json
    """
    if json_file is not None:
        check_output(json_file)
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device is there; leave it out for the CPU")
    forward, call = measure(pairs, repeats, device)
    share = median(aligning / feeding for aligning, feeding in zip(call, forward, strict=True))
    name = f"align / forward of 12 x 768 on {pairs} pairs of real lengths"
    put(f"{name}: {share:.2%} ({median(forward):.2f} s)")
    if json_file is not None:
        entry = {"name": name, "contender": "align", "value": share, "unit": "share", "ratio_to": {}}
        write_text(json_file, json.dumps([entry], indent=1) + "\n")


def main() -> None:
    command_line.run_one(benchmark)


if __name__ == "__main__":
    main()
