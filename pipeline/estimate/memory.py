"""How much memory a rank of a training run will need: arithmetic on sizes, by the rules of DeepSpeed's ZeRO stages.

With P parameters, N ranks and b bytes a weight (2 in fp16 and bf16, 4 in fp32), a rank holds

- weights: b·P; in stage 3 b·P/N, and b·min(P, stage3_max_live_parameters) of gathered ones.
- optimizer: Adam's two moments and a master copy in fp32, 12·P, in stages 1 to 3 12·P/N; fp32 in stage 0 has no copy, 8·P.
- gradients, of a bytes each, 4 where `data_types.grad_accum_dtype` is fp32, else b: a·P in stage 1, or a·P/N where there is one
  micro-step, as in stages 2 and 3; b·P in stage 0.
- buckets, in stages 1 to 3: one of reduce_bucket_size elements through which gradients are reduced, of the bytes that they are
  sent in (`communication_data_type`, else b).
- activations: b·T·L·(10·D + 2·F) for T tokens of a micro-step, L layers, width D and inner width F: what autograd keeps of
  `model.Layer`, as counted on the CPU, without dropout. For replaced tokens L has the generator's layers and the
  encoder's, beside those of the pass that other objectives share. With relative positions 4·b·L·H more for each pair of tokens
  of a sequence, with H heads: as counted on the CPU in bf16; in fp32 it is half of that.
- vocabulary: per call of a head that predicts words, which MLM and TLM share where they are weighed alike, the gradient of the
  V × D matrix in fp32 (4·V·D), which is made in the forward; and one chunk of logits in fp32 and of their gradients in b bytes,
  as on a GPU (see `linear_cross_entropy`).
- replicated, where objectives keep any: slow weights and queues in fp32, whole on every rank.
- similarities, likewise: those of a micro-step's sentences, four times in fp32.
- update: gradients in fp32 for the optimizer, 4·P in stage 0 and 4·P/N in the others; fp32 copies them in stage 3 only.

The update comes when activations are gone, in stages 1 and 2 gradients and buckets too: the total is the larger of the two
moments. An offloaded optimizer and its update count for the host instead, with the gradients, which stages 1 and 2 hold on both
sides; so do stage 3's weights if they are offloaded. Not counted: the framework and its kernels (about 1 GB on a GPU),
fragmentation, batches made ahead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.model.flops import LOGITS_AT_ONCE
from pipeline.settings.deepspeed_json import precision_of, sent_bytes
from pipeline.settings.sizes import EncoderConfig

# What DeepSpeed takes where its JSON says nothing.
_REDUCE_BUCKET, _MAX_LIVE_PARAMETERS = 5e8, 1e9


@dataclass(frozen=True)
class StepWork:
    """What one rank works on at a time, and of how much."""

    sizes: EncoderConfig
    parameters: int
    word_calls: int  # of heads that predict words
    tokens: float  # of a micro-step, each as often as it goes through all layers to be learned from; of some layers, that share
    predicted: float  # masked tokens of all streams in a micro-step
    ranks: int
    micro_steps: int
    replicated: int = 0  # bytes that objectives hold beside what is trained
    compared: float = 0.0  # bytes of similarities that they compute at a time
    pairs_of_tokens: float = 0.0  # of the same sequences, likewise


def activation_bytes(sizes: EncoderConfig, tokens: float, width_bytes: int) -> float:
    """What a forward keeps for its backward."""
    return width_bytes * tokens * sizes.layers * (10 * sizes.hidden + 2 * sizes.feed_forward)


def memory_per_rank(work: StepWork, settings: dict[str, Any], stage: int) -> dict[str, float]:
    """Bytes by what they are for, the most at a time on the device ("total"), and bytes on the host ("host").

    settings: a DeepSpeed config, of which stage is not read.
    """
    zero = settings.get("zero_optimization", {})
    half = precision_of(settings) != "fp32"
    width = 2 if half else 4
    whole = work.parameters
    part = whole / work.ranks if stage else whole
    offloads_optimizer = stage > 0 and _offloads(zero, "offload_optimizer")
    offloads_weights = stage == 3 and _offloads(zero, "offload_param")

    weights = width * (whole if stage < 3 else part)
    gathered = width * min(whole, zero.get("stage3_max_live_parameters", _MAX_LIVE_PARAMETERS)) if stage == 3 else 0.0
    optimizer = (12 if half or stage else 8) * part
    wide = 4 if stage and settings.get("data_types", {}).get("grad_accum_dtype") == "fp32" else width
    # What is offloaded leaves the device as it was made, and is summed on the host.
    kept = width if offloads_optimizer and stage == 2 else wide
    gradients = kept * (whole if stage == 1 and work.micro_steps > 1 else part)
    update = 4 * part if half or stage == 3 else 0.0
    own = (
        {"replicated": float(work.replicated), "similarities": work.compared}
        if work.replicated or work.compared
        else {}
    )
    memory = {
        "weights": gathered + (0 if offloads_weights else weights),
        "optimizer": 0.0 if offloads_optimizer else optimizer,
        "gradients": 0.0 if offloads_optimizer and stage == 3 else gradients,
        "buckets": sent_bytes(settings) * zero.get("reduce_bucket_size", _REDUCE_BUCKET) if stage else 0.0,
        "activations": activation_bytes(work.sizes, work.tokens, width) + _bias_bytes(work, width),
        "vocabulary": _vocabulary_bytes(work, width),
        "update": 0.0 if offloads_optimizer else update,
        **own,
    }
    backward = memory["gradients"] + memory["buckets"] + memory["activations"] + memory["vocabulary"] + work.compared
    updating = memory["update"] + (memory["gradients"] + memory["buckets"] if stage in (0, 3) else 0.0)
    total = work.replicated + memory["weights"] + memory["optimizer"] + max(backward, updating)
    host = (optimizer + wide * part + update if offloads_optimizer else 0) + (weights if offloads_weights else 0)
    return {**memory, "total": total, "host": host}


def _bias_bytes(work: StepWork, width_bytes: int) -> float:
    """Of a relative position bias and what its gradient needs: nothing where FlexAttention takes it, see `model.attention`."""
    sizes = work.sizes
    if width_bytes == 2 and not sizes.dropout:
        return 0.0
    return 4.0 * width_bytes * sizes.layers * sizes.heads * work.pairs_of_tokens if sizes.gated_relative else 0.0


def _offloads(zero: dict[str, Any], what: str) -> bool:
    return (zero.get(what) or {}).get("device", "none") != "none"


def _vocabulary_bytes(work: StepWork, width: int) -> float:
    if not work.word_calls:
        return 0.0
    logits = min(work.predicted * work.sizes.vocab_size, LOGITS_AT_ONCE)
    return 4 * work.sizes.vocab_size * work.sizes.hidden * work.word_calls + (width + 4) * logits
