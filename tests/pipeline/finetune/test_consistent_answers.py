"""Consistency of answers: which tokens are compared, and the losses against sums in float64, value and gradient."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.finetune.augmentation import CodeSwitching, Noise
from pipeline.finetune.code_switching import CodeSwitcher
from pipeline.finetune.consistency import answers_agree, answers_of_model
from pipeline.finetune.files.read_squad import Question
from pipeline.finetune.start import read_start
from pipeline.finetune.tasks.consistent import Consistency
from pipeline.finetune.tasks.consistent_answers import ConsistentQuestionAnswering
from tests.pipeline.finetune.conftest import QUICK, Done
from tests.pipeline.finetune.test_consistency import differences, softmax
from tests.pipeline.finetune.test_consistent import loss_of, rows_of
from tests.pipeline.finetune.test_question_answering import squad

WORDS = {"de": {word: ["kiste", "vuchs"] for word in ("fox", "box", "the", "lazy", "dog", "jugs")}}
CONTEXT = "the lazy fox and the box of jugs by the dog"
Rows = list[list[float]]


def question(answer: str = "box of jugs") -> Question:
    return Question("q", "judge the vow of fox", CONTEXT, [answer], CONTEXT.index(answer))


def switching(share: float = 1.0) -> CodeSwitching:
    return CodeSwitching(CodeSwitcher(WORDS, share))


def probabilities(row: list[float], length: int, places: list[int]) -> list[float]:
    """Of the tokens at the places, and of all others of the row together."""
    of_tokens = softmax(row[:length])
    at = [of_tokens[place] for place in places if place >= 0]
    return [1 - sum(at), *at]


def kl(target: list[float], logits: list[float]) -> float:
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(target, logits, strict=True))


LENGTHS, OTHER_LENGTHS = [6, 4], [5, 7]
PLACES, OTHER_PLACES = [[0, 2, 4], [0, 3, -1]], [[0, 1, 3], [0, 5, -1]]


def of_rows(first: Rows, second: Rows, turned: bool = False) -> float:
    """KL(first ‖ second), the mean over rows; turned: the first has the other view's places."""
    sides = [(LENGTHS, PLACES), (OTHER_LENGTHS, OTHER_PLACES)][:: -1 if turned else 1]
    total = 0.0
    for row in range(2):
        p, q = (
            probabilities(logits[row], lengths[row], places[row])
            for logits, (lengths, places) in zip((first, second), sides, strict=True)
        )
        total += kl(p, q)
    return total / 2


def drawn(width: int, seed: int) -> Tensor:
    return (2 * torch.randn(2, width, generator=torch.Generator().manual_seed(seed))).requires_grad_()


def masks() -> tuple[Tensor, Tensor]:
    first, second = (
        torch.arange(width)[None] < torch.tensor(lengths)[:, None]
        for width, lengths in ((6, LENGTHS), (7, OTHER_LENGTHS))
    )
    return first, second


def test_starts_and_ends_agree_by_the_formula_and_so_do_the_gradients() -> None:
    said, others = (drawn(6, 1), drawn(6, 2)), (drawn(7, 3), drawn(7, 4))
    loss = answers_agree(said, others, masks(), (torch.tensor(PLACES), torch.tensor(OTHER_PLACES)))
    lists = [[each.tolist() for each in side] for side in (said, others)]
    both = zip(*lists, strict=True)
    wanted = sum((of_rows(a, b) + of_rows(b, a, turned=True)) / 2 for a, b in both)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    gradients = torch.autograd.grad(loss, [said[0], others[1]])
    start, end = lists[0][0], lists[0][1]
    other_start, other_end = lists[1][0], lists[1][1]
    # each side moves towards the other, which stands still
    np.testing.assert_allclose(
        gradients[0], differences(lambda x: of_rows(other_start, x, turned=True) / 2, start), atol=1e-6
    )
    np.testing.assert_allclose(gradients[1], differences(lambda x: of_rows(end, x) / 2, other_end), atol=1e-6)
    assert start is not other_end


