"""The training step as one would write it first, for `benchmark` to compare with: padded batches through Hugging Face's model.

Same batches, weights, objectives and update as `train`; logits of every token, all layers when labelling, labels pair by
pair. `Shortcuts` switches single measures of ours on, to show what each of them buys.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.special_ids import PAD
from pipeline.data.batch import StreamBatch
from pipeline.data.streams import BatchPlan
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.objectives import catalog
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.run_folder import METRICS
from pipeline.settings.added_words import words_of
from pipeline.settings.objectives import term_weights
from pipeline.settings.schema import Config
from pipeline.training import ranks
from pipeline.training.build import build_data, build_model, deepspeed_settings, lr_factor
from pipeline.watch.hardware import peak_bytes
from pipeline.weights.hugging_face import hugging_face_state, write_config
from sinkhorn_align import AlignmentSettings, align

IGNORED = -100


@dataclass(frozen=True)
class Shortcuts:
    """Measures of `train` that fit the padded step."""

    stop_at_label_layer: bool = False
    batched_labels: bool = False
    head_at_masked_tokens: bool = False


@dataclass
class PaddedBatch:
    """A StreamBatch as S padded rows of L tokens."""

    flat: StreamBatch
    real_SL: Tensor  # bool
    row_T: Tensor  # int64: the row of each token of the packed batch
    partner_T: Tensor | None = None  # written by self-labelling: the linked token of the packed batch, −1 for none

    @property
    def masked(self) -> MaskedTokens:
        return self.flat.view(MaskedTokens)

    @staticmethod
    def of(batch: StreamBatch) -> PaddedBatch:
        device = batch.clean.ids_T.device
        lengths_S = torch.from_numpy(batch.clean.offsets_S1).diff().to(device)
        real_SL = torch.arange(int(lengths_S.max()), device=device) < lengths_S[:, None]
        return PaddedBatch(batch, real_SL, torch.arange(len(lengths_S), device=device).repeat_interleave(lengths_S))

    def padded(self, values_T: Tensor, fill: int) -> Tensor:
        return values_T.new_full(self.real_SL.shape, fill).masked_scatter(self.real_SL, values_T)

    def targets(self) -> Tensor:
        """int64 [S, L]: the token to predict at masked positions, IGNORED elsewhere."""
        targets_T = torch.full_like(self.flat.clean.ids_T, IGNORED)
        targets_T[self.masked.predicted_P] = self.masked.target_ids_P
        return self.padded(targets_T, IGNORED)

    def sides(self) -> Tensor:
        """int64 [T]: 0 for special tokens, 1 for a source's and 2 for a target's."""
        spans = self.flat.spans
        assert spans is not None
        side_T = torch.zeros_like(self.flat.clean.ids_T)
        spans_of_side = ((spans.source_start_B, spans.source_length_B), (spans.target_start_B, spans.target_length_B))
        for side, (start_B, length_B) in enumerate(spans_of_side, start=1):
            for start, length in zip(start_B.tolist(), length_B.tolist(), strict=True):
                side_T[start : start + length] = side
        return side_T


class StraightforwardModel(nn.Module):
    """Hugging Face's masked-LM model and the pointer head of word alignment, with the weights of `model`."""

    def __init__(self, model: PretrainingModel, layer: int, settings: AlignmentSettings, shortcuts: Shortcuts) -> None:
        super().__init__()
        sizes = model.encoder.config
        self.language_model = XLMRobertaForMaskedLM(XLMRobertaConfig(**write_config(sizes)))
        state = hugging_face_state(model.encoder.state_dict(), model.heads["masked_lm"].state_dict())
        self.language_model.load_state_dict(state)
        self.pointer = model.heads["word_alignment"]
        self.layer, self.settings, self.shortcuts = layer, settings, shortcuts

    def forward(self, work: str, batches: dict[str, PaddedBatch]) -> dict[str, Tensor]:
        if work == "label":
            self._label(batches["pairs"])
            return {}
        losses = {}
        for name, objective in (("mono", "mlm"), ("pairs", "tlm")):
            batch = batches[name]
            hidden_SLD = self._encode(batch, batch.masked.packed.ids_T)[-1]
            losses[objective] = self._masked_lm(hidden_SLD, batch.targets())
            if name == "pairs":
                losses["dwa"] = self._word_alignment(hidden_SLD, batch)
        return losses

    def _encode(self, batch: PaddedBatch, ids_T: Tensor) -> tuple[Tensor, ...]:
        output = self.language_model.roberta(
            input_ids=batch.padded(ids_T, PAD), attention_mask=batch.real_SL.long(), output_hidden_states=True
        )
        return output.hidden_states

    def _label(self, batch: PaddedBatch) -> None:
        stack, spans = self.language_model.roberta.encoder, batch.flat.spans
        every_layer = stack.layer
        if self.shortcuts.stop_at_label_layer:
            stack.layer = every_layer[: self.layer]
        hidden_SLD = self._encode(batch, batch.flat.clean.ids_T)[self.layer]
        stack.layer = every_layer
        assert spans is not None
        links = align(
            hidden_SLD[batch.real_SL],
            spans,
            self.settings,
            backend="auto" if self.shortcuts.batched_labels else "reference",
        )
        batch.partner_T = links.partner_T

    def _masked_lm(self, hidden_SLD: Tensor, targets_SL: Tensor) -> Tensor:
        if self.shortcuts.head_at_masked_tokens:
            chosen_SL = targets_SL != IGNORED
            hidden_SLD, targets_SL = hidden_SLD[chosen_SL], targets_SL[chosen_SL]
        logits = self.language_model.lm_head(hidden_SLD).float()
        return F.cross_entropy(logits.flatten(0, -2), targets_SL.flatten(), ignore_index=IGNORED, reduction="sum")

    def _word_alignment(self, hidden_SLD: Tensor, batch: PaddedBatch) -> Tensor:
        query_SLD, key_SLD = self.pointer(hidden_SLD, hidden_SLD)
        scores_SLL = (query_SLD @ key_SLD.transpose(1, 2)).float() * hidden_SLD.shape[-1] ** -0.5
        side_SL = batch.padded(batch.sides(), 0)
        opposite_SLL = side_SL[:, :, None] + side_SL[:, None, :] == 3
        linked_P = pointed_tokens(batch)
        assert batch.partner_T is not None
        first_T = torch.from_numpy(batch.flat.clean.offsets_S1[:-1]).to(hidden_SLD.device)[batch.row_T]
        targets_T = torch.full_like(first_T, IGNORED)
        targets_T[linked_P] = batch.partner_T[linked_P].long() - first_T[linked_P]
        scores_SLL = scores_SLL.masked_fill(~opposite_SLL, torch.finfo(torch.float32).min)
        targets_SL = batch.padded(targets_T, IGNORED)
        return F.cross_entropy(scores_SLL.flatten(0, 1), targets_SL.flatten(), ignore_index=IGNORED, reduction="sum")


