"""Validation during training: losses per language on held-out token files; AER and sentence retrieval of every layer.

Goes through the engine like training does; every rank runs the same sequence of forwards. What is measured, and how, is
what `python -m pipeline evaluate` measures of a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.align.word_alignment import HiddenStates, WordAligner
from pipeline.data.packing import Packed
from pipeline.evaluate.alignment_error import best_layer, distinct, score_layers
from pipeline.evaluate.retrieval import SentencePooler, evaluate_retrieval
from pipeline.evaluate.validation_texts import read_texts
from pipeline.model.encoder import EncoderConfig
from pipeline.objectives import catalog
from pipeline.settings.added_words import AddedWords, words_of
from pipeline.settings.align_options import AlignOptions, check_layer, chosen_over, options_of_json, trained_options
from pipeline.settings.schema import Config
from pipeline.training import ranks
from pipeline.training.build import open_data
from pipeline.training.start_check import check_validation
from pipeline.watch.alignment_record import align_shown, choose_pairs
from pipeline.watch.monitor import Monitor
from pipeline.weights.loading import longest_side

Figures = dict[str, float | list[float]]
"""Values by key, as docs/metrics.md has them; a list holds a value for every layer."""


NAMES_SHOWN = 4
"""Languages or pairs of a measure that the screen shows one by one; of more, their mean. metrics.jsonl has them all."""


class Validator:
    """What the config asks to be measured; opened, and checked, before training starts."""

    def __init__(self, config: Config, manifest: Manifest, encoder: EncoderConfig) -> None:
        self._settings = config.validation
        self._objectives = catalog.build_objectives(config)
        self._data = None
        check_validation(config, manifest)
        self._labelling, self._layers = catalog.labelling(config.objectives), encoder.layers
        self._best: tuple[int, str] | None = None
        self._chosen = config.aligner
        if self._chosen.layer is not None:
            check_layer(self._chosen.layer, encoder.layers, "aligner.layer =")
        if not self._settings.every:
            return
        if self._settings.data is not None:
            held_out = Manifest.load(self._settings.data)
            held = {"mono": held_out.mono, "pairs": held_out.pairs, "contrast": held_out.pairs}
            views = [view for objective in self._objectives for view in objective.reads if held[view.stream]]
            self._data = open_data(config, views, held_out, _words_for(config, manifest, held_out))
        self._golds, self._sentences = read_texts(self._settings)
        self._tokenizer, self._encoder = Tokenizer.load(manifest.tokenizer_dir), encoder
        self._shown = choose_pairs(self._golds, self._settings.shown_pairs, self._tokenizer, longest_side(encoder))
        self._layer = self._options().layer

    def due(self, step: int, last: int) -> bool:
        """Whether to measure after a step."""
        return bool(self._settings.every) and (step % self._settings.every == 0 or step == last)

    def run(self, engine: Any, monitor: Monitor | None, step: int) -> Figures:
        """Measure, show and record; the engine is left in the mode that it was in."""
        if not self._settings.every:
            return {}
        was_training = engine.training
        engine.eval()
        with torch.no_grad():
            alignment_error = self._alignment_error(engine)
            values: Figures = {**self._losses(engine), **alignment_error, **self._retrieval(engine)}
            shown = align_shown(self._shown, self._aligner(_hidden_states(engine, self._layer)))
        engine.train(was_training)
        if step:  # before the first step it is another model
            self._best = best_of(alignment_error, step) or self._best
        if monitor and values:
            monitor.record("validation", step, values)
            monitor.say(f"validation at step {step}: {describe(values)}")
        if monitor and shown:
            monitor.record_alignments(step, self._layer, shown)
        return values

    def align_options(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """How words align best with the model as it is, to be kept with it: by the layer that was measured last, if any.

        before: what was kept with the checkpoint that the run continues from, which may have been measured too.
        """
        if self._best is None and before:
            return self._chosen_over(options_of_json(before, "the checkpoint's alignment")).as_json()
        return self._options(self._best).as_json()

    def _options(self, best: tuple[int, str] | None = None) -> AlignOptions:
        return self._chosen_over(trained_options(self._layers, self._labelling, best))

    def _chosen_over(self, options: AlignOptions) -> AlignOptions:
        return chosen_over(options, self._chosen.layer, self._chosen.method, self._chosen.encoding)

    def _losses(self, engine: Any) -> dict[str, float]:
        """Loss per predicted token of each objective and language; of objectives that read one stream alone."""
        if self._data is None:
            return {}
        names, sums = [], []
        for stream_name, stream in self._data.streams.items():
            objectives = [objective for objective in self._objectives if objective.streams == [stream_name]]
            for language, language_name in enumerate(stream.names):
                total = torch.zeros(len(objectives), 2, dtype=torch.double, device=engine.device)
                samples = np.arange(min(self._settings.samples, stream.counts[language]))
                for indices, weight in _shares(samples, self._settings.batch):
                    batch = self._data.head(stream_name, language, indices).to(engine.device)
                    labels = {name: found["labels"] for name, found in engine("label", batch).items()}
                    terms = engine("losses", batch, labels)
                    rows = [
                        torch.stack([terms[o.name]["loss"].double(), o.count(batch, labels[o.name]).double()])
                        for o in objectives
                    ]
                    total += weight * torch.stack(rows)
                names += [f"{objective.name}_loss/{language_name}" for objective in objectives]
                sums.append(total)
        stacked = torch.cat(sums)
        dist.all_reduce(stacked)
        return {name: loss / max(count, 1) for name, (loss, count) in zip(names, stacked.tolist(), strict=True)}

    def _alignment_error(self, engine: Any) -> Figures:
        """AER of the aligner at every layer, per gold folder; every rank aligns them all."""
        values: Figures = {}
        for name, gold in self._golds.items():
            layers = score_layers(self._aligner(_hidden_states(engine)), gold)
            values |= self._by_layer("aer", name, [score.aer for score in layers], best_layer(layers))
        return values

    def _retrieval(self, engine: Any) -> Figures:
        """Accuracy of sentence retrieval at every layer, mean of both directions; every rank encodes them all."""
        pooler = SentencePooler(self._tokenizer, _hidden_states(engine), self._encoder.longest)
        found = evaluate_retrieval(self._sentences, pooler)
        values: Figures = {}
        for name, result in zip(distinct([result.languages for result in found]), found, strict=True):
            values |= self._by_layer("retrieval", name, result.mean, result.best_layer)
        return values

    def _by_layer(self, measure: str, name: str, scores: list[float], best: int) -> Figures:
        return {
            f"{measure}/{name}": scores[self._layer],
            f"{measure}_best/{name}": scores[best],
            f"{measure}_best_layer/{name}": best,
            f"{measure}_by_layer/{name}": scores,
        }

    def _aligner(self, hidden_states: HiddenStates) -> WordAligner:
        options = self._options()
        return WordAligner(
            self._tokenizer,
            hidden_states,
            options.way,
            longest_side=longest_side(self._encoder, options.encoding),
        )


def _words_for(config: Config, manifest: Manifest, held_out: Manifest) -> AddedWords:
    """The words of the run's model; ValueError where held-out text is in a language that has no tag."""
    words = words_of(config, manifest)
    if without := sorted(set(words_of(config, held_out).languages) - set(words.languages)):
        raise ValueError(
            f"validation.data = {config.validation.data}: has {without[0]}, a language that data.path = {config.data.path} has "
            "not, and the model no tag for; leave it out"
        )
    return words


