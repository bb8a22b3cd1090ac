"""Training with code-switched sentences: what is switched, which logits are compared, and the loss of a step by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from pipeline.finetune.augmentation import CodeSwitching, draw_of
from pipeline.finetune.code_switching import CodeSwitcher, read_dictionary
from pipeline.finetune.files.read_pairs import SentencePair
from pipeline.finetune.files.read_tagged import Sentence
from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.consistency_trainer import Agreements, ConsistencyTrainer
from pipeline.finetune.tasks.consistent import Consistency, ConsistentClassification, ConsistentTagging, at_places
from pipeline.finetune.tasks.consistent_answers import ConsistentQuestionAnswering
from pipeline.finetune.tasks.tagging import encode_words
from tests.pipeline.finetune.conftest import QUICK, Done, conll, sentences
from tests.pipeline.finetune.test_classification import pairs

FOX = {"de": {"fox": ["fuchs"], "lazy": ["faulen"]}}


def switching(share: float = 1.0) -> CodeSwitching:
    return CodeSwitching(CodeSwitcher(FOX, share))


def test_words_are_switched_by_share_and_seed_and_only_where_a_dictionary_has_them() -> None:
    words = ["the", "lazy", "Fox", "and", "the", "fox"]
    draw = draw_of(1, 0, 0, "view")
    assert CodeSwitcher(FOX, 1.0).switch(words, draw) == ["the", "faulen", "fuchs", "and", "the", "fuchs"]
    assert CodeSwitcher(FOX, 0.0).switch(words, draw) == words
    many = ["fox"] * 2000
    places = [(1, 0, 0, "view"), (2, 0, 0, "view"), (1, 1, 0, "view"), (1, 0, 1, "view"), (1, 0, 0, "item")]
    switched = [CodeSwitcher(FOX, 0.3).switch(many, draw_of(*place)) for place in places]
    assert switched[0] == CodeSwitcher(FOX, 0.3).switch(many, draw_of(*places[0]))
    assert len(set(map(tuple, switched))) == 5, "seed, epoch, row and view each decide"
    assert all(0.27 < each.count("fuchs") / len(many) < 0.33 for each in switched)


def test_a_dictionary_is_read_as_muse_publishes_it(write: Callable[[str, str], Path]) -> None:
    assert read_dictionary(write("en-de.txt", "Fox fuchs\nfox\tfähe\n")) == {"fox": ["fuchs", "fähe"]}
    with pytest.raises(ValueError, match=r"en-de\.txt:2: 'a b c' is not a word and its translation"):
        read_dictionary(write("en-de.txt", "fox fuchs\na b c\n"))


def loss_of(
    task: Any, start: Any, rows: Any, tmp_path: Path, training: bool, teacher: Any = None
) -> tuple[Any, Any, Any]:
    """(the trainer's loss, the model, the batch)."""
    torch.manual_seed(1)
    model = start.model(task.built_by(task.defaults), task.labels, 0.0).train(training)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    batch = task.collator(start.tokenizer)(rows)
    how = task.consistency
    agreements = Agreements(task.of_views, how.weight, task.of_models, how.model_weight, how.augmentation.spread)
    trainer = ConsistencyTrainer(agreements=agreements, teacher=teacher, model=model, args=args)
    return trainer.compute_loss(model, dict(batch)), model, batch


def rows_of(task: Any, items: Any, start: Any, settings: Any, seed: int = 1, epoch: int = 0) -> list[Any]:
    """The rows of an epoch."""
    views = task.train_features(items, start.tokenizer, settings).dataset(seed)
    views.epoch = epoch
    return [views[number] for number in range(len(views))]


def by_hand(logits: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    p, q = (each.double().softmax(-1) for each in (logits, others))
    return ((p - q) * (p.log() - q.log())).mean()  # both divergences, over items and labels


def test_the_loss_of_pairs_is_the_tasks_and_five_times_the_consistency(model_dir: Path, tmp_path: Path) -> None:
    task, start = ConsistentClassification(Consistency(switching())), read_start(model_dir)
    task.labels = ["A", "B", "C"]
    items = [SentencePair("the lazy fox", "my fox", "A", 1), SentencePair("box", "five dozen jugs", "C", 2)]
    settings = replace(task.defaults, max_length=64)
    rows = rows_of(task, items, start, settings)
    assert rows[0]["other_input_ids"] == start.tokenizer("the faulen fuchs", "my fuchs")["input_ids"]
    loss, model, batch = loss_of(task, start, rows, tmp_path, training=True)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    others = model(batch["other_input_ids"], attention_mask=batch["other_attention_mask"]).logits
    of_task = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))
    assert loss.item() == pytest.approx(of_task.item() + 5 * by_hand(logits, others).item(), rel=1e-5)
    evaluated, _, _ = loss_of(task, start, rows, tmp_path, training=False)
    assert evaluated.item() == pytest.approx(of_task.item(), rel=1e-5)
    assert "other_input_ids" not in task.features(items, start.tokenizer, settings, True).rows[0], "dev"


