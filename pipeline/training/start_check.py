"""What can be said against a training before its ranks start: its settings, files and folders, in well under a second.

Needs neither PyTorch nor DeepSpeed; the ranks check the same things, and what only they can know. Starts and writes nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.hub import hub_name
from pipeline.checkpoints import checkpoint
from pipeline.checkpoints.manifest import MANIFEST
from pipeline.data.given_links import check_links
from pipeline.data.of_config import blend_stages, check_translation
from pipeline.data.streams import BatchPlan, shards_of
from pipeline.host import run_lock
from pipeline.objectives import catalog
from pipeline.settings.deepspeed_json import check_fits, load_deepspeed_json, precision_of
from pipeline.settings.schema import Config
from pipeline.settings.sizes import longest_sequence, scratch_sizes
from pipeline.watch.wandb_sink import check_wandb
from pipeline.weights.fit import check_sizes
from pipeline.weights.hub import WANTED, local_folder, named


def check_start(config: Config, resume: str | None, ranks: int | None, device: str) -> None:
    """All checks; ValueError of one line at the first thing that is wrong.

    ranks: None where the launcher decides; device: "cpu" or "cuda".
    """
    check_deepspeed(config, device)
    check_wandb(config)
    check_batch(config, ranks)
    check_folder(config, resume)
    manifest = check_data(config)
    check_model(config, manifest)
    check_validation(config, manifest)


def check_deepspeed(config: Config, device: str) -> str:
    """The DeepSpeed JSON; returns what it says."""
    settings = load_deepspeed_json(config.deepspeed)
    check_fits(config.deepspeed, settings, device, config.optimizer.adam)
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    return f"{config.deepspeed.name}: ZeRO {stage}, {precision_of(settings)}"


def check_batch(config: Config, ranks: int | None) -> str:
    """That the global batch can be cut for the ranks."""
    sizes = {name: getattr(config.batch, name) for name in catalog.streams(config.objectives)}
    BatchPlan(sizes, ranks or 1, config.batch.micro_steps)
    return ", ".join(f"{size} {name}" for name, size in sizes.items()) + f" in {config.batch.micro_steps} micro-steps"


def check_folder(config: Config, resume: str | None) -> str:
    """That run.out can be written, nobody else writes there, and there is what is to be resumed."""
    out = config.run.out
    place = out.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ValueError(f"run.out = {out}: {place} is no folder; choose another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(
            f"run.out = {out}: {place} cannot be written (permission denied, or mounted read-only); choose another"
        )
    for field, taken in (("data.path", config.data.path), ("model.init", config.model.init)):
        if taken is not None and out.resolve() == taken.resolve():
            raise ValueError(f"run.out = {out}: is {field} too; choose another folder")
    run_lock.check_free(out)
    if resume is None:
        checkpoint.find(None, out)
    elif resume != "auto" and not _sealed(Path(resume)):
        raise ValueError(
            f"--resume {resume}: nothing to resume there; give a run folder or one of its checkpoints/step_*"
        )
    return str(out)


def _sealed(place: Path) -> bool:
    """Whether a place is, or holds, a checkpoint that was finished."""
    return (place / MANIFEST).is_file() or checkpoint.holds_any(place)


def check_data(config: Config) -> Manifest:
    """The token files' sizes, and that there is data, with weights, links and directions if asked for, for each stream."""
    manifest = Manifest.load(config.data.path)
    for name in catalog.streams(config.objectives):
        shards = shards_of(manifest, name, catalog.reads_links(config.objectives))
        names = sorted(shards)
        for stage in blend_stages(config, name):
            stage.shares(names, [1] * len(names))
    check_translation(config, manifest)
    return manifest


def check_model(config: Config, manifest: Manifest) -> None:
    """The sizes of a model from scratch, or that model.init is there and, as its config.json says, large enough."""
    init = config.model.init
    if init is None:
        check_sizes(config, scratch_sizes(config, manifest.vocab_size), manifest.vocab_size)
        catalog.check_layers(config.objectives, config.model.layers)
        return
    if hub_name(init) is None and not init.exists():
        raise ValueError(f"model.init = {init}: no such folder or file; {WANTED}")
    with named():
        folder = local_folder(init)  # of a hub's model: fetched once, before all ranks want it
    sizes = _sizes_of(folder)
    layers, positions = sizes.get("num_hidden_layers"), sizes.get("max_position_embeddings")
    if isinstance(layers, int):
        catalog.check_layers(config.objectives, layers)
    if isinstance(positions, int) and longest_sequence(config) + 2 > positions:
        raise ValueError(
            f"model.init = {init}: {positions - 2} positions, data.block_tokens and data.side_tokens need "
            f"{longest_sequence(config)}; lower them"
        )


def _sizes_of(folder: Path) -> dict[str, object]:
    """What a Hugging Face folder's config.json says; nothing of other models, which the ranks read."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def check_validation(config: Config, manifest: Manifest) -> str:
    """That what is validated on is there, of the same tokenizer, and with word links where an objective reads them."""
    settings = config.validation
    if not settings.every:
        return "none"
    for place in (*settings.gold, *settings.retrieval):
        if not place.exists():
            field = "gold" if place in settings.gold else "retrieval"
            raise ValueError(f"validation.{field}: {place}: no such file or folder")
    if settings.data is not None:
        held_out = Manifest.load(settings.data)
        if held_out.tokenizer_sha256 != manifest.tokenizer_sha256:
            raise ValueError(
                f"validation.data = {settings.data}: made with another tokenizer than data.path = "
                f"{config.data.path}; binarize it with {manifest.tokenizer_dir}"
            )
        if catalog.reads_links(config.objectives):
            check_links(held_out)
    return f"every {settings.every} steps"