def test_what_agrees_costs_nothing_and_padding_is_of_no_effect() -> None:
    said = drawn(6, 1), drawn(6, 2)
    places = torch.tensor(PLACES)
    mask = masks()[0]
    assert answers_agree(said, said, (mask, mask), (places, places)).item() == 0.0
    padded = tuple(torch.cat([each, torch.full((2, 2), 50.0)], dim=1) for each in said)
    longer = torch.cat([mask, torch.zeros(2, 2, dtype=torch.bool)], dim=1)
    others = drawn(7, 3), drawn(7, 4)
    seen = torch.tensor(OTHER_PLACES)
    loss = answers_agree(said, others, (mask, masks()[1]), (places, seen))
    assert answers_agree(padded, others, (longer, masks()[1]), (places, seen)).item() == pytest.approx(loss.item())  # type: ignore[arg-type]
    extreme = (torch.tensor([[0.0, 300.0, -300.0]], requires_grad=True),) * 2
    whole = torch.ones(1, 3, dtype=torch.bool)
    at = torch.tensor([[0, 1]])
    loss = answers_agree(extreme, (torch.tensor([[300.0, 0.0, -300.0]]),) * 2, (whole, whole), (at, at))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(extreme[0].grad).all()  # type: ignore[arg-type]


def test_the_first_stages_model_teaches_all_tokens_of_a_row() -> None:
    said, taught = (drawn(6, 1), drawn(6, 2)), (drawn(6, 5), drawn(6, 6))
    mask = masks()[0]
    loss = answers_of_model(said, taught, mask)

    def of_side(target: Rows, logits: Rows) -> float:
        rows = range(2)
        return sum(kl(softmax(target[n][: LENGTHS[n]]), softmax(logits[n][: LENGTHS[n]])) for n in rows) / 2

    wanted = sum(of_side(t.tolist(), s.tolist()) for s, t in zip(said, taught, strict=True)) / 2
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    of_start, of_teacher = torch.autograd.grad(loss, [said[0], taught[0]], allow_unused=True)
    assert of_teacher is None
    fixed = taught[0].tolist()
    np.testing.assert_allclose(of_start, differences(lambda x: of_side(fixed, x) / 2, said[0].tolist()), atol=1e-6)
    hard = answers_of_model(said, taught, mask, hard=True)
    right = 0.0
    for logits, target in zip(said, taught, strict=True):
        for row, length in enumerate(LENGTHS):
            best = int(target[row, :length].argmax())
            right -= math.log(softmax(logits[row, :length].tolist())[best]) / 4
    assert hard.item() == pytest.approx(right, rel=1e-5)


def test_unchanged_words_are_compared_and_answers_begin_and_end_with_tokens_of_both_views(model_dir: Path) -> None:
    task, start = ConsistentQuestionAnswering(Consistency(switching())), read_start(model_dir)
    settings = replace(task.defaults, max_length=128, stride=8)
    task.labels = []
    (row,) = rows_of(task, [question()], start, settings)
    decode = start.tokenizer.decode
    ids, others = row["input_ids"], row["other_input_ids"]
    assert [ids[place] for place in row["places"]] == [others[place] for place in row["other_places"]]
    assert decode([ids[place] for place in row["places"][1:]]) == "and box of jugs by", (
        "no other word has no translation"
    )
    assert row["places"][0] == row["other_places"][0] == 0
    assert decode(others).count("vuchs") + decode(others).count("kiste") == 6, "the question stays as it is"
    middle = rows_of(task, [question("lazy fox and the box")], start, settings)[0]
    said = decode([middle["input_ids"][place] for place in middle["places"][1:]])
    assert said == "lazy and box of by", "within the answer words are switched, but not its first and last"
    long = rows_of(task, [replace(question(), context=CONTEXT + " dog" * 12)], start, replace(settings, max_length=83))
    assert all(len(each["other_input_ids"]) <= 83 for each in long)


def test_items_of_the_second_stage_keep_their_answers(model_dir: Path, tmp_path: Path) -> None:
    consistency = Consistency(switching(), first_stage=tmp_path)
    task, start = ConsistentQuestionAnswering(consistency), read_start(model_dir)
    task.labels = []
    settings = replace(task.defaults, max_length=128, stride=8)
    plain, augmented = rows_of(task, [question("lazy fox and the box")], start, settings)
    for row in (plain, augmented):
        answer = row["input_ids"][row["start_positions"] : row["end_positions"] + 1]
        assert start.tokenizer.decode(answer) == "lazy fox and the box"
    assert not plain["augmented"] and augmented["augmented"]
    assert plain["input_ids"] != augmented["input_ids"] and "other_start_positions" not in augmented
    shared = [augmented["input_ids"][place] for place in augmented["places"]]
    assert shared == [augmented["other_input_ids"][place] for place in augmented["other_places"]]
    short = replace(settings, max_length=75, stride=0)  # in which the context fits while no word is switched
    words = {"de": {"the": ["sphinxofblackquartzjudgemyvow"]}}
    long = ConsistentQuestionAnswering(replace(consistency, augmentation=CodeSwitching(CodeSwitcher(words, 1.0))))
    long.labels = []
    last = rows_of(long, [question("dog")], start, short)[1]
    assert (last["start_positions"], last["end_positions"]) == (0, 0), "the answer no longer fits"


