"""A cost model of the training step on a GPU that can be wrong: `python -m pipeline.benchmark.step_model [--json FILE]`.

Launches, bytes and operations are counted (`step_count`); seconds follow from the constants below, which are an H200's as
measured elsewhere or read from data sheets. Nothing here was measured by this project: a measured step that differs says, part
by part, which constant is wrong.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from data_prep.files import check_output, write_text
from data_prep.standard_output import print_table, put
from pipeline import command_line
from pipeline.benchmark.step_count import MicroStep, Work, bytes_a_logit, count_micro_step
from pipeline.settings.sizes import EncoderConfig, count_parameters
from pipeline.watch.hardware import PEAK_HALF_FLOPS

ALIGNMENT_LAYER = 10
SIDES = (25, 30)
"""Tokens of a pair's source and target, the means of Multi30k and TICO-19."""
ADAM_BYTES = 30
"""Of a parameter in an update: gradient, master copy and two moments read, these and the half-precision weight written."""
BACKWARD_OF_ATTENTION = 2.5
"""Products of attention's backward for one of its forward: it computes scores again."""


@dataclass(frozen=True)
class Device:
    """What the seconds follow from."""

    copied: float = 4.3e12
    """Bytes a second that a copy reads and writes."""
    multiplied: float = 790e12
    """Operations a second of a large bf16 product."""
    attended: float = 300e12
    """Operations a second of attention over sequences of any lengths."""
    least: float = 2.5e-6
    """Seconds of a kernel with next to nothing to do."""
    called: float = 8e-6
    """Seconds of the host for a launch."""
    peak: float = PEAK_HALF_FLOPS["H200"]


@dataclass(frozen=True)
class Part:
    """A part of a micro-step."""

    name: str
    launches: float
    tflop: float
    gigabytes: float
    milliseconds: float


@dataclass(frozen=True)
class Recipe:
    """A micro-step to be counted, of XLM-R base with the released recipe's objectives."""

    mono: int = 16
    pairs: int = 16
    block_tokens: int = 512
    micro_steps: int = 16
    vocabulary: int = 250_002

    @property
    def sizes(self) -> EncoderConfig:
        return EncoderConfig(vocab_size=self.vocabulary)

    def counted(self) -> MicroStep:
        return count_micro_step(self.sizes, [self.block_tokens] * self.mono, [SIDES] * self.pairs, ALIGNMENT_LAYER)

    def attention(self, labelling: bool) -> float:
        """Operations of attention in one forward of labelling, or of all."""
        pairs = self.pairs * (sum(SIDES) + 3) ** 2
        tokens_squared = pairs if labelling else pairs + self.mono * self.block_tokens**2
        return (ALIGNMENT_LAYER if labelling else self.sizes.layers) * 4.0 * self.sizes.hidden * tokens_squared


def part_of(name: str, work: Work, device: Device, attention: float, together: int = 1) -> Part:
    """Every call takes as long as its slowest side. attention: operations of all its calls; together: micro-steps in one."""
    attends = [launch.name.startswith("_flash_attention") for launch in work.launches]
    each = attention / max(sum(attends), 1)
    seconds = sum(
        max(
            device.least / together,
            launch.moved / device.copied,
            launch.flops / device.multiplied,
            each / device.attended if is_attention else 0.0,
        )
        for launch, is_attention in zip(work.launches, attends, strict=True)
    )
    flops = attention + sum(launch.flops for launch in work.launches)
    moved = sum(launch.moved for launch in work.launches)
    return Part(name, len(attends) / together, flops / 1e12, moved / 1e9, seconds * 1e3)


