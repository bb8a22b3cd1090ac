"""What a run takes on a number of hosts: what `dry_run` says of one rank, and what the ranks send each other, in seconds.

A small cost model, kept honest by `tests/cluster/measure_plan.py`, which holds it against runs on throttled links. It knows
DeepSpeed's ways of cutting a model; it starts nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.table import Table

from pipeline.estimate.dry_run import dry_run
from pipeline.settings.deepspeed_json import load_deepspeed_json, sent_bytes
from pipeline.settings.schema import Config

WIRE_OVERHEAD = 1.05  # headers of TCP/IP and acknowledgements
LAYERS_A_BUCKET = 4  # how many layers' gradients or weights travel in one collective
ANY_DEVICE = "h100"  # of a dry run, which asks for one only to tell days


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
class ScaleWork:
    """A run on so many ranks as `dry_run` sees it."""

    ranks: int
    parameters: int
    layers: int
    label_share: float  # of the layers that labelling runs; with what draws words, of all parameters
    passes: float  # through the encoder in a micro-step, to learn
    tokens: float  # of a step, all ranks'
    flops: float  # likewise
    micro_steps: int
    steps: int
    stage: int
    value_bytes: int  # of a weight as it is stored and sent
    gradient_bytes: int  # of a gradient as it is sent
    exchanged: float  # bytes of a step that objectives have all ranks tell each other
    averaged: int  # parameters that they need whole on every rank after a step
    memory: dict[str, float]  # bytes a rank holds, by what for; the most at a time; on the host


@dataclass(frozen=True)
class ScalePlan:
    sent: dict[str, float]  # bytes that each rank sends in a step, by what they are
    compute_seconds: float
    communication_seconds: float
    step_seconds: float
    days: float
    tokens_per_second: float


def work_of(config: Config, ranks: int, pair_tokens: int) -> ScaleWork:
    """The work of a config on so many ranks; `pair_tokens` of a mean pair, where data.path is not there to tell.

    ValueError where training would refuse the config.
    """
    run = dry_run(config, ANY_DEVICE, ranks, 1.0, pair_tokens)
    return ScaleWork(
        ranks=ranks,
        parameters=run.parameters["total"],
        layers=run.layers,
        label_share=run.labelled_layers / run.layers + run.drawing_parameters / run.parameters["total"],
        passes=run.encoder_passes,
        tokens=sum(run.tokens_per_step.values()),
        flops=run.flops_per_step,
        micro_steps=config.batch.micro_steps,
        steps=run.steps,
        stage=run.stage,
        value_bytes=4 if run.precision == "fp32" else 2,
        gradient_bytes=sent_bytes(load_deepspeed_json(config.deepspeed)),
        exchanged=run.exchanged,
        averaged=run.averaged,
        memory=run.memory[run.stage],
    )


def plan(work: ScaleWork, cluster: Cluster) -> ScalePlan:
    """The cost of training on a cluster."""
    assert work.ranks == cluster.ranks
    sent = sent_by_a_rank(work, cluster.scatters)
    compute = work.flops / (cluster.flops * cluster.ranks)
    communication = sum(_seconds(size, work, cluster) for size in sent.values())
    step = compute + communication * (1 - cluster.overlap)
    return ScalePlan(sent, compute, communication, step, step * work.steps / 86400, work.tokens / step)


def sent_by_a_rank(work: ScaleWork, scatters: bool = True) -> dict[str, float]:
    """Bytes that a rank sends in a step. An all-reduce is 2 (n-1)/n of the data, a gather or a reduce-scatter half of it."""
    others = (work.ranks - 1) / work.ranks
    own = {"sentences": others * work.exchanged} if work.exchanged else {}
    if work.stage == 3 and work.averaged:
        own["weights to average"] = others * work.averaged * work.value_bytes
    return _sent_by_zero(work, scatters) | own


def _sent_by_zero(work: ScaleWork, scatters: bool) -> dict[str, float]:
    share = (work.ranks - 1) / work.ranks * work.parameters
    weights, gradients = share * work.value_bytes, share * work.gradient_bytes
    micro = work.micro_steps
    if work.stage == 0:
        return {"gradients": 2 * gradients}
    if work.stage == 1:
        return {"gradients": 2 * gradients, "new weights": weights}
    if work.stage == 2:
        return {"gradients": 2 * gradients * micro, "new weights": weights}
    return {
        "gradients": gradients * micro * (1 if scatters else 2),
        "weights": 2 * weights * micro * work.passes,
        "weights to label": weights * work.label_share * micro,
    }


def _seconds(size: float, work: ScaleWork, cluster: Cluster) -> float:
    """A ring through all ranks: each host's link carries the bytes of one rank, and every host adds its hops."""
    if cluster.ranks == 1 or not size:
        return 0.0
    link = cluster.link / WIRE_OVERHEAD if cluster.nodes > 1 else cluster.local_link
    collectives = max(1, math.ceil(work.layers / LAYERS_A_BUCKET)) * work.micro_steps
    return size / link + 2 * (cluster.nodes - 1) * cluster.latency * collectives


def table(work: ScaleWork, cluster: Cluster, planned: ScalePlan) -> Table:
    """The plan for a reader."""
    title = f"{work.parameters / 1e6:.0f} M parameters, ZeRO {work.stage}, {cluster.nodes} hosts × {cluster.gpus} ranks"
    shown = Table(title=title, title_justify="left")
    for column in ("of each rank", "", ""):
        shown.add_column(column)
    for name, amount in work.memory.items():
        shown.add_row("memory, GB", name, f"{amount / 1e9:.3f}", end_section=name == "host")
    for name, amount in planned.sent.items():
        shown.add_row("sent in a step, GB", name, f"{amount / 1e9:.3f}")
    shown.add_row("sent in a step, GB", "in all", f"{sum(planned.sent.values()) / 1e9:.3f}", end_section=True)
    shown.add_row("a step, s", "computation", f"{planned.compute_seconds:.3f}")
    shown.add_row("a step, s", "communication", f"{planned.communication_seconds:.3f}")
    shown.add_row("a step, s", "in all", f"{planned.step_seconds:.3f}", end_section=True)
    shown.add_row("tokens/s", "all ranks", f"{planned.tokens_per_second:,.0f}")
    shown.add_row("days", f"{work.steps:,} steps", f"{planned.days:.1f}")
    return shown
