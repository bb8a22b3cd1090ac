"""What a config would train, before anything is trained: parameters, memory per rank, operations, tokens, days.

Reads the config, and the token files' manifest where they exist; makes no weights and starts no ranks.

- Operations of a step: those of a sample of its blocks and pairs by `flops`, times the batch over the sample.
- Days: steps × operations / (GPUs × the data sheet's half-precision peak × utilisation) / 86,400.
- Memory: see `memory_estimate`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from rich.console import Group
from rich.table import Table

from data_prep.manifest import Manifest
from pipeline.batch import MicroBatch, StreamBatch
from pipeline.build import build_data, build_objectives, check_sizes, deepspeed_settings, scratch_sizes
from pipeline.config import Config
from pipeline.data import BatchPlan, Sequences, collate
from pipeline.flops import PEAK_HALF_FLOPS
from pipeline.memory_estimate import Work, memory_per_rank
from pipeline.model import Encoder, EncoderConfig, PretrainingModel
from pipeline.objectives.base import Objective
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.precision import precision_of
from pipeline.pretrained import read_sizes
from pipeline.validate import read_texts

DEVICES = {name.lower().replace(" ", "-"): peak for name, peak in PEAK_HALF_FLOPS.items()}
SAMPLE = 128  # blocks and pairs that stand for the step's
XLMR_VOCABULARY = 250_002


@dataclass
class DryRun:
    """Everything that is shown; `as_json` is what --json prints."""

    device: str
    gpus: int
    utilisation: float
    precision: str
    stage: int
    parameters: dict[str, int]
    layers: int
    tokens_per_step: dict[str, float]
    flops_per_step: float
    steps: int
    days: float | None
    memory: dict[int, dict[str, float]]  # bytes by stage, then by what they are for
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        tokens = sum(self.tokens_per_step.values())
        return {**asdict(self), "tokens": tokens * self.steps, "flops": self.flops_per_step * self.steps}


def dry_run(config: Config, device: str, gpus: int, utilisation: float, pair_tokens: int) -> DryRun:
    """Work everything out; ValueError where training would refuse the config too.

    pair_tokens: tokens of a mean pair, where there are no token files to tell.
    """
    _check_arguments(device, gpus, utilisation, pair_tokens)
    objectives = build_objectives(config)
    sizes, samples, notes = _sizes_and_samples(config, objectives, pair_tokens)
    plan = BatchPlan({name: getattr(config.batch, name) for name in samples}, gpus, config.batch.micro_steps)
    settings = deepspeed_settings(config, plan, "cpu" if device == "cpu" else "cuda")
    with torch.device("meta"):
        model = PretrainingModel(Encoder(sizes), objectives)
    scale = {name: plan.global_sizes[name] / len(stream.sample_S) for name, stream in samples.items()}
    tokens = {name: scale[name] * stream.masked.tokens for name, stream in samples.items()}
    flops = sum(scale[name] * model.flops(MicroBatch({name: stream})) for name, stream in samples.items())
    parts = gpus * config.batch.micro_steps
    work = Work(
        sizes=sizes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        word_objectives=sum(isinstance(objective, MaskedLM) for objective in objectives),
        tokens=sum(tokens.values()) / parts,
        predicted=max(scale[name] * len(stream.predicted_P) for name, stream in samples.items()) / parts,
        ranks=gpus,
        micro_steps=config.batch.micro_steps,
    )
    precision = precision_of(settings)
    days = None
    if precision == "fp32" or device == "cpu":
        notes.append("no days: peaks are known of half precision on GPUs, not of fp32 or CPUs")
    else:
        days = config.run.steps * flops / (gpus * DEVICES[device] * utilisation) / 86_400
    notes += _validation_notes(config)
    # fp16 does not train at stage 0.
    stages = range(1 if precision == "fp16" else 0, 4)
    return DryRun(
        device=device,
        gpus=gpus,
        utilisation=utilisation,
        precision=precision,
        stage=settings.get("zero_optimization", {}).get("stage", 0),
        parameters=_count(model),
        layers=sizes.layers,
        tokens_per_step=tokens,
        flops_per_step=flops,
        steps=config.run.steps,
        days=days,
        memory={stage: memory_per_rank(work, settings, stage) for stage in stages},
        notes=notes,
    )


def _check_arguments(device: str, gpus: int, utilisation: float, pair_tokens: int) -> None:
    if device not in (*DEVICES, "cpu"):
        raise ValueError(f"--device {device}: not listed; choose one of {', '.join(DEVICES)}, cpu")
    if gpus < 1:
        raise ValueError(f"--gpus {gpus}: at least one is needed")
    if not 0 < utilisation <= 1:
        raise ValueError(f"--utilisation {utilisation}: a share of the peak, above 0 and at most 1")
    if pair_tokens < 5:
        raise ValueError(f"--pair-tokens {pair_tokens}: a pair has at least 5, three of them special")


def _sizes_and_samples(
    config: Config, objectives: list[Objective], pair_tokens: int
) -> tuple[EncoderConfig, dict[str, StreamBatch], list[str]]:
    """The model's sizes, a sample of each stream that is read, and what had to be assumed."""
    init, notes = config.model.init, []
    manifest = Manifest.load(config.data.path) if config.data.path.exists() else None
    sizes = None if init is None else read_sizes(init, config.model.dropout)
    if manifest is not None:
        vocabulary = manifest.vocab_size
    elif sizes is not None:
        vocabulary = sizes.vocab_size
    else:
        vocabulary = XLMR_VOCABULARY
        notes.append(f"{config.data.path} is not there: assumed XLM-R's vocabulary of {vocabulary:,} words")
    if sizes is None:
        sizes = scratch_sizes(config, vocabulary)
    check_sizes(config, sizes, vocabulary)
    streams = sorted({objective.reads for objective in objectives})
    counts = {name: min(SAMPLE, getattr(config.batch, name)) for name in streams}
    if manifest is not None:
        data = build_data(config, objectives, manifest)
        return sizes, data.micro_batch(BatchPlan(counts, 1, 1), 0, 0, 0).streams, notes
    side = min((pair_tokens - 3) // 2, config.data.side_tokens)
    lengths = {"mono": config.data.block_tokens, "pairs": 2 * side + 3}
    notes += [f"{config.data.path} is not there: assumed {name} of {lengths[name]} tokens each" for name in streams]
    return sizes, {name: _made_up(lengths[name], counts[name], vocabulary) for name in streams}, notes


def _validation_notes(config: Config) -> list[str]:
    """What every rank encodes at a validation, beside held-out token files; what is wrong with it, as it may come later."""
    if not config.validation.every:
        return []
    try:
        golds, sentences = read_texts(config.validation)
    except ValueError as error:
        return [f"validation: {error}"]
    pairs, translations = sum(map(len, golds.values())), sum(len(pair.read()[1]) for pair in sentences)
    if not pairs and not translations:
        return []
    what = f"{pairs:,} gold pairs and {translations:,} sentences with their translations"
    return [f"validation every {config.validation.every:,} steps: each rank encodes {what}, all layers"]


def _made_up(length: int, count: int, vocabulary: int) -> StreamBatch:
    """Sequences of this length of one word, masked as any."""
    word = min(10, vocabulary - 2)
    ids_T = np.tile(np.array([0, *[word] * (length - 2), 2], dtype=np.int64), count)
    numbers = np.arange(count)
    sequences = Sequences(ids_T, np.full(count, length), np.zeros(count, np.int32), numbers.astype(np.uint64), numbers)
    return collate(sequences, 1, vocabulary)


def _count(model: PretrainingModel) -> dict[str, int]:
    """Parameters by part; the vocabulary matrix, which the head shares, counts as embedding."""
    encoder = model.encoder
    total = sum(parameter.numel() for parameter in model.parameters())
    layers = sum(parameter.numel() for parameter in encoder.layers.parameters())
    embedding = sum(parameter.numel() for parameter in encoder.parameters()) - layers
    return {"embeddings": embedding, "layers": layers, "heads": total - embedding - layers, "total": total}


def table(result: DryRun) -> Group:
    """The same for people."""
    facts = Table("what", "value", title="dry run", title_justify="left")
    for name, count in result.parameters.items():
        facts.add_row(f"parameters, {name}", f"{count:,}")
    tokens = sum(result.tokens_per_step.values())
    for name, per_step in result.tokens_per_step.items():
        facts.add_row(f"tokens per step, {name}", f"{per_step:,.0f}")
    facts.add_row("tokens in all", f"{_scaled(tokens * result.steps)} in {result.steps:,} steps")
    facts.add_row("operations per step", f"{_scaled(result.flops_per_step)}FLOP")
    facts.add_row("operations per token", f"{_scaled(result.flops_per_step / tokens)}FLOP")
    if result.days is not None:
        where = f"{result.gpus} × {result.device} at {result.utilisation:.0%} of the peak"
        facts.add_row(f"days on {where}", f"{result.days:,.2f}")
    stages = [f"ZeRO-{stage}" + (" ←" if stage == result.stage else "") for stage in result.memory]
    title = f"GB per rank in {result.precision}, {result.gpus} ranks (← this config)"
    memory = Table("", *stages, title=title, title_justify="left")
    for part in next(iter(result.memory.values())):
        memory.add_row(part, *(f"{by_part[part] / 1e9:,.3f}" for by_part in result.memory.values()))
    return Group(facts, memory, *(f"note: {text}" for text in result.notes))


def _scaled(value: float) -> str:
    """Three digits and a prefix: 1234567 is "1.23 M"."""
    exponent = min(max(len(f"{value:.0f}") - 1, 0) // 3, 6)
    return f"{value / 1000**exponent:.3g} {['', 'k', 'M', 'G', 'T', 'P', 'E'][exponent]}"