@pytest.mark.parametrize("subwords", ["first", "sum"])
def test_words_are_compared_with_themselves_wherever_they_stand(model_dir: Path, tmp_path: Path, subwords: str) -> None:
    task, start = ConsistentTagging(Consistency(switching(), weight=2.0, mean="items")), read_start(model_dir)
    task.labels = ["A", "B"]
    items = [Sentence(["the", "lazy", "fox"], ["A", "B", "A"]), Sentence(["box"], ["B"])]
    settings = replace(task.defaults, max_length=64, subwords=subwords)
    rows = rows_of(task, items, start, settings)
    lengths = [len(pieces) for pieces in encode_words(start.tokenizer, ["the", "faulen"])]
    assert rows[0]["other_places"] == [1, 1 + lengths[0], 1 + sum(lengths)]
    task.defaults = settings
    loss, model, batch = loss_of(task, start, rows, tmp_path, training=True)
    named = [name for name in ("input_ids", "attention_mask", "word_starts") if name in batch]
    logits = model(**{name: batch[name] for name in named}).logits
    others = model(**{name: batch[f"other_{name}"] for name in named}).logits
    words = at_places(logits, batch["places"])
    assert words.shape == (4, 2)
    of_task = torch.nn.functional.cross_entropy(words, torch.tensor([0, 1, 0, 1]))
    agreement = 2 * 2 * by_hand(words, at_places(others, batch["other_places"]))
    assert loss.item() == pytest.approx(of_task.item() + agreement.item(), rel=1e-5)


def test_long_sentences_whose_windows_differ_share_the_words_that_both_have(model_dir: Path) -> None:
    long = CodeSwitching(CodeSwitcher({"de": {"fox": ["sphinxofblackquartzjudgemyvow"]}}, 0.5))
    task, start = ConsistentTagging(Consistency(long)), read_start(model_dir)
    task.labels = ["A"]
    settings = replace(task.defaults, max_length=32)
    items = [Sentence(["fox", "box"] * 20, ["A"] * 40)]
    plain = task.features(items, start.tokenizer, settings, with_labels=True)
    rows = rows_of(task, items, start, settings)
    assert len(rows) == len(plain.rows) > 1
    fox, box = (encode_words(start.tokenizer, [word])[0][0] for word in ("fox", "box"))
    for row, place in zip(rows, plain.places, strict=True):
        assert len(row["places"]) == len(row["other_places"]) and len(row["other_input_ids"]) <= 32
        assert row["places"] == list(place.place_of.values())[: len(row["places"])], "the first words that fit"
        for here, there in zip(row["places"], row["other_places"], strict=True):
            if row["input_ids"][here] == box:
                assert row["other_input_ids"][there] == box
            else:
                assert row["input_ids"][here] == fox
    assert any(len(row["places"]) < len(place.place_of) for row, place in zip(rows, plain.places, strict=True))


