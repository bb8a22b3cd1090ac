"""Generation: a tiny model learns to write, in the language that is asked for, and what is frozen stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.finetune.files.read_texts import Text
from pipeline.finetune.tasks.generation import Generation, freeze
from pipeline.generate.model import load_text_model
from tests.pipeline.conftest import Done
from tests.pipeline.generation_kit import LINES, module, save, tokenizer_with_tags, written

Use = Callable[..., Done]
Write = Callable[[str, str], Path]
QUICK = ("--device", "cpu", "--dropout", 0, "--max-length", 40, "--beam", 2)
PAIRS = {to: "".join(f"{line}\t{written(line, to)}\n" for line in LINES) for to in ("de", "en")}


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model with random weights."""
    tokenizer = tokenizer_with_tags()
    return save(tmp_path_factory.mktemp("untaught"), module(len(tokenizer)), tokenizer, "target")


def test_texts_are_learned_scored_and_written_by_the_model_that_comes_out(
    use: Use, write: Write, untaught: Path, tmp_path: Path
) -> None:
    train = [write(f"train-{to}.tsv", text) for to, text in PAIRS.items()]
    test = write("test-de.jsonl", "".join(f"{json.dumps({'source': s, 'target': written(s, 'de')})}\n" for s in LINES))
    blind = write("test-en.tsv", "".join(f"{line}\n" for line in LINES))
    done = use(
        "finetune", "generate", untaught, "--train", train[0], "--train", train[1],
        "--test", test, "--test", blind, "--out", tmp_path / "out", "--epochs", 100, "--lr", 6e-3, "--batch", 16, *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "de: bleu 100.00, chrf 100.00, rouge_l 100.00, exact_match 100.00" in done.err
    assert "en: no labels, no score" in done.err and "Warning" not in done.err
    for to in ("de", "en"):
        lines = (tmp_path / "out" / "predictions" / "generation" / f"test-{to}.txt").read_text().splitlines()
        assert lines == [written(line, to) for line in LINES]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["runs"][0]["scores"]["de"]["exact_match"] == 100
    assert results["settings"]["train_layers"] == "all" and results["settings"]["beam"] == 2
    model = tmp_path / "out" / "model"
    done = use("generate", model, "--to", "de", "--device", "cpu", stdin="\n".join(LINES).encode())
    assert done.out.splitlines() == [written(line, "de") for line in LINES], done.err
    assert "writes texts; use python -m pipeline generate" in use("predict", model, blind).error


@pytest.mark.parametrize(
    ("train_layers", "moved"),
    [("2-2", ["encoder.encoder.layer.1."]), ("decoder", ["decoder."]), ("all", ["decoder.", "encoder."])],
)
def test_only_what_is_named_is_trained(untaught: Path, train_layers: str, moved: list[str]) -> None:
    model = load_text_model(untaught).module
    freeze(model, train_layers)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(tuple(moved))}
    assert trained


def test_frozen_parts_are_the_same_bits_after_training(use: Use, write: Write, untaught: Path, tmp_path: Path) -> None:
    train, test = write("train-en.tsv", PAIRS["en"]), write("test-de.tsv", PAIRS["de"])
    done = use(
        "finetune", "generate", untaught, "--train", train, "--test", test, "--out", tmp_path / "out",
        "--dev", train, "--epochs", 2, "--batch", 2, "--train-layers", "1-1", "--label-smoothing", 0.1, *QUICK,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.err.count("  dev: exact_match ") == 2 and "bleu" in done.err
    before, after = (load_text_model(folder).module.state_dict() for folder in (untaught, tmp_path / "out" / "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("encoder.encoder.layer.0.") for name in changed)


def test_a_row_is_framed_as_generate_frames_it_and_cuts_are_counted(untaught: Path) -> None:
    task = Generation()
    task.start(untaught, None)
    model = task._model
    long = " ".join(["fox"] * 30)
    items = task.of_language([Text("the fox", "fox", 1), Text(long, long, 2)], "de")
    features = task.features(items, model.tokenizer, replace(task.defaults, max_length=40), with_labels=True)
    first = features.rows[0]
    fox = model.encode(["fox"])[0]
    assert first["input_ids"] == [0, *model.encode(["the fox"])[0], 2]
    assert first["labels"] == [*fox, 2] and first["decoder_input_ids"] == [model.start("de"), *fox]
    assert features.notes == {"sources cut at their end": 1, "targets cut at their end": 1}


@pytest.mark.parametrize(
    ("arguments", "text", "said"),
    [
        (("generate", "--train-layers", "1-9"), "a\tb\n", "--train-layers 1-9: the encoder has 2 layers"),
        (("generate", "--train-layers", "2-1"), "a\tb\n", "--train-layers 2-1: give all, decoder or FIRST-LAST"),
        (("generate", "--to", "fr"), "a\tb\n", "--to fr: "),
        (
            ("generate", "--tokenizer", "t"),
            "a\tb\n",
            "--tokenizer t: a model with a decoder has a tokenizer of its own",
        ),
        (("generate",), "a\n", "has no targets to train on"),
        (("generate",), "a\tb\tc\n", "line 1 has 3 columns; give source and target, a tab apart"),
        (("generate",), "a\tb\n\tb\n", "line 2 has an empty source"),
        (("generate",), "a\tb\na\t\n", "line 2 has an empty target"),
        (("generate",), "a\tb\na\n", "line 2 has no target, line 1 has one"),
        (("classify", "--beam", "2"), "a\tb\tc\n", "--beam: is of generate alone; leave it out"),
    ],
)
def test_mistakes_are_one_line(
    use: Use, write: Write, untaught: Path, tmp_path: Path, arguments: tuple[str, ...], text: str, said: str
) -> None:
    task, *options = arguments
    path = write("train-de.tsv", text)
    quick = ("--device", "cpu", "--max-length", 40)
    done = use("finetune", task, untaught, "--train", path, "--test", path, "--out", tmp_path / "out", *quick, *options)
    assert done.code == 1 and said in done.error
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [("{\n", "line 1 is not JSON"), ('{"source": 1}\n', "line 1 has not the texts source and target")],
)
def test_objects_that_are_none_are_one_line(
    use: Use, write: Write, untaught: Path, tmp_path: Path, text: str, said: str
) -> None:
    path = write("train-de.jsonl", text)
    done = use("finetune", "generate", untaught, "--train", path, "--test", path, "--out", tmp_path / "out")
    assert done.code == 1 and said in done.error


def test_an_encoder_cannot_be_taught_to_write(use: Use, write: Write, model_dir: Path, tmp_path: Path) -> None:
    path = write("train-de.tsv", "a\tb\n")
    done = use("finetune", "generate", model_dir, "--train", path, "--test", path, "--out", tmp_path / "out")
    assert "is an encoder, which writes nothing; give the export of a run with a decoder" in done.error
