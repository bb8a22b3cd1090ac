"""How fast a DATA_DIR is read into ready batches on one core: `python -m pipeline.benchmark.reading DATA_DIR`.

Prints JSON, per kind of data: tokens per second of processor time without masking (packed ids and offsets) and with it
(masked batches as the training loop takes them), and the seconds from an unopened folder to a first batch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from data_prep.token_files.manifest import Manifest
from pipeline.data.batch import View
from pipeline.data.streams import MonoStream, PairStream, Stream
from pipeline.data.views.collate import collate
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.settings.added_words import AddedWords

SEED, ALPHA = 1, 0.7
KINDS = {"mono": (MonoStream, 512, 64), "pairs": (PairStream, 254, 512)}  # stream, its limit, samples a batch
BATCHES, ROUNDS = 60, 5


def measure(data_dir: Path) -> dict[str, dict[str, float]]:
    """The figures of every kind of data that the folder holds."""
    found = {}
    for name, (make, limit, size) in KINDS.items():
        began = time.perf_counter()
        manifest = Manifest.load(data_dir)
        shards = getattr(manifest, name)
        if not shards:
            continue
        stream: Stream = make(shards, ALPHA, SEED, limit)

        words, views = AddedWords(manifest.vocab_size), [View(name, MaskedTokens.name)]

        def masked(
            number: int,
            stream: Stream = stream,
            size: int = size,
            words: AddedWords = words,
            views: list[View] = views,
        ) -> int:
            sequences = stream.samples(np.arange(number * size, (number + 1) * size))
            return collate(sequences, SEED, words, views).clean.tokens

        def packed(number: int, stream: Stream = stream, size: int = size) -> int:
            return int(stream.samples(np.arange(number * size, (number + 1) * size)).lengths_S.sum())

        masked(0)
        first_batch = time.perf_counter() - began
        rates = [(_rate(packed), _rate(masked)) for _ in range(ROUNDS)]
        without, with_masks = (median(values) for values in zip(*rates, strict=True))
        found[name] = {"packed": without, "masked": with_masks, "first_batch_seconds": first_batch}
    return found


def _rate(batch: Callable[[int], int]) -> float:
    """Tokens per second of processor time."""
    began = time.process_time()
    tokens = sum(map(batch, range(BATCHES)))
    return tokens / (time.process_time() - began)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(Path(sys.argv[1]))))
