"""The texts that a validation aligns and retrieves, as its settings name them."""

from __future__ import annotations

from pipeline.evaluate.alignment_error import distinct, gold_folders
from pipeline.evaluate.gold import Gold, read_gold
from pipeline.settings.schema import Validation
from pipeline.texts.sentence_files import Sentences, find_pairs


def read_texts(settings: Validation) -> tuple[dict[str, Gold], list[Sentences]]:
    """The gold pairs by the names of their folders, and the sentences for retrieval; ValueError says what is wrong."""
    golds = [read_gold(folder).first(settings.gold_pairs) for folder in gold_folders(settings.gold)]
    names = distinct([f"{gold.source_language}-{gold.target_language}" for gold in golds])
    found = find_pairs(*settings.retrieval)
    return dict(zip(names, golds, strict=True)), [pair.loaded(settings.retrieval_sentences) for pair in found]
