"""Validation during training: every objective's loss per language on held-out token files, and AER on gold alignments.

Goes through the engine like training does; every rank runs the same sequence of forwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data_prep.manifest import Manifest
from data_prep.tokenizer import Tokenizer
from pipeline import ranks
from pipeline.batch import MicroBatch
from pipeline.build import build_objectives, open_streams
from pipeline.config import Config
from pipeline.data import collate
from pipeline.model import EncoderConfig
from pipeline.monitor import Monitor
from pipeline.packing import Packed
from pipeline.use.evaluate import score_layers
from pipeline.use.gold import Gold, read_gold
from pipeline.use.word_alignment import WordAligner


class Validator:
    """What the config asks to be measured; opened, and checked, before training starts."""

    def __init__(self, config: Config, manifest: Manifest, encoder: EncoderConfig) -> None:
        self._settings, self._dwa = config.validation, config.objectives.dwa
        self._objectives = build_objectives(config)
        self._data = None
        self._gold: dict[str, Gold] = {}
        if not self._settings.every:
            return
        if self._settings.data is not None:
            held_out = Manifest.load(self._settings.data)
            if held_out.tokenizer_sha256 != manifest.tokenizer_sha256:
                raise ValueError(
                    f"validation.data = {self._settings.data}: made with another tokenizer than data.path = "
                    f"{config.data.path}; binarize it with {manifest.tokenizer_dir}"
                )
            held = {"mono": held_out.mono, "pairs": held_out.pairs}
            streams = sorted({objective.reads for objective in self._objectives if held[objective.reads]})
            self._data = open_streams(config, streams, held_out)
        for folder in self._settings.gold:
            gold = read_gold(folder).first(self._settings.gold_pairs)
            self._gold[f"{gold.source_language}-{gold.target_language}"] = gold
        self._tokenizer = Tokenizer.load(manifest.tokenizer_dir)
        # Without word alignment there is no label layer; the released recipe's, two below the top, stands in.
        self._layer = self._dwa.alignment_layer if self._dwa else max(encoder.layers - 2, 0)
        self._longest_side = config.data.side_tokens

    def run(self, engine: Any, monitor: Monitor | None, step: int) -> dict[str, float]:
        """Measure, show and record; the engine is left in the mode that it was in."""
        if not self._settings.every:
            return {}
        was_training = engine.training
        engine.eval()
        with torch.no_grad():
            values = self._losses(engine) | self._alignment_error(engine)
        engine.train(was_training)
        if monitor and values:
            monitor.record("validation", step, values)
            monitor.say(f"validation at step {step}: " + "  ".join(f"{k} {v:.3f}" for k, v in values.items()))
        return values

    def _losses(self, engine: Any) -> dict[str, float]:
        """Loss per predicted token of each objective and language."""
        if self._data is None:
            return {}
        names, sums = [], []
        for stream_name, stream in self._data.streams.items():
            objectives = [objective for objective in self._objectives if objective.reads == stream_name]
            for language, language_name in enumerate(stream.names):
                total = torch.zeros(len(objectives), 2, dtype=torch.double, device=engine.device)
                samples = np.arange(min(self._settings.samples, stream.counts[language]))
                for indices, weight in _shares(samples, self._settings.batch):
                    stream_batch = collate(stream.head(language, indices), self._data.seed, self._data.vocab_size)
                    batch = MicroBatch({stream_name: stream_batch}).to(engine.device)
                    engine("label", batch)
                    terms = engine("losses", batch)
                    rows = [
                        torch.stack([terms[o.name]["loss"].double(), o.count(batch[stream_name]).double()])
                        for o in objectives
                    ]
                    total += weight * torch.stack(rows)
                names += [f"{objective.name}_loss/{language_name}" for objective in objectives]
                sums.append(total)
        stacked = torch.cat(sums)
        dist.all_reduce(stacked)
        return {name: loss / max(count, 1) for name, (loss, count) in zip(names, stacked.tolist(), strict=True)}

    def _alignment_error(self, engine: Any) -> dict[str, float]:
        """AER of the aligner at the alignment layer, per gold folder; every rank aligns them all."""

        def hidden_states(packed: Packed) -> Sequence[Tensor]:
            return [engine("hidden", packed.to(engine.device), self._layer)["hidden"][str(self._layer)]]

        values = {}
        settings = self._dwa.alignment_settings() if self._dwa else None
        for name, gold in self._gold.items():
            aligner = WordAligner(self._tokenizer, hidden_states, settings, longest_side=self._longest_side)
            values[f"aer/{name}"] = score_layers(aligner, gold)[0].aer
        return values


def _shares(samples: np.ndarray, size: int) -> list[tuple[np.ndarray, float]]:
    """This rank's batches: equally many on every rank, those without a batch left repeat one with weight 0."""
    batches = [samples[at : at + size] for at in range(0, len(samples), size)]
    world_size, rank = ranks.world_size(), ranks.rank()
    rounds = -(-len(batches) // world_size)
    places = [turn * world_size + rank for turn in range(rounds)]
    return [(batches[min(place, len(batches) - 1)], float(place < len(batches))) for place in places]
