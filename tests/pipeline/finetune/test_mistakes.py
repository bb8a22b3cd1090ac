"""A user's mistake ends the command with one line that names file, line, value and mend, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.finetune.conftest import QUICK, Done, conll, sentences

GOOD = {
    "train-en.tsv": "a\tX\nb\tY\n",
    "test-de.tsv": "a\tX\n\nb\tY\n",
    "pairs-en.tsv": "a\tb\tyes\nc\td\tno\n",
    "train-en.json": '{"data": [{"paragraphs": [{"context": "a b", "qas": [{"id": "1", "question": "c", '
    '"answers": [{"text": "b", "answer_start": 2}]}]}]}]}',
}


@pytest.fixture
def fine_tune(
    use: Callable[..., Done], model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Run `finetune` in a folder with good files, and others given as a dictionary."""
    monkeypatch.chdir(tmp_path)

    def run(task: str, *arguments: str, files: dict[str, str] | None = None, model: str = "") -> Done:
        for name, text in {**GOOD, **(files or {})}.items():
            Path(name).write_text(text, encoding="utf-8")
        done = use("finetune", task, model or model_dir, "--device", "cpu", "--out", "out", *arguments)
        assert done.code == 1 and not Path("out/predictions").exists() and not Path("out/trainer").exists()
        return done

    return run


TAG = ("tag", "--train", "train-en.tsv", "--test")
CLASSIFY = ("classify", "--train", "pairs-en.tsv", "--test")


@pytest.mark.parametrize(
    ("arguments", "files", "message"),
    [
        ((*TAG, "test-de.tsv"), {"train-en.tsv": "a\nb\n"}, "train-en.tsv: has no tags to train on; give token, tab"),
        ((*TAG, "test-de.tsv"), {"test-de.tsv": ""}, "test-de.tsv: is empty"),
        (
            (*TAG, "test-de.tsv"),
            {"test-de.tsv": "a\tNN\nb\tVB\nc\tX\n"},
            "test-de.tsv: most words have tags that the training data lacks, such as 'NN'; it has X, Y",
        ),
        ((*TAG, "test-de.tsv", "--dev", "dev-en.tsv"), {"dev-en.tsv": "a\n"}, "dev-en.tsv: has no labels; the best"),
        ((*TAG, "test-de.tsv", "--test-items", "2-3"), {}, "test-de.tsv: has 2 items, --test-items asks for 2-3"),
        ((*TAG, "test.tsv"), {"test.tsv": "a\tX\n"}, "test.tsv: its name tells no language; write it before the file"),
        ((*TAG, "German=test-de.tsv"), {}, "German=test-de.tsv: 'German' is no language code"),
        ((*TAG, "test-de.tsv", "de=train-en.tsv"), {}, "train-en.tsv: of language de, as test-de.tsv"),
        ((*TAG, "test-de.tsv", "--max-length", "512"), {}, "--max-length 512: the model of"),
        (
            (*TAG, "test-de.tsv", "--device", "tpu"),
            {},
            "--device tpu: no such device; choose auto, cpu, cuda or cuda:N",
        ),
        ((*TAG, "test-de.tsv", "--dev-items", "1-2"), {}, "--dev-items 1-2: of no file; give --dev too"),
        (
            (*CLASSIFY, "de=p.tsv"),
            {"p.tsv": "a\tb\tno\na\tb\tmaybe\n"},
            "p.tsv: line 2: label 'maybe' is not one of the training data's: no, yes",
        ),
        ((*CLASSIFY, "de=p.tsv"), {"p.tsv": "a b no\n"}, "p.tsv: line 1 has 1 columns; give sentence1, sentence2"),
        ((*CLASSIFY, "de=pairs-en.tsv"), {"pairs-en.tsv": "a\tb\tyes\n"}, "pairs-en.tsv: all labels are 'yes'"),
        ((*CLASSIFY, "de=pairs-en.tsv"), {"pairs-en.tsv": "a\tb\n"}, "pairs-en.tsv: has no labels to train on"),
        (
            ("qa", "--train", "train-en.json", "--test", "de=train-en.json", "--max-length", "90"),
            {},
            "--max-length 90: too short for a question of 64 tokens and windows that share 128; give at least 197",
        ),
        (("qa", "--train", "train-en.json", "--test", "test-de.tsv"), {}, "test-de.tsv: not SQuAD v1.1: the file"),
    ],
)
def test_mistake(
    fine_tune: Callable[..., Done], arguments: tuple[str, ...], files: dict[str, str], message: str
) -> None:
    done = fine_tune(*arguments, files=files)
    assert done.error.startswith(f"error: {message}"), done.error


def test_a_folder_that_is_no_model_or_an_output_that_is_not_empty(
    fine_tune: Callable[..., Done], tmp_path: Path
) -> None:
    done = fine_tune(*TAG, "test-de.tsv", model="nowhere")
    assert done.error == (
        "error: nowhere: no such folder; give a Hugging Face model folder, a run folder, a checkpoint or fairseq's model.pt, "
        "or a model of the hub by its name, such as FacebookAI/xlm-roberta-base"
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("", encoding="utf-8")
    done = fine_tune(*TAG, "test-de.tsv")
    assert done.error == "error: --out out: is not empty; give a new folder"


def test_dev_is_evaluated_within_an_epoch_where_that_is_asked_for(
    use: Callable[..., Done], write: Callable[[str, str], Path], model_dir: Path, tmp_path: Path
) -> None:
    files = {
        name: str(write(f"{name}-en.tsv", conll(sentences(16, seed))))
        for seed, name in enumerate(("train", "dev", "test"))
    }
    words = [
        "finetune",
        "tag",
        str(model_dir),
        "--train",
        files["train"],
        "--test",
        files["test"],
        *QUICK,
        "--epochs",
        "1",
    ]
    done = use(*words, "--dev", files["dev"], "--eval-every", "1", "--out", str(tmp_path / "out"))
    assert done.code == 0 and done.err.count("  dev: accuracy") == 2, done.err
    late = use(*words, "--dev", files["dev"], "--eval-every", "3", "--out", str(tmp_path / "late"))
    assert "--eval-every 3: training has 2 steps; give fewer" in late.err
    assert "--eval-every 3: is of --dev" in use(*words, "--eval-every", "3", "--out", str(tmp_path / "none")).err
