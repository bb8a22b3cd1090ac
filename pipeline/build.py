"""From a config to the parts of a run: streams, objectives, model, DeepSpeed settings.

Every check that needs more than the config's own fields is made here, before anything expensive starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Parameter

from data_prep.manifest import Manifest
from pipeline.blend import Stage
from pipeline.config import Config, Optimizer, Term, load_deepspeed_json
from pipeline.data import BatchPlan, TrainingData
from pipeline.hugging_face import load_encoder, load_head
from pipeline.model import Encoder, EncoderConfig, PretrainingModel
from pipeline.objectives.base import Objective
from pipeline.objectives.dwa import WordAlignment
from pipeline.objectives.masked_lm import HEAD as MASKED_LM_HEAD
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.pretrained import check_vocabulary, read_pretrained

Factor = Callable[[int], float]
"""Factor of the peak learning rate at an optimizer step, from 0."""

OWNED_KEYS = {  # set from the config, so that one value cannot say two things
    "train_batch_size": "batch",
    "train_micro_batch_size_per_gpu": "batch",
    "gradient_accumulation_steps": "batch.micro_steps",
    "gradient_clipping": "optimizer.clip",
    "optimizer": "optimizer",
    "scheduler": "optimizer.warmup_steps",
}


def build_objectives(config: Config) -> list[Objective]:
    """The objectives that the config switches on, in a fixed order."""
    terms = config.objectives
    objectives: list[Objective] = []
    if terms.mlm is not None:
        objectives.append(MaskedLM("mlm", "mono"))
    if terms.tlm is not None:
        objectives.append(MaskedLM("tlm", "pairs"))
    if terms.dwa is not None:
        objectives.append(WordAlignment("dwa", terms.dwa.alignment_layer, terms.dwa.alignment_settings()))
    if not objectives:
        raise ValueError("objectives: mlm, tlm and dwa are all null; switch at least one on")
    return objectives


def build_data(config: Config, objectives: list[Objective], manifest: Manifest) -> TrainingData:
    """Open the streams that the objectives read; ValueError where the manifest has no data for one."""
    streams = sorted({objective.reads for objective in objectives})
    return open_streams(config, streams, manifest, {name: blend_stages(config, name) for name in streams})


def blend_stages(config: Config, stream: str) -> list[Stage]:
    """The blends of a stream's languages, each with its first sample."""
    alpha, weights = config.data.alpha, config.data.weights
    stages = [Stage(0, alpha, getattr(weights, stream) or None)]
    for later in config.data.schedule:
        alpha = alpha if later.alpha is None else later.alpha
        weights = weights if later.weights is None else later.weights
        stages.append(Stage(later.from_step * getattr(config.batch, stream), alpha, getattr(weights, stream) or None))
    return stages


def open_streams(
    config: Config, streams: list[str], manifest: Manifest, stages: dict[str, list[Stage]] | None = None
) -> TrainingData:
    """Open streams with the limits and the seed of the config, and by default with its alpha."""
    limits = {"mono": config.data.block_tokens, "pairs": config.data.side_tokens}
    return TrainingData(
        manifest, streams, alpha=config.data.alpha, seed=config.run.seed, limits=limits, stages=stages or {}
    )


def build_model(config: Config, objectives: list[Objective], vocab_size: int) -> tuple[PretrainingModel, bool]:
    """The model on the CPU in fp32, and whether its masked-LM head came with pretrained weights."""
    torch.manual_seed(config.run.seed)
    init = config.model.init
    if init is None:
        sizes = scratch_sizes(config, vocab_size)
        check_sizes(config, sizes, vocab_size)
        return PretrainingModel(Encoder(sizes), objectives), False
    sizes, state = read_pretrained(init, config.model.dropout)
    check_sizes(config, sizes, vocab_size)
    model = PretrainingModel(Encoder(sizes), objectives)
    load_encoder(model.encoder, state, init)
    return model, MASKED_LM_HEAD in model.heads and load_head(model.heads[MASKED_LM_HEAD], state, init)


def longest_sequence(config: Config) -> int:
    """Tokens of the longest block or pair, special tokens included."""
    return max(config.data.block_tokens, 2 * config.data.side_tokens + 3)


def scratch_sizes(config: Config, vocab_size: int) -> EncoderConfig:
    """Sizes of a model that starts from random weights."""
    names = ("layers", "hidden", "heads", "feed_forward", "dropout", "init_std")
    sizes = {name: getattr(config.model, name) for name in names}
    return EncoderConfig(vocab_size=vocab_size, positions=longest_sequence(config) + 2, **sizes)


