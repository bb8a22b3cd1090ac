"""What of a run's config the hosts must have in common: its files, a sample of its data, and room for its checkpoints."""

from __future__ import annotations

from pathlib import Path

from data_prep.token_files.manifest import MANIFEST_NAME, Manifest
from data_prep.token_files.token_file import shard_file
from data_prep.tokenizers.hub import hub_name
from pipeline.evaluate.alignment_error import gold_folders
from pipeline.evaluate.gold import links_file, read_gold
from pipeline.settings.schema import Config
from pipeline.texts.sentence_files import find_pairs
from pipeline.weights.opening import description_of
from pipeline.weights.pretrained import read_sizes

SHARDS_LOOKED_AT = 8  # first, last and some between: the time does not grow with the corpus
BYTES_PER_PARAMETER = 16  # fp32 weights, two Adam moments, and as much again in the module's own file at most


def files_of(config_file: Path | None, config: Config | None) -> list[str]:
    """Absolute paths of the small files whose content must be the same on all hosts."""
    if config is None or config_file is None:
        return []
    paths = [config_file, config.deepspeed, config.data.path / MANIFEST_NAME]
    if config.model.init is not None and hub_name(config.model.init) is None:  # of the hub: rank 0 names all the commit
        described = description_of(config.model.init)
        paths += [] if described is None else [described]
    if config.validation.every:
        paths += _validation_files(config)
    return [str(path.absolute()) for path in paths]


def _validation_files(config: Config) -> list[Path]:
    """Gold pairs and sentences, which every rank reads; ValueError where they are not as they should be here."""
    found = []
    for folder in gold_folders(config.validation.gold):
        gold = read_gold(folder)
        found += [folder / f"test.{language}" for language in (gold.source_language, gold.target_language)]
        found.append(links_file(folder))
    found += [path for pair in find_pairs(*config.validation.retrieval) for path in pair.paths]
    return list(dict.fromkeys(found))


def shards_of(config: Config | None) -> dict[str, int]:
    """Path → bytes of some shards' files, spread over the manifest."""
    if config is None:
        return {}
    shards = Manifest.read(config.data.path.absolute()).shards
    places = (
        sorted({i * (len(shards) - 1) // (SHARDS_LOOKED_AT - 1) for i in range(SHARDS_LOOKED_AT)}) if shards else []
    )
    sizes = {}
    for place in places:
        for suffix, size in shards[place].bytes.items():
            sizes[str(shard_file(shards[place].stem, f".{suffix}"))] = size
    return sizes


def needed_disk(config: Config) -> int:
    """Bytes of the checkpoints that are there at a time: those that are kept, and the one being written."""
    vocabulary = Manifest.read(config.data.path).vocab_size
    sizes = config.model if config.model.init is None else read_sizes(config.model.init, 0.0)
    layer = 4 * sizes.hidden**2 + 2 * sizes.hidden * sizes.feed_forward
    parameters = (vocabulary + config.data.block_tokens) * sizes.hidden + sizes.layers * layer
    return parameters * BYTES_PER_PARAMETER * (config.run.keep + 1)
