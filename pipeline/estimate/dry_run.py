"""What a config would train, before anything is trained: parameters, memory per rank, operations, tokens, days.

Reads the config, and the token files' manifest where they exist; makes no weights, starts no ranks, and needs PyTorch only to
look into a pretrained model or at what a validation encodes.

- Operations of a step: those of a sample of its blocks and pairs by `flops`, times the batch over the sample.
- Days: steps × operations / (GPUs × the data sheet's half-precision peak × utilisation) / 86,400; on a CPU the peak is what a
  product of matrices reaches here, which all ranks share.
- Memory: see `memory_estimate`.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from data_prep.token_files.manifest import Manifest
from pipeline.data.of_config import blend_stages, limits_of, mixing_of
from pipeline.data.streams import BatchPlan, Sequences, open_streams
from pipeline.data.views.masking import mask_sequences
from pipeline.estimate.filling import Filling, fewest_micro_steps
from pipeline.estimate.memory import StepWork, memory_per_rank
from pipeline.objectives import catalog
from pipeline.objectives.costs import Costs
from pipeline.settings.added_words import words_of
from pipeline.settings.deepspeed_json import check_fits, load_deepspeed_json, precision_of
from pipeline.settings.schema import Config
from pipeline.settings.sizes import EncoderConfig, count_parameters, scratch_sizes, with_decoder
from pipeline.watch.hardware import MEMORY, PEAK_HALF_FLOPS
from pipeline.weights.fit import check_sizes

DEVICES = {name.lower().replace(" ", "-"): peak for name, peak in PEAK_HALF_FLOPS.items()}
MEMORIES = {name.lower().replace(" ", "-"): memory for name, memory in MEMORY.items()}
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
    encoder_passes: float  # of a micro-step, to learn
    drawing_parameters: int  # that labelling reads beside the encoder's layers
    tokens_per_step: dict[str, float]
    flops_per_step: float
    steps: int
    days: float | None
    memory: dict[int, dict[str, float]]  # bytes by stage, then by what they are for
    notes: list[str] = field(default_factory=list)
    exchanged: float = 0.0
    """Bytes of a step that objectives have all ranks tell each other, before losses."""
    averaged: int = 0
    """Parameters that objectives need whole on every rank after a step."""
    labelled_layers: int = 0
    """Layers of the trained encoder that labelling runs, where it does not label words."""
    filling: Filling | None = None
    """The fewest micro-steps that fit the device's memory at this config's stage; None where it is not known, or none do."""

    def as_json(self) -> dict[str, Any]:
        tokens = sum(self.tokens_per_step.values())
        return {**asdict(self), "tokens": tokens * self.steps, "flops": self.flops_per_step * self.steps}


@dataclass(frozen=True)
class _Sample:
    """Samples of a stream that stand for a step's: their lengths in tokens, and how many of these are masked."""

    lengths_S: np.ndarray
    predicted: int
    sides_C: np.ndarray
    """Of pairs, the tokens of every source and target in turn; of blocks, none."""
    of_step: int
    """How many samples the stream has in a step."""

    @property
    def tokens(self) -> int:
        return int(self.lengths_S.sum())


def dry_run(config: Config, device: str, gpus: int, utilisation: float, pair_tokens: int) -> DryRun:
    """Work everything out; ValueError where training would refuse the config too.

    pair_tokens: tokens of a mean pair, where there are no token files to tell.
    """
    _check_arguments(device, gpus, utilisation, pair_tokens)
    settings = load_deepspeed_json(config.deepspeed)
    check_fits(config.deepspeed, settings, "cpu" if device == "cpu" else "cuda", config.optimizer.adam)
    sizes, samples, notes = _sizes_and_samples(config, pair_tokens)
    plan = BatchPlan({name: getattr(config.batch, name) for name in samples}, gpus, config.batch.micro_steps)
    parameters = count_parameters(sizes, catalog.count_parameters(config.objectives, sizes))
    scale = {name: plan.global_sizes[name] / len(sample.lengths_S) for name, sample in samples.items()}
    tokens = {name: scale[name] * sample.tokens for name, sample in samples.items()}
    flops = sum(
        scale[name] * catalog.flops(config.objectives, name, sizes, sizes.layers, sample)
        for name, sample in samples.items()
    )

    def of_micro_steps(count: int) -> tuple[StepWork, dict[str, Costs]]:
        return _work(config, gpus * count, plan, sizes, parameters["total"], samples, scale)

    work, costs = of_micro_steps(config.batch.micro_steps)
    precision = precision_of(settings)
    days, told = _days(config.run.steps * flops, device, gpus, utilisation, precision)
    notes += told
    notes += _validation_notes(config)
    stage = settings.get("zero_optimization", {}).get("stage", 0)

    def total(micro_steps: int) -> float:
        return memory_per_rank(of_micro_steps(micro_steps)[0], settings, stage)["total"]

    filling = None if device == "cpu" else fewest_micro_steps(total, plan.global_sizes.values(), gpus, MEMORIES[device])
    if filling is None and device != "cpu":
        notes.append(f"not even one sample of a stream at a time fits a {device}: take a higher ZeRO stage, or offload")
    # fp16 does not train at stage 0.
    stages = range(1 if precision == "fp16" else 0, 4)
    return DryRun(
        device=device,
        gpus=gpus,
        utilisation=utilisation,
        precision=precision,
        stage=stage,
        parameters=parameters,
        layers=sizes.layers,
        encoder_passes=catalog.denoises(config.objectives) + sum(of_stream.own_passes for of_stream in costs.values()),
        drawing_parameters=sum(of_stream.drawing for of_stream in costs.values()),
        tokens_per_step=tokens,
        flops_per_step=flops,
        steps=config.run.steps,
        days=days,
        memory={stage: memory_per_rank(work, settings, stage) for stage in stages},
        notes=notes,
        exchanged=sum(of_stream.exchanged for of_stream in costs.values()),
        averaged=sum(of_stream.averaged for of_stream in costs.values()),
        labelled_layers=max(of_stream.labelled_layers for of_stream in costs.values()),
        filling=filling,
    )


