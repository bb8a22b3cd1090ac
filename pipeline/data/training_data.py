"""From samples to micro-batches: packed and masked, for a rank in a micro-step, by arithmetic on its position.

Nothing here has state that a checkpoint would have to save: (seed, step, micro-step, rank) decide every token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from data_prep.token_files.manifest import Manifest
from pipeline.data.batch import MicroBatch, Pointers, StreamBatch
from pipeline.data.blend import Stage
from pipeline.data.packing import pack_flat
from pipeline.data.streams import BatchPlan, Sequences, open_streams
from pipeline.data.views.masking import mask_sequences
from sinkhorn_align import Spans


def collate(sequences: Sequences, mask_seed: int, vocab_size: int) -> StreamBatch:
    """Pack and mask."""
    clean_ids_T = sequences.ids_T
    clean = pack_flat(clean_ids_T, sequences.lengths_S)
    masked_ids_T, predicted_P = mask_sequences(sequences, mask_seed, vocab_size)
    batch = StreamBatch(
        masked=clean.with_ids(torch.from_numpy(masked_ids_T)),
        clean_ids_T=clean.ids_T,
        predicted_P=torch.from_numpy(predicted_P),
        target_ids_P=torch.from_numpy(clean_ids_T[predicted_P]),
        languages_S=sequences.language_S,
        sample_S=sequences.sample_S,
    )
    if sequences.side_lengths_S2 is not None:
        source_start, source_length = clean.offsets_S1[:-1] + 1, sequences.side_lengths_S2[:, 0]
        vectors = (source_start, source_length, source_start + source_length + 1, sequences.side_lengths_S2[:, 1])
        batch.spans = Spans(*(torch.from_numpy(vector.astype(np.int32)) for vector in vectors))
        batch.pointers = Pointers.of(batch.spans, batch.predicted_P)
    return batch


class TrainingData:
    """The streams of a run over one DATA_DIR."""

    def __init__(
        self,
        manifest: Manifest,
        streams: Sequence[str],
        *,
        alpha: float,
        seed: int,
        limits: dict[str, int],
        stages: Mapping[str, Sequence[Stage]] | None = None,
    ) -> None:
        self.vocab_size, self.seed = manifest.vocab_size, seed
        self.streams = open_streams(manifest, streams, alpha=alpha, seed=seed, limits=limits, stages=stages)

    def micro_batch(self, plan: BatchPlan, step: int, micro_step: int, rank: int) -> MicroBatch:
        """What `rank` works on in one micro-step; counted from 0."""
        return MicroBatch(
            {
                name: collate(stream.samples(plan.indices(name, step, micro_step, rank)), self.seed, self.vocab_size)
                for name, stream in self.streams.items()
            }
        )
