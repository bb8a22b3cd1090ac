"""Shards are opened when they are read, checked against the manifest, and closed when too many are open."""

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.token_files.manifest import Manifest
from data_prep.token_files.shard import Shard
from data_prep.token_files.token_file import shard_file
from pipeline.data import shards as shards_module
from pipeline.data.shards import OpenShards, ShardLanguage, most_open_shards
from pipeline.data.streams import MonoStream, PairStream, Sequences, Stream, open_streams

MakeManifest = Callable[..., Manifest]
LIMIT = 16


def many_shards(count: int) -> list[list[list[int]]]:
    return [[[4 + shard % 60] * 14] * 3 for shard in range(count)]


def test_a_shard_is_opened_when_it_is_read(make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_manifest({"en": many_shards(30)}, pairs={"de-en": [[([5], [6])]] * 30}, block_tokens=LIMIT)
    files = OpenShards()
    monkeypatch.setattr(ShardLanguage.__init__, "__defaults__", (0, files))
    mono, pairs = MonoStream(manifest.mono, 0.7, 1, LIMIT), PairStream(manifest.pairs, 0.7, 1, LIMIT)
    assert (mono.counts, pairs.counts, pairs.longer_than_limit()) == ([90], [30], 0)
    assert len(files) == 0
    mono.samples(np.array([0]))
    assert len(files) == 1
    assert len(pairs.samples(np.arange(30)).ids) == 30
    assert len(files) == 31


def test_the_least_used_is_closed_and_the_samples_stay(make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"en": many_shards(30)}, block_tokens=LIMIT)
    few = ShardLanguage(manifest.mono["en"], LIMIT, OpenShards(most=2))
    all_open = ShardLanguage(manifest.mono["en"], LIMIT, OpenShards())
    for index in (0, 89, 1, 45, 0, 44, 89):
        [(file, *_, blocks)], [(other, *_, same)] = (each.locate(np.array([index])) for each in (few, all_open))
        assert file.stem == other.stem
        assert blocks.tolist() == same.tolist()
        assert len(few._files) <= 2
    assert len(all_open._files) == 4


def test_pairs_are_counted_as_too_long_only_where_some_may_be(make_manifest: MakeManifest) -> None:
    pairs = make_manifest(pairs={"de-en": [[([5] * 9, [6])], [([5], [6])]]}).pairs["de-en"]
    files = OpenShards()
    assert ShardLanguage(pairs, files=files).pairs_longer_than(8) == 1
    assert len(files) == 1


def test_a_file_that_the_manifest_does_not_mean_is_refused(make_manifest: MakeManifest) -> None:
    shard = make_manifest({"en": many_shards(1)}, block_tokens=LIMIT).mono["en"][0]
    counts = {name: getattr(shard, name) for name in ("documents", "sequences", "tokens", "max_length", "blocks")}
    names = ("0" * 64, "0" * 64)
    others = [("mono", ("en",), {"sequences": 4}), ("mono", ("en",), {"tokens": 5}), ("mono", ("en",), {"blocks": 7})]
    for kind, languages, changed in [*others, ("pair", ("en",), {}), ("mono", ("de",), {})]:
        other = Shard(shard.folder, shard.name, kind, languages, counts | changed, (0, 0), names)
        with pytest.raises(ValueError, match=r"not the file that manifest\.json lists"):
            OpenShards()[other]
    shard_file(shard.stem, ".bin").unlink()
    with pytest.raises(ValueError, match=r"\.bin: missing or empty"):
        OpenShards()[shard]


