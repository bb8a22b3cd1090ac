"""What a trial's checkpoints are worth: AER by layer on both halves of every gold folder, and sentence retrieval."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from data_prep.files import write_text
from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.manifest import read_manifest
from pipeline.evaluate.alignment_error import evaluate_halves, gold_folders
from pipeline.evaluate.generation import check_installed, score_texts
from pipeline.evaluate.gold import Gold, read_gold
from pipeline.evaluate.retrieval import SentencePooler, evaluate_retrieval
from pipeline.experiments.plan import FineTuning
from pipeline.experiments.transfer import Tasks
from pipeline.generate.generator import Generator
from pipeline.generate.model import TextModel, load_text_model
from pipeline.generate.search import Search
from pipeline.model.encoder import Encoder
from pipeline.settings.align_options import AS_TRAINED, Way
from pipeline.texts.sentence_files import Sentences, find_pairs
from pipeline.weights.export import export
from pipeline.weights.loading import load_model
from pipeline.weights.opening import open_weights

MEASURED = "measured.json"
TRANSLATED = {"bleu": "BLEU", "chrf": "chrF", "exact_match": "exact"}
"""Scores of translations, and their headings. BLEU says little where words are not parted by spaces: chrF is of characters."""
LONGER = 2
"""How many times the longest reference's tokens a translation may have: a model that learned little writes on and on."""
Halves = dict[str, dict[str, list[float]]]
"""By pair, AER by layer on both halves: {"chosen_on": […], "reported_on": […]}."""
Measurement = dict[str, Any]
"""{"aer": Halves, of a model with a decoder "translation": {direction: scores by the names of `TRANSLATED`}, and at the end
"aer_argmax_separate": Halves, "retrieval": {pair: [accuracy by layer]} and "finetuned": {task: {language: scores}}}"""


class Yardstick:
    """The gold folders and sentences that every model is measured on."""

    def __init__(
        self,
        gold: Sequence[Path],
        retrieval: Sequence[Path],
        translated: Sequence[Path] = (),
        finetuned: Mapping[str, FineTuning] | None = None,
    ) -> None:
        self._golds: list[Gold] = [read_gold(folder) for folder in gold_folders(gold)]
        self._sentences: list[Sentences] = find_pairs(*retrieval)
        golds = [(g.source, g.target, [*map(sorted, g.sure)], [*map(sorted, g.possible)]) for g in self._golds]
        self._translated: list[Sentences] = find_pairs(*translated)
        content: Any = golds, [(pair.languages, pair.read()) for pair in self._sentences]
        if self._translated:
            check_installed()
            content = content, [(pair.languages, pair.read()) for pair in self._translated], LONGER
        self.tasks = Tasks(finetuned or {})
        if self.tasks.content:
            content = content, self.tasks.content
        self.digest = hashlib.sha256(repr(content).encode()).hexdigest()
        """Of all that is in them: what was measured on something else must be measured again."""

    def measure(self, folder: Path, everything: bool, seed: int = 1) -> Measurement:
        """AER of pretraining's aligner, and translations; with `everything` AER of mutual argmax on separate sides, retrieval,
        and tasks fine-tuned with `seed`, too. folder: what `open_weights` takes."""
        encoder, tokenizer = load_model(folder)
        measured: Measurement = {"aer": self._halves(encoder, tokenizer, AS_TRAINED)}
        writes = open_weights(folder, whole=False).decoder is not None
        if self._translated and writes:
            with TemporaryDirectory() as place:
                export(folder, Path(place) / "model")
                measured["translation"] = translations(load_text_model(Path(place) / "model"), self._translated)
        if everything:
            measured["aer_argmax_separate"] = self._halves(encoder, tokenizer, Way("argmax", "separate"))
            pooler = SentencePooler(tokenizer, encoder.hidden_states, encoder.config.longest)
            found = evaluate_retrieval(self._sentences, pooler)
            measured["retrieval"] = {each.languages: each.mean for each in found}
            measured["finetuned"] = self.tasks.measure(folder, seed, writes)
        return measured

    def _halves(self, encoder: Encoder, tokenizer: Tokenizer, way: Way) -> Halves:
        halves = {}
        for gold in self._golds:
            ((chosen, reported),) = evaluate_halves(encoder, tokenizer, gold, way)
            halves[f"{gold.source_language}-{gold.target_language}"] = {
                "chosen_on": [score.aer for score in chosen],
                "reported_on": [score.aer for score in reported],
            }
        return halves


