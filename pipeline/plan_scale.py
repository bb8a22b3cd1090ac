"""What a run takes on a number of hosts: memory, bytes between ranks, seconds a step, days; from sizes and link speeds alone.

A small cost model, kept honest by `tests/cluster/measure_plan.py`, which holds it against runs on throttled links. It knows
the config and DeepSpeed's ways of cutting a model; it opens no data and starts nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.table import Table

from pipeline.config import Config, load_deepspeed_json

ADAM_BYTES = 8  # two moments in fp32
MASTER_BYTES = 4  # fp32 weights beside those in half precision
MASKED = 0.15
# fp16/bf16 values that a layer keeps for the backward, in units of hidden; attention keeps no L × L matrix.
KEPT_BY_A_LAYER = 34
CHUNK_OF_LOGITS = (
    64 << 20
)  # bytes of the vocabulary's logits that are there at a time, as linear_cross_entropy makes them
LAYERS_A_BUCKET = 4  # how many layers' gradients or weights travel in one collective
WIRE_OVERHEAD = 1.05  # headers of TCP/IP and acknowledgements


@dataclass(frozen=True)
class Cluster:
    """Ranks, and how fast they are and talk.

    Attributes:
        nodes, gpus: hosts, and ranks on each.
        flops: floating-point operations that a rank does in a second of training (not its data sheet's).
        link: bytes/s that a host sends to others, and likewise receives.
        local_link: bytes/s between ranks of a host.
        latency: seconds that one hop of a collective takes besides its bytes.
        overlap: share of the communication that hides behind the backward.
        scatters: whether a reduce-scatter costs its own half of an all-reduce; gloo makes a whole one of it.
    """

    nodes: int
    gpus: int
    flops: float
    link: float
    local_link: float
    latency: float = 30e-6
    overlap: float = 0.0
    scatters: bool = True

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus


@dataclass(frozen=True)
class Work:
    """What does not depend on the cluster: the model, and the tokens of a step."""

    parameters: int
    encoder: int
    label_share: float  # of the encoder's layers that labelling runs
    vocabulary: int
    hidden: int
    layers: int
    mono_tokens: float
    pair_tokens: float
    micro_steps: int
    steps: int
    stage: int
    value_bytes: int  # of a weight or gradient as it is stored and sent


@dataclass(frozen=True)
class Plan:
    memory: dict[str, float]  # bytes a rank, by what holds them
    sent: dict[str, float]  # bytes that each rank sends in a step, by what they are
    compute_seconds: float
    communication_seconds: float
    step_seconds: float
    days: float
    tokens_per_second: float


def work_of(config: Config, vocabulary: int, mono_length: float | None = None, pair_length: float = 64.0) -> Work:
    """The work of a config; `pair_length` is the average of a packed pair, `mono_length` of a block (default: full)."""
    model, settings = config.model, load_deepspeed_json(config.deepspeed)
    layer = 4 * model.hidden**2 + 2 * model.hidden * model.feed_forward + 9 * model.hidden + model.feed_forward
    positions = max(config.data.block_tokens, 2 * config.data.side_tokens + 3) + 2
    embeddings = (vocabulary + positions + 3) * model.hidden
    heads = 2 * model.hidden**2 * (config.objectives.dwa is not None) + model.hidden**2 + vocabulary
    half = any(settings.get(kind, {}).get("enabled") for kind in ("bf16", "fp16"))
    objectives = config.objectives
    pairs = config.batch.pairs if objectives.tlm or objectives.dwa else 0
    return Work(
        parameters=embeddings + model.layers * layer + heads,
        encoder=model.layers * layer,
        label_share=objectives.dwa.alignment_layer / model.layers if objectives.dwa else 0.0,
        vocabulary=vocabulary,
        hidden=model.hidden,
        layers=model.layers,
        mono_tokens=config.batch.mono * (mono_length or config.data.block_tokens) if objectives.mlm else 0.0,
        pair_tokens=pairs * pair_length,
        micro_steps=config.batch.micro_steps,
        steps=config.run.steps,
        stage=settings.get("zero_optimization", {}).get("stage", 0),
        value_bytes=2 if half else 4,
    )


def plan(work: Work, cluster: Cluster) -> Plan:
    """The cost of training on a cluster."""
    sent = sent_by_a_rank(work, cluster.ranks, cluster.scatters)
    compute = step_flops(work) / (cluster.flops * cluster.ranks)
    communication = sum(_seconds(size, work, cluster) for size in sent.values())
    step = compute + communication * (1 - cluster.overlap)
    tokens = work.mono_tokens + work.pair_tokens
    return Plan(
        memory(work, cluster.ranks), sent, compute, communication, step, step * work.steps / 86400, tokens / step
    )


def step_flops(work: Work) -> float:
    """Floating-point operations of a step: 2 a weight and token forward, 4 backward; the vocabulary at masked tokens only."""
    tokens = work.mono_tokens + work.pair_tokens
    heads = 6 * MASKED * tokens * work.vocabulary * work.hidden
    return 6 * work.encoder * tokens + heads + 2 * work.encoder * work.label_share * work.pair_tokens


def memory(work: Work, ranks: int) -> dict[str, float]:
    """Bytes on each rank. ZeRO 1 shares out the optimizer's state, 2 the gradients too, 3 also the weights."""
    master = MASTER_BYTES if work.value_bytes < 4 else 0
    share = [1 / ranks if work.stage >= stage else 1.0 for stage in (3, 2, 1)]
    tokens = (work.mono_tokens + work.pair_tokens) / ranks / work.micro_steps
    return {
        "weights": work.parameters * work.value_bytes * share[0],
        "gradients": work.parameters * work.value_bytes * share[1],
        "optimizer": work.parameters * (ADAM_BYTES + master) * share[2],
        "activations": tokens * work.layers * KEPT_BY_A_LAYER * work.hidden * work.value_bytes / 2 + CHUNK_OF_LOGITS,
    }


def sent_by_a_rank(work: Work, ranks: int, scatters: bool = True) -> dict[str, float]:
    """Bytes that a rank sends in a step. An all-reduce is 2 (n-1)/n of the data, a gather or a reduce-scatter half of it."""
    once = (ranks - 1) / ranks * work.parameters * work.value_bytes
    micro = work.micro_steps
    if work.stage == 0:
        return {"gradients": 2 * once}
    if work.stage == 1:
        return {"gradients": 2 * once, "new weights": once}
    if work.stage == 2:
        return {"gradients": 2 * once * micro, "new weights": once}
    gradients = once * micro * (1 if scatters else 2)
    return {"gradients": gradients, "weights": 2 * once * micro, "weights to label": once * work.label_share * micro}


def _seconds(size: float, work: Work, cluster: Cluster) -> float:
    """A ring through all ranks: each host's link carries the bytes of one rank, and every host adds its hops."""
    if cluster.ranks == 1 or not size:
        return 0.0
    link = cluster.link / WIRE_OVERHEAD if cluster.nodes > 1 else cluster.local_link
    collectives = max(1, math.ceil(work.layers / LAYERS_A_BUCKET)) * work.micro_steps
    return size / link + 2 * (cluster.nodes - 1) * cluster.latency * collectives


def table(work: Work, cluster: Cluster, planned: Plan) -> Table:
    """The plan for a reader."""
    title = f"{work.parameters / 1e6:.0f} M parameters, ZeRO {work.stage}, {cluster.nodes} hosts × {cluster.gpus} ranks"
    shown = Table(title=title, title_justify="left")
    for column in ("of each rank", "", ""):
        shown.add_column(column)
    for what, amounts in (("memory, GB", planned.memory), ("sent in a step, GB", planned.sent)):
        for name, amount in amounts.items():
            shown.add_row(what, name, f"{amount / 1e9:.3f}")
        shown.add_row(what, "in all", f"{sum(amounts.values()) / 1e9:.3f}", end_section=True)
    shown.add_row("a step, s", "computation", f"{planned.compute_seconds:.3f}")
    shown.add_row("a step, s", "communication", f"{planned.communication_seconds:.3f}")
    shown.add_row("a step, s", "in all", f"{planned.step_seconds:.3f}", end_section=True)
    shown.add_row("tokens/s", "all ranks", f"{planned.tokens_per_second:,.0f}")
    shown.add_row("days", f"{work.steps:,} steps", f"{planned.days:.1f}")
    return shown