def best_of(values: Figures, step: int) -> tuple[int, str] | None:
    """The layer with the lowest mean AER over the gold folders, and how it was found; None without gold."""
    by_folder = {
        key.partition("/")[2]: layers
        for key, layers in values.items()
        if key.startswith("aer_by_layer/") and isinstance(layers, list)
    }
    if not by_folder:
        return None
    means = [mean(of_layer) for of_layer in zip(*by_folder.values(), strict=True)]
    best = min(range(len(means)), key=means.__getitem__)
    return (
        best,
        f"the lowest mean AER, {100 * means[best]:.1f} %, of the validation at step {step} ({', '.join(by_folder)})",
    )


def _hidden_states(engine: Any, layer: int | None = None) -> HiddenStates:
    """Hidden states through the engine, which alone can gather weights that ZeRO-3 has cut: of a layer, or (None) of all."""

    def hidden_states(packed: Packed) -> Sequence[Tensor]:
        hidden = engine("hidden", packed.to(engine.device), layers=layer)["hidden"]
        return list(hidden.values()) if layer is None else [hidden[str(layer)]]

    return hidden_states


def describe(values: Figures) -> str:
    """Losses, and what the alignment layer and the best one reach; of many languages or pairs the mean."""
    by_measure: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        measure, _, name = key.partition("/")
        if isinstance(value, float) and not measure.endswith(("_best", "_best_layer", "_by_layer")):
            by_measure.setdefault(measure, {})[name] = value
    parts = []
    for measure, of_names in by_measure.items():
        if len(of_names) > NAMES_SHOWN:
            worst = max(of_names, key=of_names.__getitem__), min(of_names, key=of_names.__getitem__)
            extremes = f"{of_names[worst[1]]:.3f} {worst[1]} to {of_names[worst[0]]:.3f} {worst[0]}"
            parts.append(f"{measure} {mean(of_names.values()):.3f}, mean of {len(of_names)} ({extremes})")
            continue
        for name, value in of_names.items():
            best, layer = values.get(f"{measure}_best/{name}"), values.get(f"{measure}_best_layer/{name}")
            parts.append(
                f"{measure}/{name} {value:.3f}" + ("" if best is None else f" (best {best:.3f}, layer {layer})")
            )
    return "  ".join(parts)


def _shares(samples: np.ndarray, size: int) -> list[tuple[np.ndarray, float]]:
    """This rank's batches: equally many on every rank, those without a batch left repeat one with weight 0."""
    batches = [samples[at : at + size] for at in range(0, len(samples), size)]
    world_size, rank = ranks.world_size(), ranks.rank()
    rounds = -(-len(batches) // world_size)
    places = [turn * world_size + rank for turn in range(rounds)]
    return [(batches[min(place, len(batches) - 1)], float(place < len(batches))) for place in places]