def translations(model: TextModel, pairs: Sequence[Sentences]) -> dict[str, dict[str, float]]:
    """Scores of both directions of each pair, in per cent, by greedy search, a text as long as `LONGER` allows."""
    scores = {}
    for pair in pairs:
        for read, written in ((0, 1), (1, 0)):
            texts, to = pair.read(), pair.languages[written]
            longest = max(len(ids) for ids in model.tokenizer(texts[written]).input_ids)
            generator = Generator(model, Search(beam=1, max_tokens=LONGER * longest), to)
            found = [each.text for each in generator.generate(texts[read])]
            score = score_texts(found, texts[written], to).metrics()
            scores[f"{pair.languages[read]}-{to}"] = {name: score[name] for name in TRANSLATED}
    return scores


def measure_run(run: Path, yardstick: Yardstick, seed: int = 1) -> dict[int, Measurement]:
    """Measurements by step of all checkpoints of a run, kept beside them; of the last one everything. seed: of fine-tuning."""
    path = run / MEASURED
    measured = {int(step): values for step, values in _kept(path, yardstick).items()}
    folders = dict(_checkpoints(run))
    for step, folder in folders.items():
        everything = step == max(folders)
        if step not in measured or (everything and "retrieval" not in measured[step]):
            measured[step] = yardstick.measure(folder, everything, seed)
            _keep(path, yardstick, measured)
    return dict(sorted(measured.items()))


def measure_start(init: Path, out: Path, yardstick: Yardstick) -> Measurement:
    """Measurement of the model that all runs start from, kept in the experiment's folder `out`."""
    path = out / "start.json"
    measured = _kept(path, yardstick)
    if not measured:
        measured = yardstick.measure(init, everything=True)
        _keep(path, yardstick, measured)
    return measured


def _kept(path: Path, yardstick: Yardstick) -> dict[Any, Any]:
    """What was measured before with the same yardstick."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content.get("measured", {}) if content.get("yardstick") == yardstick.digest else {}


def _keep(path: Path, yardstick: Yardstick, measured: Mapping[Any, Any]) -> None:
    write_text(path, json.dumps({"yardstick": yardstick.digest, "measured": measured}) + "\n")


def chosen_layer(halves: Halves) -> int:
    """The layer with the lowest mean AER on the halves that choose."""
    by_layer = [mean(values) for values in zip(*(of["chosen_on"] for of in halves.values()), strict=True)]
    return min(range(len(by_layer)), key=by_layer.__getitem__)


def reported_aer(halves: Halves) -> dict[str, float]:
    """AER of every pair on the other halves, at the chosen layer."""
    layer = chosen_layer(halves)
    return {pair: of["reported_on"][layer] for pair, of in halves.items()}


def mean_translation(measured: Measurement, score: str) -> float | None:
    """A score of translations, its mean over directions; None where nothing is translated."""
    found = measured.get("translation")
    return mean(of[score] for of in found.values()) if found else None


def mean_aer(halves: Halves) -> float:
    """`reported_aer`, its mean over pairs."""
    return mean(reported_aer(halves).values())


def best_retrieval(measured: Measurement) -> tuple[int, float] | None:
    """The layer with the best mean accuracy over pairs, and that; None where nothing is retrieved."""
    found = measured["retrieval"]
    if not found:
        return None
    by_layer = [mean(values) for values in zip(*found.values(), strict=True)]
    layer = max(range(len(by_layer)), key=by_layer.__getitem__)
    return layer, by_layer[layer]


def _checkpoints(run: Path) -> Iterator[tuple[int, Path]]:
    for folder in checkpoint.sealed(run):
        yield read_manifest(folder).step, folder
