"""From a config to the parts of a run: streams, objectives, model, DeepSpeed settings.

Every check that needs more than the config's own fields is made here, before anything expensive starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Parameter

from data_prep.token_files.manifest import Manifest
from pipeline.data.blend import Stage
from pipeline.data.streams import BatchPlan, blend_stages, limits_of
from pipeline.data.training_data import TrainingData
from pipeline.model.encoder import Encoder, PretrainingModel
from pipeline.model.heads import MASKED_LM_HEAD
from pipeline.objectives.base import Objective
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.objectives.word_alignment import WordAlignment
from pipeline.settings.deepspeed_json import check_fits, load_deepspeed_json
from pipeline.settings.schema import Config, Optimizer, Term
from pipeline.settings.sizes import scratch_sizes
from pipeline.weights.fit import check_sizes
from pipeline.weights.hugging_face import load_encoder, load_head
from pipeline.weights.pretrained import read_pretrained

Factor = Callable[[int], float]
"""Factor of the peak learning rate at an optimizer step, from 0."""


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
    return objectives


def build_data(config: Config, objectives: list[Objective], manifest: Manifest) -> TrainingData:
    """Open the streams that the objectives read; ValueError where the manifest has no data for one."""
    streams = sorted({objective.reads for objective in objectives})
    return open_data(config, streams, manifest, {name: blend_stages(config, name) for name in streams})


def open_data(
    config: Config, streams: list[str], manifest: Manifest, stages: dict[str, list[Stage]] | None = None
) -> TrainingData:
    """Open streams with the limits and the seed of the config, and by default with its alpha."""
    return TrainingData(
        manifest, streams, alpha=config.data.alpha, seed=config.run.seed, limits=limits_of(config), stages=stages or {}
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


def deepspeed_settings(config: Config, plan: BatchPlan, device: str) -> dict[str, Any]:
    """The complete DeepSpeed config: the JSON's ZeRO stage and precision, everything else from ours."""
    settings = load_deepspeed_json(config.deepspeed)
    check_fits(config.deepspeed, settings, device, config.optimizer.torch_adam)
    per_rank = sum(plan.global_sizes.values()) // (plan.world_size * plan.micro_steps)
    return {
        **settings,
        "train_micro_batch_size_per_gpu": per_rank,
        "gradient_accumulation_steps": plan.micro_steps,
        "train_batch_size": per_rank * plan.world_size * plan.micro_steps,
        "gradient_clipping": config.optimizer.clip,
        "optimizer": _adamw(config.optimizer, device),
    }


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
