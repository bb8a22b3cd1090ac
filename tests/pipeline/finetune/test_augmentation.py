"""Items said otherwise: subwords as they are drawn by the formula and by SentencePiece itself, noise, translations."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from data_prep.tokenizers.tokenizer import Tokenizer, train
from pipeline.finetune.augmentation import Augmentation, CodeSwitching, Noise, draw_of
from pipeline.finetune.code_switching import CodeSwitcher
from pipeline.finetune.files.read_pairs import SentencePair
from pipeline.finetune.files.read_tagged import Sentence
from pipeline.finetune.start import read_start
from pipeline.finetune.subword_sampling import Lattice, SubwordSampling
from pipeline.finetune.tasks.consistency_trainer import noise_of
from pipeline.finetune.tasks.consistent import (
    Consistency,
    ConsistentClassification,
    ConsistentTagging,
    at_places,
    frame_of,
    framed,
)
from pipeline.finetune.tasks.tagging import encode_words
from pipeline.finetune.training import fine_tune
from pipeline.finetune.translated_pairs import Translations
from pipeline.weights.hugging_face_tokenizer import hugging_face_tokenizer
from tests.pipeline.finetune.conftest import QUICK, Done, conll, sentences
from tests.pipeline.finetune.test_classification import pairs
from tests.pipeline.finetune.test_consistent import by_hand, loss_of, rows_of

ALPHA = 0.3
DRAWS = 4000
Write = Callable[[str, str], Path]


def segmentations(text: str, scores: dict[str, float]) -> Iterator[tuple[str, ...]]:
    if not text:
        yield ()
    for end in range(1, len(text) + 1):
        if text[:end] in scores:
            yield from ((text[:end], *rest) for rest in segmentations(text[end:], scores))


@pytest.fixture(scope="module")
def own() -> Tokenizer:
    """A tokenizer with pieces of two and three signs, so that there are many ways to cut a word."""
    parts = ["qu", "qui", "ick", "ck", "ui", "ju", "dge", "udg", "la", "zy", "azy", "sph", "inx", "phi"]
    return train([f"{a}{b}" for a in parts for b in [*parts, ""]] * 3, 60, 1.0, 4096)


def test_subwords_are_drawn_by_the_formula_and_as_sentencepiece_draws_them(own: Tokenizer) -> None:
    tokenizer = hugging_face_tokenizer(own)
    sentencepiece = own._processor
    scores = {sentencepiece.id_to_piece(n): sentencepiece.get_score(n) for n in range(3, own.vocab_size - 2)}
    ways = list(segmentations("▁quick", scores))
    assert len(ways) >= 8
    weights = [math.exp(ALPHA * sum(scores[piece] for piece in way)) for way in ways]
    lattice, draw = Lattice(tokenizer, ALPHA), draw_of(1, 0, 0, "view")
    ours = Counter(tuple(tokenizer.convert_ids_to_tokens(lattice.sample("quick", draw))) for _ in range(DRAWS))
    theirs = Counter(
        tuple(sentencepiece.encode("quick", out_type=str, enable_sampling=True, alpha=ALPHA, nbest_size=-1))
        for _ in range(DRAWS)
    )
    assert set(ours) <= set(ways)
    for way, weight in zip(ways, weights, strict=True):
        wanted = weight / sum(weights)
        tolerance = 4.5 * math.sqrt(wanted * (1 - wanted) / DRAWS) + 1e-4
        assert abs(ours[way] / DRAWS - wanted) < tolerance and abs(theirs[way] / DRAWS - wanted) < tolerance, way
    sharp = Lattice(tokenizer, 1000.0)
    for word in ("quick", "sphinx", "judge", "lazy"):
        assert sharp.sample(word, draw) == own.encode(word)


def test_signs_without_a_piece_are_one_unknown_piece_and_words_without_signs_have_none(model_dir: Path) -> None:
    tokenizer = read_start(model_dir).tokenizer
    lattice, draw = Lattice(tokenizer, ALPHA), draw_of(1, 0, 0, "view")
    sampled = lattice.sample("☃☃fox☃", draw)
    assert sampled.count(tokenizer.unk_token_id) == 2 and sampled[-1] == tokenizer.unk_token_id
    assert "".join(tokenizer.convert_ids_to_tokens(sampled)).replace("<unk>", "") in ("▁fox", "fox")
    assert lattice.sample("\u200b", draw) == Tokenizer.load(model_dir).encode("\u200b")
    backend = Backend(BPE({"a": 0, "<unk>": 1}, [], unk_token="<unk>"))  # noqa: S106 (no password)
    with pytest.raises(
        ValueError, match="--subword-sampling: the model's tokenizer is BPE, and sampling is of unigram"
    ):
        Lattice(PreTrainedTokenizerFast(tokenizer_object=backend), ALPHA)


def test_a_share_of_the_words_is_cut_otherwise_and_is_the_same_text(own: Tokenizer) -> None:
    start = SimpleNamespace(tokenizer=hugging_face_tokenizer(own))
    task = ConsistentTagging(Consistency(SubwordSampling(0.0, 0.5)))
    task.labels = ["A"]
    words = ["quick", "sphinx", "judge", "lazy"] * 50
    settings = replace(task.defaults, max_length=120)
    rows = rows_of(task, [Sentence(words, ["A"] * len(words))], start, settings)
    usual = encode_words(start.tokenizer, words)
    changed = total = 0
    for row in rows:
        ends = [*row["places"][1:], len(row["input_ids"]) - 1]
        other_ends = [*row["other_places"][1:], len(row["other_input_ids"]) - 1]
        both = zip(row["places"], ends, row["other_places"], other_ends, strict=True)
        for begin, end, other_begin, other_end in list(both)[1:-1]:  # beside these are words of other windows
            ids, others = row["input_ids"][begin:end], row["other_input_ids"][other_begin:other_end]
            texts = ["".join(start.tokenizer.convert_ids_to_tokens(each)).strip("▁") for each in (ids, others)]
            assert texts[0] == texts[1] and ids in usual
            changed, total = changed + (ids != others), total + 1
    assert 0.3 < changed / total < 0.6, "all ways are alike probable, the usual one too"


def test_noise_is_a_rows_own_and_the_loss_is_that_of_embeddings_with_it(model_dir: Path, tmp_path: Path) -> None:
    shape = torch.Size([2, 5, 8])
    both = noise_of(torch.tensor([7, 9]), torch.tensor([5, 3]), shape)
    alone = noise_of(torch.tensor([0, 9]), torch.tensor([5, 3]), shape)
    assert torch.equal(both[1], alone[1]) and not alone[0].any() and not both[1, 3:].any() and both[0].all()
    task, start = ConsistentClassification(Consistency(Noise(0.5))), read_start(model_dir)
    task.labels = ["A", "B"]
    items = [SentencePair("the lazy fox", "my fox", "A", 1), SentencePair("box", "five dozen jugs", "B", 2)]
    rows = rows_of(task, items, start, task.defaults)
    assert rows[0]["other_input_ids"] == rows[0]["input_ids"] and rows[0]["noise"] == 0
    assert rows[0]["other_noise"] == rows_of(task, items, start, task.defaults)[0]["other_noise"] > 0
    assert rows[0]["other_noise"] != rows_of(task, items, start, task.defaults, epoch=1)[0]["other_noise"]
    loss, model, batch = loss_of(task, start, rows, tmp_path, training=True)
    embedded = model.get_input_embeddings()(batch["input_ids"])
    lengths = batch["attention_mask"].sum(1)
    noise = torch.zeros(embedded.shape)
    for row in range(2):
        generator = torch.Generator().manual_seed(rows[row]["other_noise"])
        noise[row, : lengths[row]] = torch.randn(int(lengths[row]), embedded.shape[2], generator=generator)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    others = model(inputs_embeds=embedded + 0.5 * noise, attention_mask=batch["attention_mask"]).logits
    of_task = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(of_task.item() + 5 * by_hand(logits, others).item(), rel=1e-5)
    loss.backward()
    assert model.get_input_embeddings().weight.grad is not None


@pytest.mark.parametrize("subwords", ["first", "sum"])
def test_in_the_second_stage_augmented_rows_have_noise_and_the_first_stages_model_sees_none(
    model_dir: Path, tmp_path: Path, subwords: str
) -> None:
    task = ConsistentTagging(Consistency(Noise(0.5), weight=0.0, first_stage=tmp_path, hard_labels=True))
    start = read_start(model_dir)
    task.labels = ["A", "B", "C"]
    settings = replace(task.defaults, max_length=64, subwords=subwords)
    rows = rows_of(task, [Sentence(["the", "lazy", "fox"], ["A", "B", "A"])], start, settings)
    assert [row["noise"] > 0 for row in rows] == [False, True] and all(row["other_noise"] > 0 for row in rows)
    torch.manual_seed(9)
    teacher = start.model(task.built_by(settings), task.labels, 0.0).eval()
    task.defaults = settings
    loss, model, batch = loss_of(task, start, rows, tmp_path, True, teacher)
    named = {name: batch[name] for name in ("attention_mask", "word_starts") if name in batch}
    embedded = model.get_input_embeddings()(batch["input_ids"])
    noise = noise_of(batch["noise"], batch["attention_mask"].sum(1), embedded.shape)
    logits = model(inputs_embeds=embedded + 0.5 * noise, **named).logits
    of_task = torch.nn.functional.cross_entropy(at_places(logits, batch["places"]), torch.tensor([0, 1, 0, 0, 1, 0]))
    best = at_places(teacher(input_ids=batch["input_ids"], **named).logits, batch["places"])[3:].argmax(-1)
    agreement = torch.nn.functional.cross_entropy(at_places(logits, batch["places"])[3:], best)
    assert loss.item() == pytest.approx((of_task + 5 * agreement).item(), rel=1e-5)


def test_translations_are_drawn_by_language_and_must_be_of_the_training_pairs(write: Write, model_dir: Path) -> None:
    files = {
        "de": write("de.tsv", "der faule fuchs\tmein fuchs\tA\nkiste\tjudge\tB\n"),
        "fr": write("fr.tsv", "le renard\tmon renard\nboite\tvow\n"),
    }
    task, start = ConsistentClassification(Consistency(Translations(files))), read_start(model_dir)
    task.labels = ["A", "B"]
    items = [SentencePair("the lazy fox", "my fox", "A", 1), SentencePair("box", "five jugs", "B", 2)]
    german = start.tokenizer("der faule fuchs", "mein fuchs")["input_ids"]
    french = start.tokenizer("le renard", "mon renard")["input_ids"]
    seen = [tuple(rows_of(task, items, start, task.defaults, epoch=n)[0]["other_input_ids"]) for n in range(20)]
    assert set(seen) == {tuple(german), tuple(french)} and 3 < seen.count(tuple(german)) < 17
    assert task.described()["consistency"]["translations"] == ["de", "fr"]
    with pytest.raises(
        ValueError, match=r"de.tsv: 2 pairs, and there are 1 to train on; give their translations line by"
    ):
        rows_of(task, items[:1], start, task.defaults)
    with pytest.raises(ValueError, match=r"de.tsv: line 1: label 'A', but 'B' in line 1 of the training data"):
        rows_of(task, [replace(items[0], label="B"), items[1]], start, task.defaults)


def test_pairs_are_framed_and_cut_as_the_tokenizer_does_it(model_dir: Path) -> None:
    tokenizer = read_start(model_dir).tokenizer
    first, second = list(range(10, 30)), list(range(40, 47))
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    frame = frame_of(tokenizer)
    assert framed(frame, first, second, 64) == [begin, *first, end, end, *second, end]
    assert framed(frame, first, second, 4 + 7 + 9) == [begin, *first[:9], end, end, *second, end]
    assert framed(frame, second, first, 4 + 10) == [begin, *second[:5], end, end, *first[:5], end]
    texts = "judge my vow " * 9, "box fox"
    whole = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    for length in range(8, 40):
        cut = tokenizer(*texts, truncation="longest_first", max_length=length)["input_ids"]
        assert len(framed(frame, *whole, length)) == len(cut) == min(length, len(whole[0]) + len(whole[1]) + 4)


class Recording(Augmentation):
    """Draws a number for every row, and keeps it."""

    def __init__(self) -> None:
        self.drawn: list[tuple[int, float]] = []

    def other_item(self, number: int, item: Any, draw: Any) -> Any:
        self.drawn.append((number, draw.random()))
        return item


def test_every_epoch_of_a_training_has_draws_of_its_own(model_dir: Path, tmp_path: Path) -> None:
    recording = Recording()
    task, start = ConsistentClassification(Consistency(recording)), read_start(model_dir)
    items = [SentencePair(*line.split("\t"), n) for n, line in enumerate(pairs(6, 1).splitlines())]
    task.learn(tmp_path, items)
    settings = replace(task.defaults, epochs=3, batch=4, on_cpu=True)
    fine_tune(task, start, settings, 5, task.train_features(items, start.tokenizer, settings), None, tmp_path / "out")
    wanted = [(n, draw_of(5, epoch, n, "view").random()) for epoch in range(3) for n in range(6)]
    assert sorted(recording.drawn[:6]) == wanted[:6], "of the first epoch"
    assert sorted(recording.drawn) == sorted(wanted)


def test_the_same_dictionaries_say_a_row_otherwise_in_another_epoch(model_dir: Path) -> None:
    switching = CodeSwitching(CodeSwitcher({"de": {"fox": ["fuchs"]}}, 0.5))
    task, start = ConsistentClassification(Consistency(switching)), read_start(model_dir)
    task.labels = ["A", "B"]
    items = [SentencePair("fox " * 20, "box", "A", 1)]
    rows = [rows_of(task, items, start, task.defaults, *place)[0] for place in ((1, 0), (1, 1), (2, 0), (1, 0))]
    assert rows[0] == rows[3]
    assert len({tuple(row["other_input_ids"]) for row in rows}) == 3


@pytest.mark.parametrize(
    ("kind", "way", "recorded"),
    [
        ("classify", "--noise 0.1", {"noise": 0.1}),
        ("classify", "--translations translated-de.tsv", {"translations": ["de"]}),
        ("classify", "--subword-sampling 0.3 --switch-share 0.5", {"alpha": 0.3, "share": 0.5}),
        ("tag", "--noise 0.1 --subwords sum", {"noise": 0.1}),
    ],
)
def test_both_stages_are_trained_by_the_command(
    use: Callable[..., Done],
    write: Write,
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    way: str,
    recorded: dict[str, Any],
) -> None:
    monkeypatch.chdir(tmp_path)
    text = pairs(12, 1) if kind == "classify" else conll(sentences(12, 1))
    train, test = write("train-en.tsv", text), write("test-de.tsv", text)
    write("translated-de.tsv", text)
    usual = ["finetune", kind, str(model_dir), "--train", str(train), "--test", str(test), "--epochs", "2", *QUICK]
    first = use(*usual, *way.split(), "--out", "one")
    assert first.code == 0, first.err
    second = use(*usual, *way.split(), "--first-stage", "one/model", "--hard-labels", "--out", "two")
    assert second.code == 0, second.err
    how = json.loads((tmp_path / "two" / "results.json").read_text(encoding="utf-8"))["consistency"]
    assert (
        {name: how[name] for name in recorded} == recorded and how["hard_labels"] and how["first_stage"] == "one/model"
    )
