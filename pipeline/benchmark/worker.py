"""One contender of `benchmark`, under the deepspeed launcher: the training loop itself, a part of it switched off, or neither.

Usage: deepspeed … pipeline/benchmark/worker.py --contender NAME --config CONFIG [key=value …]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # Started as a file: put the repository on the path instead of this folder, whose names are not top-level modules.
    # With PYTHONSAFEPATH the folder is not there, and nothing is replaced.
    sys.path[: 0 if getattr(sys.flags, "safe_path", False) else 1] = [str(Path(__file__).resolve().parents[2])]

import torch.nn.functional as F
from torch import Tensor

from pipeline import train
from pipeline.benchmark.padded_translation import train_padded
from pipeline.benchmark.straightforward import Shortcuts, train_straightforwardly
from pipeline.model import heads, linear
from pipeline.objectives import pretraining_model
from pipeline.settings.schema import load_config
from pipeline.training import ranks
from pipeline.training.saves import Saves


def whole_logits(
    input_PD: Tensor, weight_VD: Tensor, bias_V: Tensor, target_P: Tensor, groups: Sequence[int] = ()
) -> tuple[Tensor, ...]:
    """`linear_cross_entropy` without chunks."""
    logits_PV = F.linear(input_PD, weight_VD, bias_V).float()
    rows = list(groups) or [len(target_P)]
    loss_P = F.cross_entropy(logits_PV, target_P, reduction="none")
    hit_P = logits_PV.argmax(-1) == target_P
    return *(part.sum() for part in loss_P.split(rows)), *(part.sum() for part in hit_P.split(rows))


def use_whole_logits() -> None:
    heads.linear_cross_entropy = whole_logits  # type: ignore[assignment]


def encode_streams_apart() -> None:
    together = pretraining_model.MicroStepEncoder
    pretraining_model.MicroStepEncoder = lambda encoder, _=(): together(encoder)  # type: ignore[assignment, misc]


def use_pytorchs_products() -> None:
    linear.WORTH_IT = sys.maxsize


def save_nothing() -> None:
    """A checkpoint of what was only timed: 14 bytes a parameter, written and hashed, would take longer than the steps."""
    Saves.due = lambda *_: False  # type: ignore[method-assign]


def run_ours(without: tuple[Callable[[], None], ...], config: Path, overrides: list[str]) -> None:
    for switch_off in (save_nothing, *without):
        switch_off()
    train.train(load_config(config, overrides), resume=None)


def run_padded(shortcuts: Shortcuts, config: Path, overrides: list[str]) -> None:
    train_straightforwardly(load_config(config, overrides), shortcuts)


def run_padded_translation(config: Path, overrides: list[str]) -> None:
    train_padded(load_config(config, overrides))


Contender = Callable[[Path, list[str]], None]
# In the order in which the measures add up: every contender has those of the one before it.
CONTENDERS: dict[str, Contender] = {
    "straightforward": partial(run_padded, Shortcuts()),
    "+ labels in one batch": partial(run_padded, Shortcuts(batched_labels=True)),
    "+ labelling stops at its layer": partial(run_padded, Shortcuts(batched_labels=True, stop_at_label_layer=True)),
    "+ head at masked tokens only": partial(
        run_padded, Shortcuts(batched_labels=True, stop_at_label_layer=True, head_at_masked_tokens=True)
    ),
    "+ packed without padding": partial(run_ours, (use_pytorchs_products, use_whole_logits, encode_streams_apart)),
    "+ streams in one pass": partial(run_ours, (use_pytorchs_products, use_whole_logits)),
    "+ vocabulary in chunks": partial(run_ours, (use_pytorchs_products,)),
    "ours (+ products by oneDNN)": partial(run_ours, ()),
}
TRANSLATORS: dict[str, Contender] = {
    "EncoderDecoderModel": run_padded_translation,
    "ours": partial(run_ours, ()),
}
EVERY = {**CONTENDERS, **TRANSLATORS}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--contender", required=True, choices=list(EVERY))
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    EVERY[arguments.contender](arguments.config, arguments.overrides)


if __name__ == "__main__":
    ranks.run_main(main)
