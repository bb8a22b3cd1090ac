"""Tagging by the sum of a word's subwords: the sums are those of a loop, and training, predicting and files agree on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForTokenClassification

from pipeline.finetune.files.read_tagged import Sentence
from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.summed_subwords import STARTS, SummedSubwords, sum_words
from pipeline.finetune.tasks.tagging import NO_LABEL, SUM, Tagging, encode_words
from tests.pipeline.finetune.conftest import QUICK, Done, conll, sentences


def test_logits_and_gradients_are_those_of_sums_by_hand(model_dir: Path) -> None:
    task, start = Tagging(), read_start(model_dir)
    task.labels = ["A", "B"]
    rows = [["quick", "fox", "jumps"], ["sphinx"]]
    settings = replace(task.defaults, subwords=SUM, max_length=64)
    features = task.features(
        [Sentence(row, ["A", "B", "A"][: len(row)]) for row in rows], start.tokenizer, settings, True
    )
    model = start.model(task.built_by(settings), task.labels, 0.0)
    assert isinstance(model, SummedSubwords)
    model.eval()
    batch = task.collator(start.tokenizer)(features.rows)
    out = model(**batch)
    hidden = model.roberta(batch["input_ids"], attention_mask=batch["attention_mask"])[0]
    losses = []
    for at, row in enumerate(rows):
        place = 1
        for pieces, label in zip(
            encode_words(start.tokenizer, row), batch["labels"][at][batch["labels"][at] >= 0], strict=True
        ):
            logits = model.classifier(sum(hidden[at, place + k] for k in range(len(pieces))))
            torch.testing.assert_close(out.logits[at, place], logits)
            assert batch["labels"][at, place] == label
            losses.append(-logits.log_softmax(0)[label])
            place += len(pieces)
    torch.testing.assert_close(out.loss, torch.stack(losses).mean())
    (ours,) = torch.autograd.grad(out.loss, model.classifier.weight, retain_graph=True)
    (other,) = torch.autograd.grad(torch.stack(losses).mean(), model.classifier.weight)
    torch.testing.assert_close(ours, other)
    assert int((batch["labels"] != NO_LABEL).sum()) == 4 and batch[STARTS].shape == batch["input_ids"].shape


def test_padding_and_special_tokens_add_nothing_to_a_word() -> None:
    hidden = torch.arange(5.0).reshape(1, 5, 1)
    starts = torch.tensor([[0, 1, 1, 3, 4]])
    assert sum_words(hidden, starts).flatten().tolist() == [0.0, 3.0, 0.0, 3.0, 4.0]


def test_a_model_that_sums_is_trained_kept_and_predicts_the_same_again(
    use: Callable[..., Done], write: Callable[[str, str], Path], model_dir: Path, tmp_path: Path
) -> None:
    train, test = write("train-en.tsv", conll(sentences(24, 1))), write("test-de.tsv", conll(sentences(8, 2)))
    out = tmp_path / "out"
    more = ["--epochs", "1", "--subwords", "sum"]
    done = use(
        "finetune", "tag", str(model_dir), "--train", str(train), "--test", str(test), "--out", str(out), *QUICK, *more
    )
    assert done.code == 0, done.err
    assert json.loads((out / "model/finetune.json").read_text(encoding="utf-8"))["subwords"] == "sum"
    again = use("predict", str(out / "model"), str(test), "--device", "cpu")
    tags = [line.partition("\t")[2] for line in again.out.splitlines() if line]
    assert tags == (out / "predictions/udpos/test-de.tsv").read_text(encoding="utf-8").split()
    plain = AutoModelForTokenClassification.from_pretrained(out / "model")
    assert type(plain).__name__ == "XLMRobertaForTokenClassification", "its head is Hugging Face's"


def test_the_way_is_of_tagging_and_one_of_two(
    use: Callable[..., Done], write: Callable[[str, str], Path], model_dir: Path
) -> None:
    file = str(write("x-en.tsv", "a\tb\n"))
    words = [str(model_dir), "--train", file, "--test", file, "--out", "out", "--subwords"]
    assert "--subwords sum: is of tag alone" in use("finetune", "qa", *words, "sum").err
    assert "--subwords last: is none of first, sum" in use("finetune", "tag", *words, "last").err