@pytest.mark.parametrize(
    ("files", "mappings", "most"),
    [
        (4096, "65530\n", (4096 - 512) // 3),
        (1 << 20, "65530\n", (65_530 - 16_384) // 3),
        (64, "65530\n", 16),
        (4096, "9", 16),
    ],
)
def test_the_limits_of_open_files_and_of_mappings_are_kept(
    files: int, mappings: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, tuple[int, int]]] = []
    (tmp_path / "max_map_count").write_text(mappings)
    monkeypatch.setattr(shards_module, "MAX_MAPPINGS", tmp_path / "max_map_count")
    monkeypatch.setattr(shards_module.resource, "getrlimit", lambda _: (32, files))
    monkeypatch.setattr(shards_module.resource, "setrlimit", lambda *arguments: asked.append(arguments))
    assert most_open_shards.__wrapped__() == most
    assert asked == [(resource.RLIMIT_NOFILE, (files, files))]


def flip(path: Path, offset: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def read_all(manifest: Manifest) -> None:
    """Every sample of a folder, once, as training reads it."""
    for name, limit in (("mono", LIMIT), ("pairs", 8)):
        if getattr(manifest, name):
            (stream,) = open_streams(manifest, [name], alpha=0.7, seed=1, limits={name: limit}).values()
            stream.samples(np.arange(sum(stream.counts)))


@pytest.mark.parametrize(("offset", "bit"), [(0, 7), (3, 6), (3, 7), (0, 2)])
@pytest.mark.parametrize("name", ["mono", "pairs"])
def test_ids_outside_the_vocabulary_are_refused_by_file(
    name: str, offset: int, bit: int, make_manifest: MakeManifest
) -> None:
    given = {
        "mono": {"mono": {"en": [[[5, 6, 7]], [[6, 7]]]}},
        "pairs": {"pairs": {"de-en": [[([5], [6])], [([5], [6])]]}},
    }
    manifest = make_manifest(**given[name], block_tokens=LIMIT)
    read_all(manifest)
    manifest = make_manifest(**given[name], block_tokens=LIMIT)
    path = shard_file(manifest.shards[1].stem, ".bin")
    flip(path, offset, bit)
    with pytest.raises(ValueError, match=rf"{path}: ids from .* allowed are 3 to 62; `python -m data_prep verify`"):
        read_all(manifest)


def read_or_refuse(stream: Stream) -> tuple[str, Sequences | None]:
    try:
        return "", stream.samples(np.arange(sum(stream.counts)))
    except ValueError as error:
        return str(error), None


@pytest.mark.parametrize("name", ["mono", "pairs"])
def test_an_index_that_leads_elsewhere_is_refused_or_without_effect(name: str, make_manifest: MakeManifest) -> None:
    """Bits of offsets, lengths, documents, trailer and table of blocks; `tests/tools/flip_data.py` tries all of them."""
    given = {
        "mono": {"mono": {"en": [[[5, 6, 7], [8] * 20, [9] * 3, [10] * 11]]}},
        "pairs": {"pairs": {"de-en": [[([5], [6, 7]), ([8, 9, 10], [11]), ([12], [13])]]}},
    }
    manifest = make_manifest(**given[name], block_tokens=LIMIT)
    path = shard_file(manifest.shards[0].stem, ".idx")
    (stream,) = open_streams(manifest, [name], alpha=0.7, seed=1, limits={name: LIMIT}).values()
    expected = stream.samples(np.arange(sum(stream.counts)))
    whole, refused = path.read_bytes(), 0
    bits = range(8 * 34, 8 * len(whole), 13)
    for bit in bits:
        flip(path, bit // 8, bit % 8)
        # no file of an earlier flip is open
        language = ShardLanguage(manifest.shards, LIMIT if name == "mono" else 0, OpenShards())
        stream._languages = [language]
        refusal, found = read_or_refuse(stream)
        if found is None:
            assert str(path.parent / path.stem) in refusal and "\n" not in refusal
            refused += 1
        else:
            assert np.array_equal(found.ids_T, expected.ids_T)
        path.write_bytes(whole)
    assert refused > len(bits) / 3


def test_damaged_lengths_are_told_before_blocks_of_another_size_are_cut(make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"en": many_shards(1)}, block_tokens=LIMIT)
    path = shard_file(manifest.shards[0].stem, ".idx")
    flip(path, 34 + 3, 6)  # a length of 2^30 tokens
    with pytest.raises(ValueError, match=rf"{path}: damaged, its sequences do not lie end to end"):
        ShardLanguage(manifest.mono["en"], LIMIT + 1, OpenShards())


def test_a_shard_that_is_cut_while_it_is_open_is_refused_and_not_a_bus_error(make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"en": [[[5] * 14] * 2000]}, block_tokens=LIMIT)
    for suffix in (".bin", ".idx"):
        path = shard_file(manifest.shards[0].stem, suffix)
        language = ShardLanguage(manifest.mono["en"], LIMIT, OpenShards())
        assert list(language.locate(np.array([0])))
        whole = path.read_bytes()
        path.write_bytes(whole[:4096])
        with pytest.raises(ValueError, match=rf"{path}: 4096 bytes, {len(whole)} when it was opened"):
            list(language.locate(np.array([1900])))
        path.write_bytes(whole)
