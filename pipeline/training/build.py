"""From a config to the parts of a run: streams, model, DeepSpeed settings, groups of parameters.

Every check that needs more than the config's own fields is made here, before anything expensive starts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from data_prep.token_files.manifest import Manifest
from pipeline.data.batch import View
from pipeline.data.blend import Stage
from pipeline.data.of_config import blend_stages, check_translation, limits_of, mixing_of
from pipeline.data.streams import BatchPlan
from pipeline.data.training_data import TrainingData
from pipeline.model.decoder import DECODER, Decoder
from pipeline.model.encoder import Encoder
from pipeline.model.generator import Generator
from pipeline.model.heads import MaskedLMHead, WordHead
from pipeline.objectives.base import Objective
from pipeline.objectives.catalog import check_layers
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings.added_words import AddedWords, words_of
from pipeline.settings.deepspeed_json import check_fits, load_deepspeed_json, offloads
from pipeline.settings.schema import Config, Optimizer
from pipeline.settings.sizes import scratch_sizes
from pipeline.settings.text_to_text import Decoder as DecoderSettings
from pipeline.weights.begun_from import load_decoder, lowest_layers, with_words
from pipeline.weights.fit import check_sizes
from pipeline.weights.hugging_face import load_encoder, load_head
from pipeline.weights.pretrained import has_decoder, read_pretrained
from pipeline.weights.sentence_projection import HEAD as PROJECTION
from pipeline.weights.sentence_projection import TENSOR, load_projection

Factor = Callable[[int], float]
"""Factor of the peak learning rate at an optimizer step, from 0."""


def build_data(config: Config, objectives: list[Objective], manifest: Manifest) -> TrainingData:
    """Open the streams that the objectives read; ValueError where the manifest has no data for one, or for a direction."""
    views = [view for objective in objectives for view in objective.reads]
    stages = {view.stream: blend_stages(config, view.stream) for view in views}
    data = open_data(config, views, manifest, words_of(config, manifest), stages)
    check_translation(config, manifest)
    return data


def open_data(
    config: Config,
    views: list[View],
    manifest: Manifest,
    words: AddedWords,
    stages: dict[str, list[Stage]] | None = None,
) -> TrainingData:
    """Open the streams of these views with the limits and the seed of the config, and by default with its alpha.

    words: of the run's model.
    """
    return TrainingData(
        manifest,
        views,
        alpha=config.data.alpha,
        seed=config.run.seed,
        limits=limits_of(config),
        stages=stages or {},
        mixing=mixing_of(config),
        words=words,
    )


def build_model(config: Config, objectives: list[Objective], words: AddedWords) -> tuple[PretrainingModel, bool]:
    """The model on the CPU in fp32, and whether its masked-LM heads, if any, came with pretrained weights."""
    torch.manual_seed(config.run.seed)
    init, state = config.model.init, dict[str, Tensor]()
    if init is None:
        sizes = scratch_sizes(config, words.known)
    else:
        sizes, state, theirs = read_pretrained(init, config.model.dropout)
    check_sizes(config, sizes, words.known)
    if init is not None:
        sizes, state = lowest_layers(sizes, state, config.model.keep_layers)
        state = with_words(state, words, theirs, sizes.init_std)
    if words.names:
        sizes = replace(sizes, vocab_size=words.vocab_size)
    check_layers(config.objectives, sizes.layers)
    model = PretrainingModel(Encoder(sizes), objectives)
    head_is_pretrained = init is not None and _load(model, state, init)
    for objective in objectives:
        objective.begin(model, pretrained=init is not None)
    decoder = dict(model.heads.items()).get(DECODER)
    if init is not None and isinstance(decoder, Decoder) and not load_decoder(decoder, state, init):
        decoder.begin_as(model.encoder)
    model.add_twins()
    return model, head_is_pretrained


def _load(model: PretrainingModel, state: dict[str, Tensor], init: Path) -> bool:
    """Load the encoder, and the heads that the state has; whether a masked-LM head was among them."""
    load_encoder(model.encoder, state, init)
    loaded = [load_head(head, state, init) for head in model.heads.modules() if isinstance(head, WordHead)]
    if PROJECTION in model.heads and TENSOR in state:
        load_projection(model.heads[PROJECTION], state, init)
    return any(loaded)


def masked_lm_heads(model: PretrainingModel) -> list[MaskedLMHead]:
    """The heads that predict words, the encoder's own and a generator's."""
    return [module for module in model.heads.modules() if isinstance(module, MaskedLMHead)]


def notes_on_heads(config: Config, model: PretrainingModel, head_is_pretrained: bool) -> list[str]:
    """What a user may not expect of the modules beside a pretrained encoder."""
    init, notes = config.model.init, []
    if not init:
        return []
    if masked_lm_heads(model) and not head_is_pretrained:
        notes.append(f"{init} has no masked-LM head: it starts from random weights (see objectives.*.weight)")
    decoder = dict(model.heads.items()).get(DECODER)
    if isinstance(decoder, Decoder) and not has_decoder(init):
        notes.append(f"{init} has no decoder: {_beginning(decoder.settings)}")
    generators = [module for module in model.heads.values() if isinstance(module, Generator)]
    notes += [
        f"{init} has no generator: it starts as the encoder's {generator.encoder.config.layers} lowest layer(s)"
        for generator in generators
    ]
    return notes


def notes_on_order(settings: dict[str, Any], micro_steps: int, objectives: list[Objective]) -> list[str]:
    """That ZeRO-3 cannot look ahead, where it cannot. settings: DeepSpeed's.

    It gathers weights ahead of their use by the order of a step's first forward, which here labels, with fewer layers. A second
    micro-step lets it learn both orders; with one it starts anew at every step.
    """
    labels = any(type(objective).label is not Objective.label for objective in objectives)
    if settings.get("zero_optimization", {}).get("stage") != 3 or micro_steps > 1 or not labels:
        return []
    return [
        "batch.micro_steps = 1: ZeRO 3 then gathers no weights ahead of their use, which is slow and changes no result; take 2"
    ]


def _beginning(settings: DecoderSettings) -> str:
    """What a decoder begins as, in words."""
    if settings.start == "random":
        return "it starts from random weights"
    if settings.layout == "interleaved":
        return f"it starts as the encoder's {2 * settings.layers} lowest layers, two in each of its own"
    cross = "random weights" if settings.cross_attention == "random" else "a copy of self-attention"
    return f"it starts as the encoder's {settings.layers} lowest layer(s), its cross-attention from {cross}"


def deepspeed_settings(config: Config, plan: BatchPlan, device: str) -> dict[str, Any]:
    """The complete DeepSpeed config: the JSON's ZeRO stage and precision, everything else from ours."""
    settings = load_deepspeed_json(config.deepspeed)
    check_fits(config.deepspeed, settings, device, config.optimizer.adam)
    per_rank = sum(plan.global_sizes.values()) // (plan.world_size * plan.micro_steps)
    return {
        **settings,
        "train_micro_batch_size_per_gpu": per_rank,
        "gradient_accumulation_steps": plan.micro_steps,
        "train_batch_size": per_rank * plan.world_size * plan.micro_steps,
        "gradient_clipping": config.optimizer.clip,
        "optimizer": _adamw(config.optimizer, by_torch=config.optimizer.adam == "torch" and not offloads(settings)),
    }