def by_hand(outputs: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], rows: list[dict[str, list[int]]]) -> float:
    total = 0.0
    for logits, again in zip(outputs, others, strict=True):
        for number, row in enumerate(rows):
            p = probabilities(logits[number].tolist(), len(row["input_ids"]), row["places"])
            q = probabilities(again[number].tolist(), len(row["other_input_ids"]), row["other_places"])
            total += (kl(p, q) + kl(q, p)) / 2
    return total / len(rows)


def test_the_loss_of_answers_is_the_tasks_and_five_times_the_consistency(model_dir: Path, tmp_path: Path) -> None:
    task, start = ConsistentQuestionAnswering(Consistency(switching(0.6), first_stage=tmp_path)), read_start(model_dir)
    task.labels = []
    settings = replace(task.defaults, max_length=128, stride=8)
    rows = rows_of(task, [question(), replace(question("dog"), context="dog fox", start=0)], start, settings)
    torch.manual_seed(9)
    teacher = start.model(task.model, [], 0.0).eval()
    loss, model, batch = loss_of(task, start, rows, tmp_path, True, teacher)
    out = model(batch["input_ids"], attention_mask=batch["attention_mask"])
    again = model(batch["other_input_ids"], attention_mask=batch["other_attention_mask"])
    taught = teacher(batch["input_ids"], attention_mask=batch["attention_mask"])
    of_task = sum(
        torch.nn.functional.cross_entropy(logits, batch[name]).item() / 2
        for logits, name in ((out.start_logits, "start_positions"), (out.end_logits, "end_positions"))
    )
    said, others = (out.start_logits, out.end_logits), (again.start_logits, again.end_logits)
    wanted = of_task + 5 * by_hand(said, others, rows)
    for logits, target in zip(said, (taught.start_logits, taught.end_logits), strict=True):
        for number in (2, 3):
            length = len(rows[number]["input_ids"])
            p, q = (softmax(each[number, :length].tolist()) for each in (target, logits))
            wanted += 5 * kl(p, q) / 4
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_noise_on_questions_compares_every_token_of_the_context(model_dir: Path) -> None:
    task, start = ConsistentQuestionAnswering(Consistency(Noise(0.1))), read_start(model_dir)
    task.labels = []
    (row,) = rows_of(task, [question()], start, replace(task.defaults, max_length=128, stride=8))
    assert row["places"] == row["other_places"] and row["input_ids"] == row["other_input_ids"]
    assert start.tokenizer.decode([row["input_ids"][place] for place in row["places"][1:]]) == CONTEXT


def test_questions_are_trained_in_both_stages_by_the_command(
    use: Callable[..., Done], write: Callable[[str, str], Path], model_dir: Path, tmp_path: Path
) -> None:
    train, test = write("train-en.json", squad(12, 1, 20)), write("xquad.de.json", squad(4, 2, 10))
    usual = ["finetune", "qa", str(model_dir), "--train", str(train), "--test", str(test), "--epochs", "1", *QUICK]
    usual += ["--max-length", "100", "--stride", "16"]
    words = ["--code-switch", str(write("en-de.txt", "fox fuchs\nbox kiste\n"))]
    done = use(*usual, *words, "--out", str(tmp_path / "one"))
    assert done.code == 0, done.err
    second = ["--subword-sampling", "0.3", "--first-stage", str(tmp_path / "one" / "model")]
    done = use(*usual, *second, "--out", str(tmp_path / "two"))
    assert done.code == 0, done.err
    recorded = json.loads((tmp_path / "two" / "results.json").read_text(encoding="utf-8"))["consistency"]
    assert recorded == {
        "weight": 5.0, "alpha": 0.3, "share": 0.3, "first_stage": second[3], "model_weight": 5.0,
    }  # fmt: skip
