"""Started by the deepspeed launcher: trains two steps with every ZeRO stage, one after another in the same processes.

Usage: step_worker.py --config CONFIG --out DIR [--unlinked] [key=value …]. Rank 0 leaves the trained parameters in
DIR/zeroN.pt, and with --unlinked in DIR/zeroN_unlinked.pt those of steps in which rank 1 has no link.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from pipeline import checkpoint, ranks
from pipeline.batch import StreamBatch
from pipeline.config import load_config
from pipeline.objectives.dwa import WordAlignment
from pipeline.train import train

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = (0, 1, 2, 3)
STEPS = 2
PARTS = 4  # ranks × micro-steps, in every cut


def unlink_odd_parts(batch: StreamBatch, pairs: int) -> None:
    """Take away the links of the second and fourth quarter of the step's pairs: with 2 or 4 ranks, all that rank 1 has."""
    part_B = (batch.sample_S % pairs) // (pairs // PARTS)
    spans, links = batch.spans, batch.links
    for pair in (part_B % 2 == 1).nonzero()[0]:
        for start_B, length_B in (
            (spans.source_start_B, spans.source_length_B),
            (spans.target_start_B, spans.target_length_B),
        ):
            links.partner_T[start_B[pair] : start_B[pair] + length_B[pair]] = -1


def final_parameters(saved: Path, stage: int) -> dict[str, Tensor]:
    """The parameters in a checkpoint, whole and by name."""
    if stage == 0:
        return torch.load(saved / "mp_rank_00_model_states.pt", weights_only=False)["module"]
    return get_fp32_state_dict_from_zero_checkpoint(str(saved.parent), tag=saved.name)


def with_unlinking(label: Callable[..., Any], pairs: int) -> Callable[..., Any]:
    """The objective's own labelling, then `unlink_odd_parts`."""

    def label_and_unlink(objective: WordAlignment, encode: Any, batch: StreamBatch) -> Any:
        metrics = label(objective, encode, batch)
        unlink_odd_parts(batch, pairs)
        return metrics

    return label_and_unlink


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unlinked", action="store_true")
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    label = WordAlignment.label

    for suffix in ("", "_unlinked") if arguments.unlinked else ("",):
        for stage in STAGES:
            case = f"zero{stage}{suffix}"
            overrides = (
                f"deepspeed={REPOSITORY / 'ds_configs' / f'zero{stage}_fp32.json'}",
                f"run.out={arguments.out / case}",
                f"run.steps={STEPS}",
            )
            config = load_config(arguments.config, [*arguments.overrides, *overrides])
            WordAlignment.label = with_unlinking(label, config.batch.pairs) if suffix else label
            train(config, resume=None)
            if ranks.rank() == 0:
                saved = checkpoint.folder_of(config.run.out) / checkpoint.tag_of(STEPS)
                torch.save(final_parameters(saved, stage), arguments.out / f"{case}.pt")


if __name__ == "__main__":
    ranks.run_main(main)