def pointed_tokens(batch: PaddedBatch) -> Tensor:
    """Masked tokens that have a link: indices into T."""
    assert batch.partner_T is not None, "the batch has not been labelled"
    predicted_P = batch.masked.predicted_P
    return predicted_P[batch.partner_T[predicted_P] >= 0]


def train_straightforwardly(config: Config, shortcuts: Shortcuts) -> None:
    """`run.steps` optimizer steps of all three objectives; rank 0 appends a line per step to metrics.jsonl, as `train` does."""
    device = ranks.start(config.run.timeout_minutes)
    manifest, objectives = Manifest.load(config.data.path), catalog.build_objectives(config)
    data = build_data(config, objectives, manifest)
    plan = BatchPlan(
        {"mono": config.batch.mono, "pairs": config.batch.pairs}, ranks.world_size(), config.batch.micro_steps
    )
    ours, _ = build_model(config, objectives, words_of(config, manifest))
    labelling = catalog.labelling(config.objectives)
    assert labelling is not None and labelling.way.settings is not None, "DWA is one of the three"
    model = StraightforwardModel(ours, labelling.layer, labelling.way.settings, shortcuts)
    engine = engine_of(model, config, plan, device)
    for step in range(config.run.steps):
        seconds = {"start": time.monotonic()}
        sums = _one_step(engine, config, data, plan, step, device, seconds)
        dist.all_reduce(sums)
        peak = torch.tensor(float(peak_bytes(device)), device=device)
        dist.all_reduce(peak, dist.ReduceOp.MAX)
        total = time.monotonic() - seconds["start"]
        losses, counts, tokens = sums[:3].tolist(), sums[3:6].tolist(), float(sums[6])
        line = {
            **{f"{n}_loss": loss / max(c, 1) for n, loss, c in zip(("mlm", "tlm", "dwa"), losses, counts, strict=True)},
            "tokens_per_second": tokens / total,
            "seconds_per_step": total,
            "seconds_label": seconds["labelled"] - seconds["start"],
            "peak_memory_gb": float(peak) / 1e9,
        }
        append_metrics(config, step, line)


def engine_of(model: nn.Module, config: Config, plan: BatchPlan, device: torch.device) -> Any:
    """DeepSpeed's engine around a model, with the config's optimizer and schedule."""
    factor = lr_factor(config.optimizer, config.run.steps)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=list(model.parameters()),
        config=deepspeed_settings(config, plan, device.type),
        lr_scheduler=lambda optimizer: LambdaLR(optimizer, factor),
    )
    return engine


def append_metrics(config: Config, step: int, line: dict[str, float]) -> None:
    """Rank 0 writes what a step (from 0) was like where `train` does."""
    if ranks.rank() == 0:
        config.run.out.mkdir(parents=True, exist_ok=True)
        with (config.run.out / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": "train", "step": step + 1, **line}) + "\n")


def _one_step(
    engine: Any, config: Config, data: Any, plan: BatchPlan, step: int, device: torch.device, seconds: dict[str, float]
) -> Tensor:
    """One optimizer step; returns this rank's summed losses (3), predicted tokens (3) and tokens (1), fp64 [7]."""
    weights = term_weights(config.objectives.active(), step)
    flat = [data.micro_batch(plan, step, micro, ranks.rank()).to(device) for micro in range(plan.micro_steps)]
    padded = [{name: PaddedBatch.of(stream) for name, stream in batch.streams.items()} for batch in flat]
    engine.eval()
    with torch.no_grad():
        for batches in padded:
            engine("label", batches)
    engine.train()
    seconds["labelled"] = time.monotonic()
    sums = torch.zeros(7, dtype=torch.double, device=device)
    for batch, rows in zip(flat, padded, strict=True):
        mono, pairs = rows["mono"].masked, rows["pairs"].masked
        counts = [len(mono.predicted_P), len(pairs.predicted_P), len(pointed_tokens(rows["pairs"])), batch.tokens]
        sums[3:] += torch.tensor(counts, device=device)
    predicted = sums[3:6].sum()
    dist.all_reduce(predicted)
    for batches in padded:
        losses = engine("losses", batches)
        loss = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        engine.backward(loss * (ranks.world_size() * plan.micro_steps / predicted.clamp(min=1)).float())
        engine.step()
        sums[:3] += torch.stack([losses[name].detach().double() for name in ("mlm", "tlm", "dwa")])
    return sums