def test_in_the_second_stage_switched_items_are_trained_on_and_agree_with_the_first(
    model_dir: Path, tmp_path: Path
) -> None:
    task = ConsistentTagging(Consistency(switching(), weight=0.0, first_stage=tmp_path, model_weight=3.0))
    start = read_start(model_dir)
    task.labels = ["A", "B"]
    settings = replace(task.defaults, max_length=64)
    items = [Sentence(["the", "lazy", "fox"], ["A", "B", "A"]), Sentence(["box"], ["B"])]
    rows = rows_of(task, items, start, settings)
    assert [row["augmented"] for row in rows] == [False, False, True, True]
    assert rows[2]["input_ids"] == rows[0]["other_input_ids"] and rows[3]["labels"] == rows[1]["labels"]
    assert len(task.train_features(items, start.tokenizer, settings).rows) == 4
    torch.manual_seed(9)
    teacher = start.model(task.model, task.labels, 0.0).eval()
    loss, model, batch = loss_of(task, start, rows, tmp_path, True, teacher)
    logits, taught = (
        each(batch["input_ids"], attention_mask=batch["attention_mask"]).logits for each in (model, teacher)
    )
    of_task = torch.nn.functional.cross_entropy(
        at_places(logits, batch["places"]), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    )
    said, wanted = (at_places(each[2:], batch["places"][2:]).double().log_softmax(-1) for each in (logits, taught))
    assert loss.item() == pytest.approx(of_task.item() + 3 * (wanted.exp() * (wanted - said)).mean().item(), rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    with pytest.raises(ValueError, match=r"--first-stage .* holds no model; give the folder `model`"):
        task.trainer(settings)
    teacher.config.id2label = {0: "A", 1: "C"}
    teacher.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has the labels A, C, not A, B"):
        task.trainer(settings)
    questions = ConsistentQuestionAnswering(task.consistency)
    questions.labels = []
    with pytest.raises(ValueError, match="is a model of another task; give one of qa"):
        questions.trainer(settings)


def test_the_command_trains_with_dictionaries_and_records_them(
    use: Callable[..., Done], write: Callable[[str, str], Path], model_dir: Path, tmp_path: Path
) -> None:
    train, test = write("train-en.tsv", conll(sentences(16, 1))), write("test-de.tsv", conll(sentences(8, 2)))
    words = write("en-de.txt", "fox fuchs\n")
    out = tmp_path / "out"
    more = ["--epochs", "1", "--code-switch", str(words), "--consistency", "1", "--consistency-mean", "items"]
    done = use(
        "finetune", "tag", str(model_dir), "--train", str(train), "--test", str(test), "--out", str(out), *QUICK, *more
    )
    assert done.code == 0, done.err
    recorded = json.loads((out / "results.json").read_text(encoding="utf-8"))["consistency"]
    assert recorded == {"weight": 1.0, "mean": "items", "switch_share": 0.3, "languages": ["de"]}
    second = [*more, "--first-stage", str(out / "model"), "--model-consistency", "0.3"]
    words_of = [
        "finetune",
        "tag",
        str(model_dir),
        "--train",
        str(train),
        "--test",
        str(test),
        "--out",
        str(tmp_path / "two"),
    ]
    assert use(*words_of, *QUICK, *second).code == 0
    recorded = json.loads((tmp_path / "two" / "results.json").read_text(encoding="utf-8"))["consistency"]
    assert recorded["model_weight"] == 0.3


def test_options_that_do_not_go_together_are_told(
    use: Callable[..., Done], write: Callable[[str, str], Path], model_dir: Path
) -> None:
    file, words = str(write("x-en.tsv", pairs(4, 1))), str(write("en-de.txt", "fox fuchs\n"))
    usual = [str(model_dir), "--train", file, "--test", file, "--out", "out"]
    alone = "give one of these too"
    for kind, options, told in (
        ("classify", "--consistency 1", alone),
        ("classify", "--switch-share 0", alone),
        ("generate", f"--code-switch {words}", "is of classify, tag, qa; leave it out"),
        (
            "classify",
            f"--noise 1e-5 --code-switch {words}",
            "is another way to say an item otherwise than --noise 1e-05",
        ),
        ("tag", f"--translations {file}", "is of classify alone, because a translation has other words"),
        ("classify", "--noise 0", "--noise 0: is a standard deviation; give one above 0"),
        ("classify", "--noise 1 --switch-share 0.5", "--switch-share 0.5: is of --code-switch and --subword-sampling"),
        ("classify", f"--code-switch {words} --model-consistency 1", "is of --first-stage; give that model too"),
        ("classify", f"--code-switch {words} --group-lengths", "--group-lengths: is not with --code-switch"),
        ("classify", f"--code-switch {words} --hard-labels", "--hard-labels: are of --first-stage; give that model"),
        ("classify", f"--code-switch {words} --code-switch {words}", "of language de, as"),
        (
            "classify",
            f"--code-switch {words} --consistency-mean median",
            "--consistency-mean median: is none of elements, items",
        ),
        ("qa", f"--code-switch {words} --consistency-mean items", "--consistency-mean items: is of classify and tag"),
    ):
        done = use("finetune", kind, *usual, *options.split())
        assert done.code == 1 and told in done.err, (options, done.err)
