"""A step of translation as one would write it first: padded batches through Hugging Face's `EncoderDecoderModel`.

Same batches, weights and update as `train`; logits of every place of the targets, padding included. The peer of `translation`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EncoderDecoderModel, XLMRobertaConfig, XLMRobertaForCausalLM, XLMRobertaModel

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.special_ids import PAD
from pipeline.benchmark.straightforward import IGNORED, append_metrics, engine_of
from pipeline.data.packing import Packed
from pipeline.data.streams import BatchPlan
from pipeline.data.training_data import TrainingData
from pipeline.data.views.text_to_text import TextToText
from pipeline.model.decoder import Decoder
from pipeline.objectives import catalog
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.objectives.text_to_text import DECODER
from pipeline.settings.added_words import words_of
from pipeline.settings.schema import Config
from pipeline.training import ranks
from pipeline.training.build import build_data, build_model
from pipeline.watch.hardware import peak_bytes
from pipeline.watch.meter import PhaseClock
from pipeline.weights.encoder_decoder import encoder_decoder_state
from pipeline.weights.hugging_face import write_config


@dataclass
class PaddedPairs:
    """B pairs as rows of the longest source's and the longest target's length."""

    source_BL: Tensor  # int64
    given_BM: Tensor  # int64: what the decoder reads
    label_BM: Tensor  # int64: the word that follows, IGNORED where there is none

    @staticmethod
    def of(texts: TextToText) -> PaddedPairs:
        assert texts.crossing.index_U is None, "every pair has one source and one target"
        return PaddedPairs(
            _rows(texts.source, texts.source.ids_T, PAD),
            _rows(texts.target, texts.target.ids_T, PAD),
            _rows(texts.target, texts.label_T, IGNORED),
        )

    @property
    def written(self) -> int:
        """Tokens of the targets."""
        return int((self.label_BM != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Of sources and targets."""
        return int((self.source_BL != PAD).sum()) + self.written

    @property
    def places(self) -> int:
        """The same, and the padding."""
        return self.source_BL.numel() + self.given_BM.numel()


def _rows(packed: Packed, values_T: Tensor, fill: int) -> Tensor:
    lengths_B = torch.from_numpy(packed.sequence_lengths).to(values_T.device)
    real_BL = torch.arange(packed.longest, device=values_T.device) < lengths_B[:, None]
    return values_T.new_full(real_BL.shape, fill).masked_scatter(real_BL, values_T)


class PaddedTranslator(nn.Module):
    """Hugging Face's model with the weights of `model`, whose decoder is vanilla and has embeddings of its own."""

    def __init__(self, model: PretrainingModel, smoothing: float) -> None:
        super().__init__()
        sizes, decoder = model.encoder.config, model.heads[DECODER]
        assert isinstance(decoder, Decoder)
        reads = XLMRobertaConfig(**write_config(sizes))
        writes = XLMRobertaConfig(
            **write_config(replace(sizes, layers=decoder.settings.layers)),
            is_decoder=True,
            add_cross_attention=True,
            tie_word_embeddings=True,
        )
        self.model = EncoderDecoderModel(
            encoder=XLMRobertaModel(reads, add_pooling_layer=False), decoder=XLMRobertaForCausalLM(writes)
        )
        state = encoder_decoder_state(model.encoder.state_dict(), decoder.state_dict())
        missing, unknown = self.model.load_state_dict(state, strict=False)
        assert all(name.startswith("decoder.lm_head.decoder.") for name in missing), "the output layer alone is tied"
        assert all(name.startswith("encoder.pooler.") for name in unknown), "nothing reads the pooler"
        self.smoothing = smoothing

    def forward(self, pairs: PaddedPairs) -> Tensor:
        """Summed cross-entropy, fp32."""
        logits_BMV = self.model(
            input_ids=pairs.source_BL,
            attention_mask=(pairs.source_BL != PAD).long(),
            decoder_input_ids=pairs.given_BM,
            decoder_attention_mask=(pairs.given_BM != PAD).long(),
            use_cache=False,
        ).logits
        return F.cross_entropy(
            logits_BMV.float().flatten(0, 1),
            pairs.label_BM.flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.smoothing,
        )


def train_padded(config: Config) -> None:
    """`run.steps` optimizer steps of translation; rank 0 appends a line per step to metrics.jsonl, as `train` does."""
    device = ranks.start(config.run.timeout_minutes)
    manifest, objectives = Manifest.load(config.data.path), catalog.build_objectives(config)
    data = build_data(config, objectives, manifest)
    plan = BatchPlan({"pairs": config.batch.pairs}, ranks.world_size(), config.batch.micro_steps)
    ours, _ = build_model(config, objectives, words_of(config, manifest))
    assert config.objectives.mt is not None, "`translation` has asked"
    engine = engine_of(PaddedTranslator(ours, config.objectives.mt.label_smoothing), config, plan, device)
    del ours
    clock = PhaseClock(device)
    for step in range(config.run.steps):
        sums = _one_step(engine, data, plan, step, clock)
        dist.all_reduce(sums)
        peak = torch.tensor(float(peak_bytes(device)), device=device)
        dist.all_reduce(peak, dist.ReduceOp.MAX)
        loss, written, tokens, places = sums.tolist()
        seconds = clock.read()
        total = sum(seconds.values())
        line = {
            "mt_loss": loss / written,
            "tokens_per_second": tokens / total,
            "seconds_per_step": total,
            **{f"seconds_{phase}": spent for phase, spent in seconds.items()},
            "real_share": tokens / places,
            "peak_memory_gb": float(peak) / 1e9,
        }
        append_metrics(config, step, line)


def _one_step(engine: Any, data: TrainingData, plan: BatchPlan, step: int, clock: PhaseClock) -> Tensor:
    """One optimizer step; this rank's summed loss, tokens written, tokens, and places with padding: fp64 [4]."""
    batches = []
    for micro in range(plan.micro_steps):
        batch = data.micro_batch(plan, step, micro, ranks.rank()).to(engine.device)
        batches.append(PaddedPairs.of(batch["pairs"].view(TextToText)))
    counts = [[0, pairs.written, pairs.tokens, pairs.places] for pairs in batches]
    sums = torch.tensor(counts, dtype=torch.double, device=engine.device).sum(dim=0)
    written = sums[1].clone()
    dist.all_reduce(written)
    clock.lap("input")
    for pairs in batches:
        loss = engine(pairs)
        clock.lap("forward")
        engine.backward(loss * (ranks.world_size() * plan.micro_steps / written).float())
        clock.lap("backward")
        engine.step()
        clock.lap("step")
        sums[0] += loss.detach().double()
    return sums
