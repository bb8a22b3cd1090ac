"""The tasks without training, by XTREME's protocol: Tatoeba's nearest sentences and BUCC's translations by margin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.evaluate.mining import MinedPair, are_gold, best_threshold, distinct, mine
from pipeline.evaluate.protocols import AppliedProtocol, evaluate_protocol, found_by_pivot, pooler_of
from pipeline.evaluate.retrieval import SentencePooler
from pipeline.evaluate.xtreme_files import write_found, write_id_pairs
from pipeline.model.devices import Place
from pipeline.texts.identified import Identified, read_gold_pairs, read_identified
from pipeline.texts.lines import read_lines
from pipeline.texts.sentence_files import Sentences
from pipeline.weights.loading import LoadedModel
from pipeline.xtreme.catalog import ENGLISH, XtremeTask
from pipeline.xtreme.submission import prediction_path

SENTENCES_AT_ONCE = 512
"""Whose ids are in memory at once."""


def predict_retrieval(
    task: XtremeTask, data: Path, languages: Sequence[str], loaded: LoadedModel, applied: AppliedProtocol, out: Path
) -> None:
    """Write for each language the line that every English line finds, by cosine.

    Raises:
        ValueError: a file is missing or empty.
    """
    for language in languages:
        path = data / task.test_of(language)
        paths = path.with_suffix(f".{ENGLISH}"), path
        texts = read_lines(paths[0], "a sentence a line"), read_lines(paths[1], "a sentence a line")
        pair = Sentences((ENGLISH, language), paths, texts)
        for _, matches in evaluate_protocol([pair], loaded, applied):
            write_found(prediction_path(out, task, language), found_by_pivot(matches).tolist())


def predict_mining(
    task: XtremeTask,
    data: Path,
    languages: Sequence[str],
    loaded: LoadedModel,
    applied: AppliedProtocol,
    place: Place,
    out: Path,
) -> dict[str, float]:
    """Write for each language the pairs of ids whose margin is at least what is best on its dev set; these, by language.

    Raises:
        ValueError: a file is missing, or not as BUCC has it.
    """
    thresholds = {}
    pooler = pooler_of(loaded, applied)
    for language in languages:
        path = data / task.test_of(language)
        dev = path.with_name(path.name.replace(".test.", ".dev."))
        sides = _read(dev)
        gold = read_gold_pairs(dev.with_suffix(".gold"), *sides)
        pairs = _mined(sides, pooler, place)
        right = are_gold(pairs, *sides, gold)
        thresholds[language] = best_threshold([pair.margin for pair in pairs], right, len(gold))
        sides = _read(path)
        taken = [pair for pair in _mined(sides, pooler, place) if pair.margin >= thresholds[language]]
        ids = ((sides[0].ids[pair.source], sides[1].ids[pair.target]) for pair in taken)
        write_id_pairs(prediction_path(out, task, language), ids)
    return thresholds


def _read(path: Path) -> tuple[Identified, Identified]:
    return read_identified(path), read_identified(path.with_suffix(f".{ENGLISH}"))


def _mined(sides: tuple[Identified, Identified], pooler: SentencePooler, place: Place) -> list[MinedPair]:
    source, target = map(distinct, sides)
    vectors = [_vectors(pooler, side.texts) for side in (source, target)]
    return mine(source, target, vectors[0], vectors[1], device=place.device)


def _vectors(pooler: SentencePooler, texts: Sequence[str]) -> Tensor:
    """fp32 [S, D], of length 1."""
    parts: list[Tensor] = []
    for first in range(0, len(texts), SENTENCES_AT_ONCE):
        parts += pooler.vectors(texts[first : first + SENTENCES_AT_ONCE])
    return torch.cat(parts)