def _days(flops: float, device: str, gpus: int, utilisation: float, precision: str) -> tuple[float | None, list[str]]:
    """Days of so many operations, None where they are not known, and what is to be said of them."""
    if device == "cpu":
        peak = cpu_flops()
        said = (
            f"days: this machine made {peak / 1e9:,.0f} GFLOP/s in a product of matrices, measured just now; that training "
            f"makes {utilisation:.0%} of it is assumed (--utilisation; narrow models make less)"
        )
        return flops / (peak * utilisation) / 86_400, [said]
    if precision == "fp32":
        return None, ["no days: the peaks of GPUs are known in half precision, not in fp32"]
    return flops / (gpus * DEVICES[device] * utilisation) / 86_400, []


def _work(
    config: Config,
    parts: int,
    plan: BatchPlan,
    sizes: EncoderConfig,
    parameters: int,
    samples: dict[str, _Sample],
    scale: dict[str, float],
) -> tuple[StepWork, dict[str, Costs]]:
    """What a rank works on in a micro-step, and what objectives take of each stream.

    parts: micro-steps of all ranks; scale: how many samples of a stream a step has for one of these.
    """
    costs = {
        name: catalog.costs(config.objectives, name, sizes, plan.global_sizes[name] / parts, plan.global_sizes[name])
        for name in samples
    }
    share = {name: scale[name] / parts for name in samples}
    passes = {name: costs[name].backward_share for name in samples}
    pairs = {name: float((sample.lengths_S.astype(np.float64) ** 2).sum()) for name, sample in samples.items()}
    work = StepWork(
        sizes=sizes,
        parameters=parameters,
        word_calls=catalog.predicting_words(config.objectives),
        tokens=sum(share[name] * sample.tokens * passes[name] for name, sample in samples.items()),
        predicted=sum(share[name] * sample.predicted for name, sample in samples.items()),
        ranks=plan.world_size,
        micro_steps=parts // plan.world_size,
        replicated=sum(of_stream.replicated for of_stream in costs.values()),
        compared=sum(of_stream.compared for of_stream in costs.values()),
        pairs_of_tokens=sum(share[name] * count * passes[name] for name, count in pairs.items()),
    )
    return work, costs


def cpu_flops(width: int = 1024, seconds: float = 0.3) -> float:
    """Operations a second that products of fp32 matrices reach here, on as many threads as NumPy takes: the best of some."""
    left = right = np.ones((width, width), np.float32)
    left @ right
    best, end = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < end:
        began = time.perf_counter()
        left @ right
        best = max(best, 2 * width**3 / (time.perf_counter() - began))
    return best


def _check_arguments(device: str, gpus: int, utilisation: float, pair_tokens: int) -> None:
    if device not in (*DEVICES, "cpu"):
        raise ValueError(f"--device {device}: not listed; choose one of {', '.join(DEVICES)}, cpu")
    if gpus < 1:
        raise ValueError(f"--gpus {gpus}: at least one is needed")
    if not 0 < utilisation <= 1:
        raise ValueError(f"--utilisation {utilisation}: a share of the peak, above 0 and at most 1")
    if pair_tokens < 5:
        raise ValueError(f"--pair-tokens {pair_tokens}: a pair has at least 5, three of them special")


