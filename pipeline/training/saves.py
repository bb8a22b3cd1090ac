"""Where a run begins and what it leaves: the checkpoint that it goes on from, and those that it writes.

Every method is called by every rank, in the same order; rank 0 alone looks at folders and seals.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

from pipeline.checkpoints import checkpoint, reshard
from pipeline.checkpoints.manifest import CheckpointInfo
from pipeline.host import room
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings.schema import Run
from pipeline.training import ranks, replicated, resuming
from pipeline.training.divergence import check_weights


class Saves:
    """The checkpoints of one run."""

    def __init__(self, run: Run, model: PretrainingModel, now: CheckpointInfo) -> None:
        """now: what this run is, as its checkpoints will say."""
        self._run, self._model, self._now = run, model, now
        self._found: Path | None = None
        self._source: Path | None = None
        self._info = now
        self.first_step = 0
        self.notes: list[str] = []

    def find(self, resume: str | None) -> dict[str, Any]:
        """Look where the run stands, and cut the checkpoint anew if other ranks wrote it; more of DeepSpeed's settings.

        Raises:
            ValueError: there is nothing to resume, or no going on from it with this config.
        """
        found, self.notes = ranks.on_rank_0(lambda: checkpoint.find(resume, self._run.out))
        self._found = self._source = found
        if found is None:
            return {}
        self._info = CheckpointInfo(**ranks.on_rank_0(lambda: asdict(reshard.read_and_check(found))))
        resuming.check_continues(self._info, self._now)
        self.first_step = self._info.step
        self._now.alignment = resuming.kept_alignment(self._info, self._now)
        if not reshard.needed(self._info, self._now):
            return {}
        names = [name for name, _ in self._model.named_parameters()]
        with room.told(checkpoint.universal_folder(self._run.out), least_bytes(self._model), every_rank_knows=True):
            self._source = ranks.on_rank_0(lambda: reshard.convert(found, self._run.out, names))
        return {"load_universal": True}

    def keep_tokenizer(self, tokenizer: Path) -> None:
        """Copy the tokenizer into the run's folder."""
        self._now.tokenizer = ranks.on_rank_0(lambda: checkpoint.keep_tokenizer(self._run.out, tokenizer))

    def load(self, engine: Any) -> list[str]:
        """Load what was found into the engine; what is to be said of it."""
        if self._found is None or self._source is None:
            return self.notes
        reshard.load(engine, self._source, self._info, self._now)
        replicated.load(self._model.twins, self._found, self._info)
        dist.barrier()
        ranks.on_rank_0(lambda: checkpoint.remove_universal(self._run.out))
        notes = [*self.notes, f"continues from {self._found}"]
        return notes if self._source == self._found else [*notes, reshard.describe(self._info, self._now)]

    def save(self, engine: Any, step: int, alignment: dict[str, Any]) -> Path:
        """Write and seal a step's checkpoint, then remove those that are not to stay; its folder.

        alignment: how words align best with the model as it is.

        Raises:
            ValueError: weights or states are not finite, or what objectives keep differs between ranks.
            OSError: it cannot be written.
        """
        check_weights(engine)
        replicated.check_equal(self._model.twins)
        least = least_bytes(self._model)
        folder: Path = ranks.on_rank_0(lambda: checkpoint.clear(self._run.out, step))
        ranks.on_rank_0(lambda: room.check(folder, least))
        with room.told(folder, least):
            engine.save_checkpoint(
                str(folder.parent), tag=folder.name, client_state=reshard.CLIENT_STATE, save_latest=False
            )
            dist.barrier()
        self._now.step, self._now.files, self._now.alignment = step, {}, alignment
        with room.told(folder, least, every_rank_knows=True):
            ranks.on_rank_0(lambda: replicated.save(self._model.twins, folder))
            ranks.on_rank_0(lambda: checkpoint.seal(folder, self._now))
        ranks.on_rank_0(lambda: checkpoint.prune(self._run.out, self._run.keep, self._run.keep_every))
        return folder

    @property
    def kept_alignment(self) -> dict[str, Any]:
        """How words align best, as far as it is known already; empty where it is not."""
        return self._now.alignment

    def due(self, step: int, stopping: bool) -> bool:
        """Whether a checkpoint is to be written after a step."""
        kept_for_good = self._run.keep_every > 0 and step % self._run.keep_every == 0
        return step % self._run.save_every == 0 or kept_for_good or step == self._run.steps or stopping

    def expected_seconds(self) -> float:
        """What a checkpoint (weights and two moments) may take before one was made: 100 MB/s."""
        return (16 * parameters_of(self._model) + replicated.bytes_of(self._model.twins)) / 100e6


def least_bytes(model: PretrainingModel) -> int:
    """What a checkpoint takes at least: weights of two bytes, and a master copy and two moments, or weights and moments."""
    return 12 * parameters_of(model) + replicated.bytes_of(model.twins)


def parameters_of(model: PretrainingModel) -> int:
    """All of them, also where ZeRO-3 has cut them."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
