"""Blocks and pairs are exactly what the token files hold, every one comes once an epoch, and the cut does not matter."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.special_ids import BOS, EOS
from pipeline.data.batch import MicroBatch, View
from pipeline.data.blend import PERIOD, Stage
from pipeline.data.streams import BatchPlan, MonoStream, PairStream, Sequences
from pipeline.data.training_data import TrainingData
from pipeline.data.views.collate import collate
from pipeline.data.views.masked_tokens import MaskedTokens
from pipeline.settings.added_words import AddedWords

LIMIT = 16
WORDS = AddedWords(64)
MONO, PAIRS = [View("mono", MaskedTokens.name)], [View("pairs", MaskedTokens.name)]
MakeManifest = Callable[..., Manifest]
LARGE_VOCABULARY = 1_000_000


def numbered_sentences(lengths: list[int], first: int = 4) -> list[list[int]]:
    """Sentences in which every token has an id of its own."""
    bounds = np.cumsum([first, *lengths])
    return [list(range(begin, end)) for begin, end in pairwise(bounds)]


def file_order(stream: MonoStream | PairStream, language: int = 0) -> Sequences:
    return stream.head(language, np.arange(stream.counts[language]))


def words(block: np.ndarray) -> list[int]:
    """The ids of a block without its special tokens."""
    return [int(i) for i in block if i not in (BOS, EOS)]


def test_a_block_is_whole_sentences_each_with_its_end(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(mono={"en": [[[10, 11], [12], [13, 14, 15], [16]]]})
    blocks = file_order(MonoStream(manifest.mono, 0.7, 1, limit=9)).ids
    assert [block.tolist() for block in blocks] == [[0, 10, 11, 2, 12, 2], [0, 13, 14, 15, 2, 16, 2]]


def test_a_block_may_be_filled_to_the_last_token(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(mono={"en": [[[10, 11], [12], [13, 14], [15, 16, 17, 18]]]})
    blocks = file_order(MonoStream(manifest.mono, 0.7, 1, limit=6)).ids
    assert [block.tolist() for block in blocks] == [[0, 10, 11, 2, 12, 2], [0, 13, 14, 2], [0, 15, 16, 17, 18, 2]]


def test_a_pair_is_source_and_target_each_with_its_end(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(pairs={"de-en": [[([10, 11], [20, 21, 22]), ([12], [23])]]})
    read = file_order(PairStream(manifest.pairs, 0.7, 1, limit=LIMIT))
    either_way = [
        {(0, 10, 11, 2, 20, 21, 22, 2), (0, 20, 21, 22, 2, 10, 11, 2)},
        {(0, 12, 2, 23, 2), (0, 23, 2, 12, 2)},
    ]
    assert all(tuple(ids.tolist()) in ways for ids, ways in zip(read.ids, either_way, strict=True))


def test_blocks_of_the_index_and_blocks_cut_at_the_start_are_the_same(make_manifest: MakeManifest) -> None:
    draw = np.random.default_rng(0)
    shards = [numbered_sentences(draw.integers(1, 30, 40).tolist(), first) for first in (4, 4000)]
    streams = [
        MonoStream(make_manifest({"en": shards}, vocab_size=LARGE_VOCABULARY, block_tokens=size).mono, 0.7, 1, LIMIT)
        for size in (LIMIT, LIMIT + 1, 0)
    ]
    assert [stream.cut_at_start for stream in streams] == [0, 2, 2]
    read = [[ids.tolist() for ids in stream.samples(np.arange(300)).ids] for stream in streams]
    assert read[0] == read[1] == read[2]


def test_blocks_of_several_shards_hold_every_token_once(make_manifest: MakeManifest) -> None:
    draw = np.random.default_rng(0)
    first = numbered_sentences(draw.integers(1, 30, 40).tolist())
    second = numbered_sentences(draw.integers(1, 30, 25).tolist(), first=first[-1][-1] + 1)
    manifest = make_manifest(mono={"en": [first, second]}, vocab_size=LARGE_VOCABULARY)
    blocks = file_order(MonoStream(manifest.mono, 0.7, 1, LIMIT)).ids
    assert max(len(block) for block in blocks) <= LIMIT
    assert [i for block in blocks for i in words(block)] == [i for ids in first + second for i in ids]
    assert all(block[0] == BOS and block[-1] == EOS and block.dtype == np.int64 for block in blocks)


def test_an_overlong_sentence_is_cut_into_chunks(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(mono={"en": [numbered_sentences([3, 30, 2])]})
    blocks = file_order(MonoStream(manifest.mono, 0.7, 1, LIMIT)).ids
    assert [block.tolist() for block in blocks] == [
        [0, 4, 5, 6, 2],
        [0, *range(7, 21), 2],
        [0, *range(21, 35), 2],
        [0, 35, 36, 2, 37, 38, 2],
    ]


@pytest.mark.parametrize("kind", ["mono", "pairs"])
def test_each_epoch_is_a_permutation_of_its_own(make_manifest: MakeManifest, kind: str) -> None:
    sentences = numbered_sentences([14] * 50)
    if kind == "mono":
        stream = MonoStream(make_manifest(mono={"en": [sentences[:20], sentences[20:]]}).mono, 0.7, 1, LIMIT)
    else:
        pairs = [([ids[0]], [1000]) for ids in sentences]
        stream = PairStream(make_manifest(pairs={"de-en": [pairs[:20], pairs[20:]]}).pairs, 0.7, 1, LIMIT)
    epochs = [
        [min(words(ids)) for ids in stream.samples(np.arange(50 * epoch, 50 * (epoch + 1))).ids] for epoch in range(3)
    ]
    everything = [ids[0] for ids in sentences]
    assert all(sorted(epoch) == everything for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3 and everything not in epochs


def test_a_sample_gets_another_mask_in_another_epoch(make_manifest: MakeManifest) -> None:
    stream = MonoStream(make_manifest(mono={"en": [numbered_sentences([50])]}).mono, 0.7, 1, limit=60)
    masks = {
        tuple(collate(stream.samples(np.array([epoch])), 1, WORDS, MONO).view(MaskedTokens).predicted_P.tolist())
        for epoch in range(4)
    }
    assert len(masks) == 4


def test_languages_come_in_their_shares_and_keep_their_text(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(mono={"b": [[[20] * 14] * 160], "a": [[[10] * 14] * 10]})
    stream = MonoStream(manifest.mono, 0.5, 1, LIMIT)
    assert stream.names == ["a", "b"] and stream.counts == [10, 160] and stream.shares.tolist() == [0.2, 0.8]
    read = stream.samples(np.arange(PERIOD, PERIOD + 2000))
    assert [ids[1] for ids in read.ids] == [10 if language == 0 else 20 for language in read.language_S]
    assert abs((read.language_S == 0).mean() - 0.2) < 0.03  # 3 sigma


def test_a_schedule_changes_the_shares_and_every_block_still_comes_once_an_epoch(make_manifest: MakeManifest) -> None:
    manifest = make_manifest({"a": [[[10 + i] * 14 for i in range(10)]], "b": [[[30] * 14] * 10]}, block_tokens=LIMIT)
    stages = [Stage(0, 0.7), Stage(100, weights={"a": 1.0, "b": 0.0}), Stage(140, weights={"a": 0.0, "b": 1.0})]
    stream = MonoStream(manifest.mono, 0.7, 1, LIMIT, stages)
    read = stream.samples(np.arange(200))
    assert set(read.language_S[100:140]) == {0} and set(read.language_S[140:]) == {1}
    seen = [int(ids[1]) for ids in read.ids if ids[1] < 30]
    whole = len(seen) // 10 * 10
    assert all(sorted(seen[at : at + 10]) == list(range(10, 20)) for at in range(0, whole, 10))


def test_pairs_are_weighed_by_their_number_and_not_by_their_tokens(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(pairs={"de-en": [[([10], [20])] * 30], "en-zh": [[([11] * 9, [21] * 9)] * 10]})
    assert PairStream(manifest.pairs, 1.0, 1, LIMIT).shares.tolist() == [0.75, 0.25]


def test_the_direction_of_pairs_is_even_and_stays(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(pairs={"de-en": [[([10], [20])] * 2000]})
    directions = [
        [ids[1] == 10 for ids in PairStream(manifest.pairs, 0.7, seed, LIMIT).samples(np.arange(2000)).ids]
        for seed in (1, 1, 2)
    ]
    assert abs(np.mean(directions[0]) - 0.5) < 0.034  # 3 sigma
    assert directions[0] == directions[1] != directions[2]


def test_a_pair_may_turn_around_in_another_epoch(make_manifest: MakeManifest) -> None:
    stream = PairStream(make_manifest(pairs={"de-en": [[([10], [20])]]}).pairs, 0.7, 1, LIMIT)
    assert {tuple(ids.tolist()) for ids in stream.samples(np.arange(20)).ids} == {(0, 10, 2, 20, 2), (0, 20, 2, 10, 2)}


def test_long_sides_are_cut_to_the_limit_and_counted(make_manifest: MakeManifest) -> None:
    pairs = [([10] * 9, [20] * 2), ([11] * 5, [21] * 6), ([12] * 5, [22] * 5)]
    stream = PairStream(make_manifest(pairs={"de-en": [pairs]}).pairs, 0.7, 1, limit=5)
    assert stream.longer_than_limit() == 2
    for ids, (source, target) in zip(file_order(stream).ids, pairs, strict=True):
        assert Counter(words(ids)) == Counter(source[:5] + target[:5])


def test_spans_point_at_the_sides_without_special_tokens(make_manifest: MakeManifest) -> None:
    draw = np.random.default_rng(1)
    pairs = [([10] * draw.integers(1, 9), [20] * draw.integers(1, 9)) for _ in range(30)]
    stream = PairStream(make_manifest(pairs={"de-en": [pairs]}).pairs, 0.7, 1, LIMIT)
    batch = collate(file_order(stream), 1, WORDS, PAIRS)
    assert batch.spans is not None and batch.spans.source_start_B.dtype == torch.int32
    covered = torch.zeros(batch.clean.tokens, dtype=torch.bool)
    for number, (source, target) in enumerate(pairs):
        begins = (int(batch.spans.source_start_B[number]), int(batch.spans.target_start_B[number]))
        lengths = (int(batch.spans.source_length_B[number]), int(batch.spans.target_length_B[number]))
        sides = [batch.clean.ids_T[begin : begin + n].tolist() for begin, n in zip(begins, lengths, strict=True)]
        assert sides in ([source, target], [target, source])
        assert begins[0] == batch.clean.offsets_S1[number] + 1
        for begin, n in zip(begins, lengths, strict=True):
            covered[begin : begin + n] = True
    assert set(batch.clean.ids_T[~covered].tolist()) == {BOS, EOS}


def test_spans_stay_on_the_cpu_where_the_aligner_reads_lengths(make_manifest: MakeManifest) -> None:
    stream = PairStream(make_manifest(pairs={"de-en": [[([10, 11], [20])]]}).pairs, 0.7, 1, LIMIT)
    batch = MicroBatch({"pairs": collate(file_order(stream), 1, WORDS, PAIRS)}).to(torch.device("meta"))["pairs"]
    assert batch.clean.ids_T.is_meta
    assert batch.spans is not None
    assert {vector.device.type for vector in batch.spans} == {"cpu"}


def test_targets_are_the_clean_tokens_at_the_predicted_places(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(mono={"en": [numbered_sentences([14] * 4)]})
    batch = collate(file_order(MonoStream(manifest.mono, 0.7, 1, LIMIT)), 1, WORDS, MONO)
    masked = batch.view(MaskedTokens)
    assert len(masked.predicted_P) and torch.equal(masked.target_ids_P, batch.clean.ids_T[masked.predicted_P])
    assert batch.spans is None and masked.pointers is None
    untouched = torch.ones(batch.clean.tokens, dtype=torch.bool)
    untouched[masked.predicted_P] = False
    assert torch.equal(masked.packed.ids_T[untouched], batch.clean.ids_T[untouched])


@pytest.fixture
def training_data(make_manifest: MakeManifest) -> TrainingData:
    draw = np.random.default_rng(2)

    def ids(longest: int) -> list[int]:
        return draw.integers(4, 63, draw.integers(1, longest)).tolist()

    manifest = make_manifest(
        mono={name: [[ids(30) for _ in range(50)] for _ in range(2)] for name in ("de", "en", "zh")},
        pairs={name: [[(ids(12), ids(12)) for _ in range(40)]] for name in ("de-en", "en-zh")},
    )
    return TrainingData(
        manifest, [View("mono", "masked"), View("pairs", "masked")], alpha=0.7, seed=1, limits={"mono": 40, "pairs": 10}
    )


def masked_samples(data: TrainingData, world_size: int, micro_steps: int, step: int) -> dict[str, Counter]:
    """Every (sample index, masked ids, clean ids) of a global batch, by stream."""
    plan = BatchPlan({"mono": 12, "pairs": 8}, world_size, micro_steps)
    seen: dict[str, Counter] = {"mono": Counter(), "pairs": Counter()}
    for micro_step in range(micro_steps):
        for rank in range(world_size):
            for name, batch in data.micro_batch(plan, step, micro_step, rank).streams.items():
                bounds, masked_ids_T = batch.clean.offsets_S1, batch.view(MaskedTokens).packed.ids_T
                for number, sample in enumerate(batch.sample_S):
                    part = slice(bounds[number], bounds[number + 1])
                    masked, clean = masked_ids_T[part].tolist(), batch.clean.ids_T[part].tolist()
                    seen[name][int(sample), tuple(masked), tuple(clean)] += 1
    return seen


@pytest.mark.parametrize("step", [0, 1, 100])
def test_the_cut_into_ranks_and_micro_steps_changes_neither_samples_nor_masks(
    training_data: TrainingData, step: int
) -> None:
    whole = masked_samples(training_data, 1, 1, step)
    assert sorted(sample for sample, _, _ in whole["mono"]) == list(range(12 * step, 12 * step + 12))
    assert any(masked != clean for _, masked, clean in whole["pairs"])
    for world_size, micro_steps in [(1, 4), (2, 2), (4, 1)]:
        assert masked_samples(training_data, world_size, micro_steps, step) == whole


def test_a_micro_batch_counts_the_tokens_of_all_its_streams(training_data: TrainingData) -> None:
    batch = training_data.micro_batch(BatchPlan({"mono": 12, "pairs": 8}, 2, 2), 0, 1, 1)
    assert View("pairs", "masked") in batch
    assert View("pairs", "other") not in batch and View("other", "masked") not in batch
    assert batch.tokens == sum(len(batch[name].clean.ids_T) for name in ("mono", "pairs"))


def test_views_share_their_stream_s_layout_also_after_a_move(training_data: TrainingData) -> None:
    batch = training_data.micro_batch(BatchPlan({"mono": 12, "pairs": 8}, 1, 1), 0, 0, 0)
    for pairs in (batch["pairs"], batch.map(torch.clone)["pairs"]):
        masked = pairs.view(MaskedTokens).packed
        assert masked.positions_T is pairs.clean.positions_T and masked.place_T is pairs.clean.place_T
        assert masked.ids_T is not pairs.clean.ids_T


def test_another_seed_gives_another_order(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(mono={"en": [numbered_sentences([14] * 40)]})
    orders = [
        [int(ids[1]) for ids in MonoStream(manifest.mono, 0.7, seed, LIMIT).samples(np.arange(40)).ids]
        for seed in (1, 2)
    ]
    assert orders[0] != orders[1]


def test_a_global_batch_that_cannot_be_cut_evenly_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"batch\.pairs = 10 cannot be cut into 2 ranks × 2 micro-steps.*multiple of 4"
    ):
        BatchPlan({"mono": 8, "pairs": 10}, 2, 2)


def test_a_stream_without_data_is_refused(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(mono={"en": [[[10]]]})
    with pytest.raises(ValueError, match=r"holds no pairs data.*python -m data_prep parallel"):
        TrainingData(
            manifest,
            [View("mono", "masked"), View("pairs", "masked")],
            alpha=0.7,
            seed=1,
            limits={"mono": 16, "pairs": 16},
        )
