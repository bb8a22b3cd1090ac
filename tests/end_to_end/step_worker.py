"""Trains two steps with every ZeRO stage and several cuts of the global batch, ranks forked from one process.

Usage: step_worker.py --config CONFIG --out DIR --port PORT. Rank 0 leaves the trained parameters in
DIR/RANKS_ranks_zeroSTAGE.pt, in …_absent.pt those of steps in which some ranks have no link, in …_uneven.pt those in which
they have very different numbers, in …_mlm.pt those of a single objective, which has one forward, and in …_replaced.pt those of
replaced tokens, whose generator and discriminator have two; in …_disentangled.pt, at some stages, with tables of their own; in
…_writing.pt those of text to text, and in …_interleaved.pt, at some stages, with a decoder of another layout and own tables.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing

from pipeline.checkpoints import checkpoint
from pipeline.data.batch import MicroBatch, StreamBatch
from pipeline.model import linear
from pipeline.objectives.base import Labels
from pipeline.objectives.word_alignment import PARTNER, WordAlignment
from pipeline.settings.schema import load_config
from pipeline.settings.text_to_text import WRITING
from pipeline.train import train
from pipeline.weights.consolidate import full_state
from tests.end_to_end.forked import REPOSITORY, fork, parse_arguments

STAGES = (0, 1, 2, 3)
STEPS = 2
RANKS = (1, 2, 4)
ONE_OBJECTIVE = ("objectives.tlm=null", "objectives.dwa=null")


def replaced(embeddings: str) -> tuple[str, ...]:
    """Replaced tokens alone."""
    term = f"{{generator_layers: 1, embeddings: {embeddings}}}"
    return ("objectives.mlm=null", *ONE_OBJECTIVE, f"objectives.mrtd={term}", f"objectives.trtd={term}")


def writing(decoder: str) -> tuple[str, ...]:
    """Text to text alone."""
    terms = (f"objectives.{name}={{}}" for name in WRITING)
    return ("objectives.mlm=null", *ONE_OBJECTIVE, f"model.decoder={decoder}", *terms)


VARIANTS: dict[str, tuple[str, ...]] = {
    "": (),
    "_absent": (),
    "_uneven": (),
    "_mlm": ONE_OBJECTIVE,
    "_replaced": replaced("tied"),
    "_disentangled": replaced("disentangled"),
    "_writing": writing("{layers: 1}"),
    "_interleaved": writing("{layers: 1, layout: interleaved, embeddings: own, tag: source}"),
}
BY_ONEDNN = ("", "_mlm", "_writing")
"""Variants whose products are oneDNN's, which so small ones usually are not: it takes time for each of their many shapes."""
STAGES_OF = {"_disentangled": (2, 3), "_interleaved": (1, 3)}
"""Of variants that are not trained at every stage."""
PARTS = 4  # ranks × micro-steps, in every cut
# How many pairs of each quarter of the step keep their links. With 2 or 4 ranks the odd quarters are all that rank 1 has.
LINKED_PAIRS = {"_absent": (4, 0, 4, 0), "_uneven": (1, 4, 1, 2)}


def unlink(batch: StreamBatch, partner_T: torch.Tensor, pairs: int, linked_pairs: tuple[int, ...]) -> None:
    """Take away the links of all but the first so many pairs of each quarter of the step's pairs."""
    part_B, place_B = np.divmod(batch.sample_S % pairs, pairs // PARTS)
    spans = batch.spans
    for pair in np.flatnonzero(place_B >= np.array(linked_pairs)[part_B]):
        for start_B, length_B in (
            (spans.source_start_B, spans.source_length_B),
            (spans.target_start_B, spans.target_length_B),
        ):
            partner_T[start_B[pair] : start_B[pair] + length_B[pair]] = -1


def settings_of(stage: int, out: Path) -> Path:
    """The DeepSpeed file of a ZeRO stage, as `write_settings` left it."""
    return out / f"zero{stage}_fp32.json"


def write_settings(out: Path) -> None:
    """The shipped files; at ZeRO-3 every weight is partitioned, where by default those of so small a model stay whole."""
    for stage in STAGES:
        settings = json.loads((REPOSITORY / "ds_configs" / f"zero{stage}_fp32.json").read_text(encoding="utf-8"))
        if stage == 3:
            settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        settings_of(stage, out).write_text(json.dumps(settings), encoding="utf-8")


def with_unlinking(label: Callable[..., Any], pairs: int, linked_pairs: tuple[int, ...]) -> Callable[..., Any]:
    """The objective's own labelling, then `unlink`."""

    def label_and_unlink(objective: WordAlignment, encode: Any, modules: Any, batch: MicroBatch) -> Labels:
        labels = label(objective, encode, modules, batch)
        unlink(batch["pairs"], labels.tensors[PARTNER], pairs, linked_pairs)
        return labels

    return label_and_unlink


def train_cases(rank: int, world_size: int, config_path: Path, out: Path) -> None:
    """One rank's life: all cases of one cut, one after another, each a whole run of `train`."""
    label, worth_it = WordAlignment.label, linear.WORTH_IT
    for suffix in VARIANTS:
        linear.WORTH_IT = 1 if suffix in BY_ONEDNN else worth_it
        for stage in STAGES_OF.get(suffix, STAGES):
            case = f"{world_size}_ranks_zero{stage}{suffix}"
            overrides = (
                f"deepspeed={settings_of(stage, out)}",
                f"run.out={out / case}",
                f"run.steps={STEPS}",
                f"batch.micro_steps={PARTS // world_size}",
                *VARIANTS[suffix],
            )
            config = load_config(config_path, overrides)
            unlinking = suffix in LINKED_PAIRS
            WordAlignment.label = (
                with_unlinking(label, config.batch.pairs, LINKED_PAIRS[suffix]) if unlinking else label
            )
            train(config, resume=None)
            if rank == 0:
                saved = checkpoint.folder_of(config.run.out) / checkpoint.tag_of(STEPS)
                torch.save(full_state(saved, checkpoint.read_info(saved)), out / f"{case}.pt")


def main() -> None:
    arguments = parse_arguments()
    write_settings(arguments.out)
    for world_size in RANKS:
        fork(train_cases, world_size, arguments.port, world_size, arguments.config, arguments.out)


if __name__ == "__main__":
    main()