def check_sizes(config: Config, sizes: EncoderConfig, vocab_size: int) -> None:
    """ValueError where the data has other words, or the config asks for more positions or layers, than the model has."""
    init, longest, dwa = config.model.init, longest_sequence(config), config.objectives.dwa
    if sizes.vocab_size != vocab_size:
        assert init is not None, "a model from scratch has the data's vocabulary"
        check_vocabulary(init, sizes.vocab_size, config.data.path, vocab_size)
    if longest + 2 > sizes.positions:
        raise ValueError(
            f"model.init = {init}: {sizes.positions - 2} positions, data.block_tokens and data.side_tokens "
            f"need {longest}; lower them"
        )
    if dwa is not None and dwa.alignment_layer > sizes.layers:
        raise ValueError(
            f"objectives.dwa.alignment_layer = {dwa.alignment_layer}: the model has {sizes.layers} layers; "
            f"choose 0 to {sizes.layers}"
        )


def deepspeed_settings(config: Config, plan: BatchPlan, device: str) -> dict[str, Any]:
    """The complete DeepSpeed config: the JSON's ZeRO stage and precision, everything else from ours."""
    path = config.deepspeed
    settings = load_deepspeed_json(path)
    for key, owner in OWNED_KEYS.items():
        if key in settings:
            raise ValueError(f"{path}: {key} is set here and by {owner} of the run's config; remove it from the JSON")
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    if settings.get("fp16", {}).get("enabled"):
        if device == "cpu":
            raise ValueError(f"{path}: fp16 needs a GPU, this machine trains on the CPU; use a bf16 or fp32 config")
        if stage == 0:
            # At stage 0 DeepSpeed unscales gradients of a loss that it never scaled.
            raise ValueError(f"{path}: fp16 needs ZeRO stage 1 or higher; use ds_configs/zero1_fp16.json")
    _check_offload(config, settings, device)
    per_rank = sum(plan.global_sizes.values()) // (plan.world_size * plan.micro_steps)
    return {
        **settings,
        "train_micro_batch_size_per_gpu": per_rank,
        "gradient_accumulation_steps": plan.micro_steps,
        "train_batch_size": per_rank * plan.world_size * plan.micro_steps,
        "gradient_clipping": config.optimizer.clip,
        "optimizer": _adamw(config.optimizer, device),
    }


def _check_offload(config: Config, settings: dict[str, Any], device: str) -> None:
    """ValueError where states are offloaded from a CPU, or to an optimizer that does not work there."""
    zero = settings.get("zero_optimization", {})
    if all(zero.get(what, {}).get("device", "none") == "none" for what in ("offload_optimizer", "offload_param")):
        return
    if device == "cpu":
        raise ValueError(f"{config.deepspeed}: offload needs a GPU, this machine trains on the CPU; use one without it")
    if config.optimizer.torch_adam:
        raise ValueError(
            f"optimizer.torch_adam = true: {config.deepspeed} offloads the optimizer, for which DeepSpeed has an Adam of its "
            "own; set it to false"
        )


def _adamw(optimizer: Optimizer, device: str) -> dict[str, Any]:
    torch_adam = optimizer.torch_adam or device == "cpu"
    params = {
        "lr": optimizer.lr,
        "betas": optimizer.betas,
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        "torch_adam": torch_adam,
        "adam_w_mode": True,
        # DeepSpeed's own is fused by itself and takes no such word.
        **({"fused": True} if torch_adam else {}),
    }
    return {"type": "AdamW", "params": params}


def lr_factor(optimizer: Optimizer, steps: int) -> Factor:
    """Factor of the peak learning rate at each optimizer step (from 0): linear warm-up, then polynomial decay to 0."""

    def factor(step: int) -> float:
        if step < optimizer.warmup_steps:
            return (step + 1) / optimizer.warmup_steps
        left = (steps - step) / max(steps - optimizer.warmup_steps, 1)
        return max(left, 0.0) ** optimizer.decay_power

    return factor


def parameter_groups(model: PretrainingModel, optimizer: Optimizer, steps: int) -> list[tuple[list[Parameter], Factor]]:
    """What the optimizer trains, and for each group the factor of `optimizer.lr`: all of the model in one group.

    With `heads_lr` or `heads_first_steps`, the heads' own parameters and the encoder's (with them the word embedding, which
    the masked-LM head is tied to) apart: the encoder's rate is 0 until then, and warms up from there.
    """
    factor, first = lr_factor(optimizer, steps), optimizer.heads_first_steps
    if not first and optimizer.heads_lr is None:
        return [(list(model.parameters()), factor)]
    encoder = list(model.encoder.parameters())
    known = {id(parameter) for parameter in encoder}
    heads = [parameter for parameter in model.heads.parameters() if id(parameter) not in known]
    ratio = 1.0 if optimizer.heads_lr is None else optimizer.heads_lr / optimizer.lr

    def encoder_factor(step: int) -> float:
        warm = min((step - first + 1) / max(optimizer.warmup_steps, 1), 1.0)
        return factor(step) * (warm if first else 1.0) if step >= first else 0.0

    return [(encoder, encoder_factor), (heads, lambda step: ratio * factor(step))]


def term_weights(terms: dict[str, Term], step: int) -> dict[str, float]:
    """Weight of each objective's loss at an optimizer step (from 0)."""
    return {
        name: term.weight * (1.0 if step >= term.warmup_steps else step / term.warmup_steps)
        for name, term in terms.items()
    }
