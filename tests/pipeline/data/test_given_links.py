"""The links of a sample are those of its pair, whichever side comes first, and as far as its sides are not cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from data_prep.token_files.link_file import LinkFileWriter
from data_prep.token_files.manifest import Manifest
from pipeline.data.batch import View
from pipeline.data.streams import BatchPlan, PairStream, open_streams, shards_of
from pipeline.data.training_data import TrainingData
from pipeline.data.views.given_links import GivenLinks
from pipeline.data.views.sides import Sides

MakeManifest = Callable[..., Manifest]
LIMIT = 5
LINKS, SIDES = View("pairs", GivenLinks.name), View("pairs", Sides.name)


@pytest.fixture
def linked(make_manifest: MakeManifest) -> tuple[Manifest, set[frozenset[int]]]:
    """Token files of two language pairs in which every token has an id of its own; and the ids that are linked."""
    draw, next_id, pairs = np.random.default_rng(2), 4, {}
    for name in ("de-en", "en-fr"):
        shards = []
        for size in (7, 1, 12):
            shards.append([])
            for _ in range(size):
                ends = next_id + np.cumsum(draw.integers(1, 9, 2))
                shards[-1].append((list(range(next_id, ends[0])), list(range(ends[0], ends[1]))))
                next_id = int(ends[1])
        pairs[name] = shards
    manifest = make_manifest(pairs=pairs, vocab_size=next_id + 1)
    ids = set()
    for name, shards in pairs.items():
        for shard, of_shard in zip(manifest.pairs[name], shards, strict=True):
            writer = LinkFileWriter(shard.stem.with_name(shard.stem.name + ".links"))
            for source, target in of_shard:
                is_linked = draw.random((len(source), len(target))) < 0.3
                writer.add(np.argwhere(is_linked))
                ids |= {frozenset((source[i], target[j])) for i, j in np.argwhere(is_linked).tolist()}
            writer.close()
            shard.has_links = True
    return manifest, ids


def test_links_follow_their_tokens_through_order_swaps_and_cuts(linked: tuple[Manifest, set[frozenset[int]]]) -> None:
    manifest, ids = linked
    stream = open_streams(manifest, ["pairs"], alpha=0.7, seed=1, limits={"pairs": LIMIT}, with_links=True)["pairs"]
    sequences = stream.samples(np.arange(100, 200))
    assert sequences.side_lengths_S2 is not None and sequences.links_K3 is not None
    assert sequences.swapped_S is not None and 0 < sequences.swapped_S.sum() < 100
    found: list[set[frozenset[int]]] = [set() for _ in range(100)]
    for pair, first, second in sequences.links_K3.tolist():
        length = int(sequences.side_lengths_S2[pair, 0])
        of_pair = sequences.ids[pair].tolist()
        assert first < length and second < sequences.side_lengths_S2[pair, 1]
        found[pair].add(frozenset((of_pair[1 + first], of_pair[1 + length + 1 + second])))
    expected = [{link for link in ids if link <= set(sample.tolist())} for sample in sequences.ids]
    assert found == expected and sum(map(len, found)) == len(sequences.links_K3) > 100
    assert any(length == LIMIT for length in sequences.side_lengths_S2.flat)
    rows = sequences.links_K3.tolist()
    assert rows == sorted(rows)


def test_whoever_does_not_ask_gets_the_same_samples_and_no_links(linked: tuple[Manifest, set[frozenset[int]]]) -> None:
    manifest, _ = linked
    plain, with_links = (
        PairStream(manifest.pairs, 0.7, 1, LIMIT, vocab_size=manifest.vocab_size, with_links=asked).samples(
            np.arange(50)
        )
        for asked in (False, True)
    )
    assert plain.links_K3 is None and with_links.links_K3 is not None
    assert np.array_equal(plain.ids_T, with_links.ids_T) and np.array_equal(plain.key_S, with_links.key_S)


def test_the_view_has_the_links_of_the_batch_and_counts_linked_tokens(
    linked: tuple[Manifest, set[frozenset[int]]],
) -> None:
    manifest, ids = linked
    data = TrainingData(manifest, [LINKS, SIDES], alpha=1.0, seed=1, limits={"pairs": LIMIT})
    stream = data.micro_batch(BatchPlan({"pairs": 12}, 1, 1), 3, 0, 0)["pairs"]
    links, sides = stream.view(GivenLinks), stream.view(Sides)
    first_K, second_K = (
        sides.start_C[2 * links.pair_K] + links.first_K,
        sides.start_C[2 * links.pair_K + 1] + links.second_K,
    )
    of_tokens = sides.packed.ids_T[torch.stack([first_K, second_K], dim=1)].tolist()
    there = set(sides.packed.ids_T.tolist())
    # pairs of the batch may be the same one twice, with its links
    assert {frozenset(link) for link in of_tokens} == {link for link in ids if link <= there}
    assert int(links.linked) == len(set(first_K.tolist())) + len(set(second_K.tolist()))
    moved = links.map(lambda tensor: tensor.to("meta"))
    assert all(getattr(moved, name).is_meta for name in ("pair_K", "first_K", "second_K", "linked"))


def test_pairs_without_links_are_refused_where_links_are_asked_for(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(pairs={"de-en": [[([10], [20])]]})
    told = r"de-en\.0: these pairs \(de-en\) have no word links, which labels = links asks for; make them again by .*--links"
    with pytest.raises(ValueError, match=told):
        TrainingData(manifest, [LINKS, SIDES], alpha=1.0, seed=1, limits={"pairs": LIMIT})
    with pytest.raises(ValueError, match=told):
        shards_of(manifest, "pairs", with_links=True)
    assert shards_of(manifest, "pairs")


def test_links_that_are_cut_off_under_a_reader_end_it_with_one_line(
    linked: tuple[Manifest, set[frozenset[int]]],
) -> None:
    manifest, _ = linked
    stream = PairStream(manifest.pairs, 0.7, 1, LIMIT, vocab_size=manifest.vocab_size, with_links=True)
    stream.samples(np.arange(40))
    path = manifest.pairs["de-en"][2].stem.with_name("de-en.2.links")
    path.write_bytes(path.read_bytes()[:8])
    with pytest.raises(ValueError, match=r"de-en\.2\.links: 8 bytes, \d+ when it was opened"):
        stream.samples(np.arange(40))
