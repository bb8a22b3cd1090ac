"""What a run of a hub's model begins with: one commit of it, the same on all ranks, on every host's disk, and in the record.

Knows names of models and ranks; nothing of weights.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from data_prep.tokenizers.hub import HubName, hub_name, parse_name
from pipeline.checkpoints import checkpoint
from pipeline.run_folder import CONFIG
from pipeline.settings.schema import Config, load_config
from pipeline.training import ranks
from pipeline.weights.hub import local_folder, named, pinned


def begun_with(config: Config, resume: str | None) -> Config:
    """The same config; a hub's model in it is named with its commit, ORG/NAME@COMMIT.

    Rank 0 asks the hub and fetches; then one rank of each host fetches that commit, which the host's other ranks find in
    their cache. A run that goes on keeps the commit that it began with, whatever its branch has become.

    Raises:
        ValueError: the model cannot be had; on every rank.
    """
    init = config.model.init
    name = None if init is None else hub_name(init)
    if name is None:
        return config
    place: Path = ranks.on_rank_0(lambda: _pinned(began_with(config, name, resume)))
    ranks.on_each_host(lambda: local_folder(place))
    return config.model_copy(update={"model": config.model.model_copy(update={"init": place})})


def _pinned(name: HubName) -> Path:
    with named():
        return pinned(Path(str(name)))


def began_with(config: Config, name: HubName, resume: str | None) -> HubName:
    """The commit of the same model that the run which goes on has recorded, else the name as it is."""
    if resume is None or name.is_commit:
        return name
    place = config.run.out if resume == "auto" else Path(resume)
    for folder in (place, checkpoint.run_of(place)):
        with suppress(ValueError, OSError):
            recorded = load_config(folder / CONFIG).model.init
            before = None if recorded is None else parse_name(str(recorded))
            if before is not None and before.is_commit and before.repo == name.repo:
                return before
    return name