def parts_of(recipe: Recipe, counted: MicroStep, device: Device) -> list[Part]:
    """Labelling of all micro-batches at once, forward, backward that adds gradients, and the update: shares of a micro-step."""
    sizes, whole = recipe.sizes, recipe.attention(labelling=False)
    parameters = count_parameters(sizes, 3 * sizes.hidden**2 + sizes.vocab_size)["total"]
    update = ADAM_BYTES * parameters / recipe.micro_steps
    return [
        part_of("label", counted.label, device, recipe.attention(labelling=True), recipe.micro_steps),
        part_of("forward", counted.forward, device, whole),
        part_of("backward", counted.backward, device, BACKWARD_OF_ATTENTION * whole),
        Part("update", 0, 0, update / 1e9, update / device.copied * 1e3),
    ]


def as_json(recipe: Recipe, device: Device) -> dict[str, Any]:
    """Everything that is shown."""
    counted = recipe.counted()
    parts = parts_of(recipe, counted, device)
    on_gpu, on_host = (
        sum(part.milliseconds for part in parts),
        1e3 * device.called * sum(part.launches for part in parts),
    )
    seconds = max(on_gpu, on_host) / 1e3
    return {
        "recipe": asdict(recipe),
        "device": asdict(device),
        "parts": [asdict(part) for part in parts],
        "launches": counted.launches(recipe.micro_steps),
        "launches_that_add_gradients": counted.accumulating,
        "bytes_a_logit": bytes_a_logit(2048, 1024, 64),
        "milliseconds_on_gpu": on_gpu,
        "milliseconds_on_host": on_host,
        "tokens_per_second": counted.tokens / seconds,
        "mfu": counted.flops / seconds / device.peak,
    }


def table_of(found: dict[str, Any]) -> Table:
    table = Table("part", "launches", "TFLOP", "GB", "ms", title="A micro-step as modelled, not measured")
    for part in found["parts"]:
        figures = (f"{part[name]:,.2f}" for name in ("tflop", "gigabytes", "milliseconds"))
        table.add_row(part["name"], f"{part['launches']:,.0f}", *figures)
    return table


def benchmark(
    mono: Annotated[int, typer.Option(min=1, help="Blocks of a micro-step.")] = 16,
    pairs: Annotated[int, typer.Option(min=1, help="Pairs of a micro-step.")] = 16,
    micro_steps: Annotated[int, typer.Option(min=1, help="Micro-steps of a step.")] = 16,
    copied: Annotated[float, typer.Option(help="TB/s that a copy reads and writes.")] = Device.copied / 1e12,
    multiplied: Annotated[float, typer.Option(help="TFLOP/s of a large product.")] = Device.multiplied / 1e12,
    attended: Annotated[float, typer.Option(help="TFLOP/s of attention.")] = Device.attended / 1e12,
    called: Annotated[float, typer.Option(help="Microseconds of the host for a launch.")] = Device.called * 1e6,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here.")] = None,
) -> None:
    """Launches, operations, bytes and seconds of a micro-step on an H200, by constants that a measurement may replace.

    Example: python -m pipeline.benchmark.step_model --mono 64 --pairs 64 --micro-steps 4
    """
    if json_file is not None:
        check_output(json_file)
    rates = {"copied": copied * 1e12, "multiplied": multiplied * 1e12, "attended": attended * 1e12}
    found = as_json(Recipe(mono, pairs, micro_steps=micro_steps), Device(**rates, called=called / 1e6))
    print_table(table_of(found))
    put(
        f"{found['milliseconds_on_gpu']:.1f} ms on the GPU, {found['milliseconds_on_host']:.1f} ms on the host to launch it; "
        f"{found['tokens_per_second']:,.0f} tokens/s, {found['mfu']:.0%} of the peak\n"
        f"{found['launches']:,.0f} launches and {found['launches_that_add_gradients']} that add gradients; "
        f"{sum(found['bytes_a_logit'].values()):.0f} bytes a logit"
    )
    if json_file is not None:
        write_text(json_file, json.dumps(found, indent=1) + "\n")


def main() -> None:
    command_line.run_one(benchmark)


if __name__ == "__main__":
    main()