def _adamw(optimizer: Optimizer, by_torch: bool) -> dict[str, Any]:
    params = {
        "lr": optimizer.lr,
        "betas": optimizer.betas,
        "eps": optimizer.eps,
        "weight_decay": optimizer.weight_decay,
        "torch_adam": by_torch,
        "adam_w_mode": True,
        # DeepSpeed's own is fused by itself and takes no such word.
        **({"fused": True} if by_torch else {}),
    }
    return {"type": "AdamW", "params": params}


def lr_factor(optimizer: Optimizer, steps: int) -> Factor:
    """Factor of the peak learning rate at each optimizer step (from 0): linear warm-up, then the schedule."""
    warm_up = optimizer.warmup_steps
    first_of_decay = {"polynomial": warm_up, "warmup_stable_decay": max(steps - optimizer.decay_steps, warm_up)}

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        if optimizer.schedule == "inverse_sqrt":
            return float(max(warm_up, 1) / (step + 1)) ** 0.5
        first = first_of_decay[optimizer.schedule]
        if step < first:
            return 1.0
        left = (steps - step) / max(steps - first, 1)
        return max(left, 0.0) ** optimizer.decay_power

    return factor


def parameter_groups(
    model: PretrainingModel, optimizer: Optimizer, steps: int, freezes: bool = False
) -> list[tuple[list[Parameter], Factor]]:
    """What the optimizer trains, and for each group the factor of `optimizer.lr`: all of the model in one group.

    With `heads_lr` or `heads_first_steps`, what has the heads' rate and what has the encoder's (with it the word embedding,
    which the masked-LM head is tied to) apart, as objectives declare it of their modules: the encoder's rate is 0 until then,
    and warms up from there. freezes: it is 0 all along.
    """
    factor, first = lr_factor(optimizer, steps), optimizer.heads_first_steps
    if not first and optimizer.heads_lr is None and not freezes:
        return [(list(model.parameters()), factor)]
    by_rate: dict[str, list[Parameter]] = {"encoder": [], "heads": []}
    for name, parameter in model.named_parameters():  # one that is tied has the name of the module that comes first
        (rate,) = (rate for prefix, rate in model.rates.items() if name.startswith(prefix))
        by_rate[rate].append(parameter)
    ratio = 1.0 if optimizer.heads_lr is None else optimizer.heads_lr / optimizer.lr

    def encoder_factor(step: int) -> float:
        if freezes:
            return 0.0
        warm = min((step - first + 1) / max(optimizer.warmup_steps, 1), 1.0)
        return factor(step) * (warm if first else 1.0) if step >= first else 0.0

    return [(by_rate["encoder"], encoder_factor), (by_rate["heads"], lambda step: ratio * factor(step))]