def _sizes_and_samples(config: Config, pair_tokens: int) -> tuple[EncoderConfig, dict[str, _Sample], list[str]]:
    """The model's sizes, a sample of each stream that is read, and what had to be assumed."""
    init, notes = config.model.init, []
    manifest = Manifest.load(config.data.path) if config.data.path.exists() else None
    sizes = None if init is None else _pretrained_sizes(config)
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
    if config.model.keep_layers is not None:
        sizes = replace(sizes, layers=config.model.keep_layers)
    if manifest is not None:
        sizes = replace(sizes, vocab_size=words_of(config, manifest).vocab_size)
    sizes = with_decoder(sizes, config)
    catalog.check_layers(config.objectives, sizes.layers)
    streams = catalog.streams(config.objectives)
    counts = {name: min(SAMPLE, getattr(config.batch, name)) for name in streams}
    if manifest is not None:
        stages = {name: blend_stages(config, name) for name in streams}
        opened = open_streams(
            manifest,
            streams,
            alpha=config.data.alpha,
            seed=config.run.seed,
            limits=limits_of(config),
            stages=stages,
            mixing=mixing_of(config),
            with_links=catalog.reads_links(config.objectives),
        )
        drawn = {name: stream.samples(np.arange(counts[name])) for name, stream in opened.items()}
        return (
            sizes,
            {
                name: _sample(sequences, config.run.seed, vocabulary, getattr(config.batch, name))
                for name, sequences in drawn.items()
            },
            notes,
        )
    side = min((pair_tokens - 3) // 2, config.data.side_tokens)
    mixed = side if mixing_of(config) == "none" else 2 * side + 1
    lengths = {"mono": config.data.block_tokens, "pairs": 2 * side + 3, "contrast": 2 * mixed + 3}
    notes += [f"{config.data.path} is not there: assumed {name} of {lengths[name]} tokens each" for name in streams]
    sides = {"mono": None, "pairs": side, "contrast": mixed}
    made_up = {
        name: _made_up(lengths[name], counts[name], vocabulary, sides[name], getattr(config.batch, name))
        for name in streams
    }
    return sizes, made_up, notes


def _pretrained_sizes(config: Config) -> EncoderConfig:
    from pipeline.weights.pretrained import read_sizes  # reads models, and with that needs PyTorch

    assert config.model.init is not None
    return read_sizes(config.model.init, config.model.dropout)


def _validation_notes(config: Config) -> list[str]:
    """What every rank encodes at a validation, beside held-out token files; what is wrong with it, as it may come later."""
    if not config.validation.every:
        return []
    if not config.validation.gold and not config.validation.retrieval:
        return []
    from pipeline.evaluate.validation_texts import read_texts  # which needs PyTorch

    try:
        golds, sentences = read_texts(config.validation)
    except ValueError as error:
        return [f"validation: {error}"]
    pairs, translations = sum(map(len, golds.values())), sum(len(pair.read()[1]) for pair in sentences)
    if not pairs and not translations:
        return []
    what = f"{pairs:,} gold pairs and {translations:,} sentences with their translations"
    return [f"validation every {config.validation.every:,} steps: each rank encodes {what}, all layers"]


def _made_up(length: int, count: int, vocabulary: int, side: int | None, of_step: int) -> _Sample:
    """Sequences of this length of one word, masked as any. side: tokens of a side, of pairs."""
    word = min(10, vocabulary - 2)
    ids_T = np.tile(np.array([0, *[word] * (length - 2), 2], dtype=np.int64), count)
    numbers = np.arange(count)
    sides_S2 = None if side is None else np.full((count, 2), side)
    languages, keys = np.zeros(count, np.int32), numbers.astype(np.uint64)
    sequences = Sequences(ids_T, np.full(count, length), languages, keys, numbers, sides_S2)
    return _sample(sequences, 1, vocabulary, of_step)


def _sample(sequences: Sequences, mask_seed: int, vocabulary: int, of_step: int) -> _Sample:
    sides_S2 = sequences.side_lengths_S2
    sides_C = np.empty(0, np.int64) if sides_S2 is None else sides_S2.reshape(-1)
    return _Sample(sequences.lengths_S, len(mask_sequences(sequences, mask_seed, vocabulary)[1]), sides_C, of_step)


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
        where = "this CPU" if result.device == "cpu" else f"{result.gpus} × {result.device}"
        where += f" at {result.utilisation:.0%} of the peak"
        facts.add_row(f"days on {where}", f"{result.days:,.2f}")
    if result.filling is not None:
        facts.add_row(f"micro-steps that fill a {result.device}", str(result.filling))
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
