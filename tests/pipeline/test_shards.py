"""Shards are opened when they are read, checked against the manifest, and closed when too many are open."""

import resource
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from data_prep.manifest import Manifest
from data_prep.token_file import shard_file
from pipeline import shards as shards_module
from pipeline.shards import Language, OpenShards, most_open_shards
from pipeline.streams import MonoStream, PairStream

MakeManifest = Callable[..., Manifest]
LIMIT = 16


def many_shards(count: int) -> list[list[list[int]]]:
    return [[[4 + shard % 60] * 14] * 3 for shard in range(count)]


def test_a_shard_is_opened_when_it_is_read(make_manifest: MakeManifest, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_manifest({"en": many_shards(30)}, pairs={"de-en": [[([5], [6])]] * 30}, block_tokens=LIMIT)
    files = OpenShards()
    monkeypatch.setattr(Language.__init__, "__defaults__", (0, files))
    mono, pairs = MonoStream(manifest.mono, 0.7, 1, LIMIT), PairStream(manifest.pairs, 0.7, 1, LIMIT)
    assert (mono.counts, pairs.counts, pairs.longer_than_limit()) == ([90], [30], 0)
    assert len(files) == 0
    mono.samples(np.array([0]))
    assert len(files) == 1
    assert len(pairs.samples(np.arange(30)).ids) == 30
    assert len(files) == 31


def test_the_least_used_is_closed_and_the_samples_stay(make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"en": many_shards(30)}, block_tokens=LIMIT)
    few = Language(manifest.mono["en"], LIMIT, OpenShards(most=2))
    all_open = Language(manifest.mono["en"], LIMIT, OpenShards())
    for index in (0, 89, 1, 45, 0, 44, 89):
        [(file, *_, blocks)], [(other, *_, same)] = (each.locate(np.array([index])) for each in (few, all_open))
        assert file.stem == other.stem
        assert blocks.tolist() == same.tolist()
        assert len(few._files) <= 2
    assert len(all_open._files) == 4


def test_pairs_are_counted_as_too_long_only_where_some_may_be(make_manifest: MakeManifest) -> None:
    pairs = make_manifest(pairs={"de-en": [[([5] * 9, [6])], [([5], [6])]]}).pairs["de-en"]
    files = OpenShards()
    assert Language(pairs, files=files).pairs_longer_than(8) == 1
    assert len(files) == 1


def test_a_file_that_the_manifest_does_not_mean_is_refused(make_manifest: MakeManifest) -> None:
    shard = make_manifest({"en": many_shards(1)}, block_tokens=LIMIT).mono["en"][0]
    for other in (replace(shard, sequences=4), replace(shard, tokens=5), replace(shard, blocks=7)):
        with pytest.raises(ValueError, match=r"not the file that manifest\.json lists"):
            OpenShards()[other]
    shard_file(shard.stem, ".bin").unlink()
    with pytest.raises(ValueError, match=r"\.bin: missing or empty"):
        OpenShards()[shard]


def test_the_limit_of_open_files_is_raised_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(shards_module.resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(shards_module.resource, "setrlimit", lambda *arguments: asked.append(arguments))
    assert most_open_shards.__wrapped__() == (4096 - 512) // 2
    assert asked == [(resource.RLIMIT_NOFILE, (4096, 4096))]
