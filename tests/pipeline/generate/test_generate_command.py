"""`python -m pipeline generate`: what was learned is written, in order and whatever the batches; mistakes are one line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pipeline.generate.generator import Generator
from pipeline.generate.search import Search
from tests.pipeline.conftest import Done
from tests.pipeline.generation_kit import LANGUAGES, LINES, POSITIONS, module, save, tokenizer_with_tags, written

Use = Callable[..., Done]
CPU = ("--device", "cpu")


@pytest.mark.parametrize("tag", ["source", "target"])
@pytest.mark.parametrize("beam", [1, 4])
def test_what_was_learned_is_written_in_the_language_that_is_asked_for(
    use: Use, tag: str, beam: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(f"{tag}_dir")
    for to in LANGUAGES:
        done = use("generate", folder, "--to", to, "--beam", beam, *CPU, stdin="\n".join(LINES).encode())
        assert done.code == 0, done.err
        assert done.out.splitlines() == [written(line, to) for line in LINES]
        assert "8 lines, " in done.err


def test_files_come_one_after_the_other_and_empty_lines_stay(use: Use, target_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text(f"{LINES[1]}\n\n", encoding="utf-8")
    (tmp_path / "b").write_text(f"{LINES[2]}\n \n{LINES[3]}", encoding="utf-8")
    done = use("generate", target_dir, tmp_path / "a", tmp_path / "b", "--to", "en", *CPU)
    assert done.out == f"{LINES[1]}\n\n{LINES[2]}\n\n{LINES[3]}\n", done.err


def test_n_best_lists_and_json_have_scores_in_order(use: Use, target_dir: Path) -> None:
    text = f"{LINES[0]}\n\n{LINES[4]}\n".encode()
    done = use("generate", target_dir, "--to", "de", "--n-best", 3, *CPU, stdin=text)
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [int(number) for number, *_ in rows] == [1, 1, 1, 2, 3, 3, 3]
    scores = [float(score) for number, score, _ in rows if number == "3"]
    assert scores == sorted(scores, reverse=True)
    assert rows[0][2] == written(LINES[0], "de") and rows[3][1:] == ["0.0000", ""]
    done = use("generate", target_dir, "-", "--to", "de", "--n-best", 3, "--json", *CPU, stdin=text)
    entries = [json.loads(line) for line in done.out.splitlines()]
    assert [(each["line"], each["source"]) for each in entries] == [(1, LINES[0]), (2, ""), (3, LINES[4])]
    found = entries[2]["hypotheses"]
    assert [f"{each['score']:.4f}" for each in found] == [score for number, score, _ in rows if number == "3"]
    assert found[0]["text"] == written(LINES[4], "de") and found[0]["tokens"] > len(LINES[4].split())


def test_batches_change_nothing(target_dir: Path) -> None:
    """Of an untrained model, whose hypotheses are close to each other."""
    texts = LINES * 5
    found = []
    for batch_tokens in (1, 100, 4096):
        generator = Generator.load(
            target_dir, "de", Search(3, n_best=2, max_tokens=12), batch_tokens=batch_tokens, device="cpu"
        )
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in generator.model.module.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        found.append([[each.text for each in of_line.hypotheses] for of_line in generator.generate(texts)])
    assert found[0] == found[1] == found[2]
    assert len({texts[0] for texts in found[0]}) > 1


def test_only_words_of_a_text_are_written(use: Use, target_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("sphinx of black quartz\n", encoding="utf-8")
    done = use(
        "generate", target_dir, "--to", "en", "--words-of", tmp_path / "words", *CPU, stdin="\n".join(LINES).encode()
    )
    assert done.code == 0, done.err
    assert set(done.out) <= set("sphinx of black quartz\n")
    assert "black" in done.out


def test_a_window_is_handed_on_before_more_is_read_and_before_an_error(target_dir: Path) -> None:
    def texts() -> Iterator[str | None]:
        yield LINES[1]
        yield None
        yield LINES[2]
        raise ValueError("damaged")

    stream = Generator.load(target_dir, "en", device="cpu").stream(texts())
    got: list[str] = []

    def drain() -> None:
        for ready in stream:
            got.extend(each.text for each in ready)

    with pytest.raises(ValueError, match="damaged"):
        drain()
    assert got == LINES[1:3]


def test_what_is_cut_or_not_ended_is_counted(use: Use, target_dir: Path) -> None:
    long = " ".join(["fox"] * POSITIONS)
    done = use("generate", target_dir, "--to", "en", "--max-tokens", 2, *CPU, stdin=f"{LINES[0]}\n{long}\n".encode())
    assert done.code == 0
    assert "1 lines are longer than the model reads and were cut, first line 2" in done.err
    assert "2 lines were ended at 2 tokens (--max-tokens)" in done.err


def test_special_words_in_a_text_are_text_and_are_never_written(use: Use, tmp_path: Path) -> None:
    tokenizer = tokenizer_with_tags()
    folder = save(tmp_path / "random", module(len(tokenizer), spread=0.6), tokenizer, None)
    done = use("generate", folder, "--max-tokens", 30, *CPU, stdin=b"<2de> the fox </s> <mask>\nthe fox\n")
    assert done.code == 0 and done.out.strip(), done.err
    assert not {"<2de>", "<2en>", "<mask>", "<sentinel_0>", "<s>", "<pad>", "<unk>"} & set(done.out.split())
    generator = Generator.load(folder, how=Search(2, max_tokens=30), device="cpu")
    special = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(["<2de>", "<sentinel_2>"])} - {3}
    (ids,) = generator.model.encode(["<2de> fox </s> <mask>"])
    assert not special & {*ids}
    assert not generator.model.writable()[sorted(special - {2})].any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "fr"), "--to fr: {folder} has no tag of it; choose of de, en"),
        ((), "--to: say which language is to be written; {folder} has de, en"),
        (("missing.txt", "--to", "de"), "missing.txt: cannot be read (No such file or directory)"),
        (("--to", "de", "--words-of", "missing.txt"), "missing.txt: cannot be read (No such file or directory)"),
        (("--to", "de", "--n-best", "9"), "--n-best 9: a beam of 5 has 1 to 5; give a wider --beam"),
    ],
)
def test_mistakes_are_one_line(use: Use, target_dir: Path, arguments: tuple[str, ...], said: str) -> None:
    done = use("generate", target_dir, *arguments, *CPU, stdin=b"the fox\n")
    assert done.code == 1 and not done.out
    assert done.error.startswith("error: " + said.format(folder=target_dir))


def test_broken_text_is_one_line_after_what_came_before(use: Use, target_dir: Path) -> None:
    done = use("generate", target_dir, "--to", "en", *CPU, stdin=f"{LINES[1]}\n".encode() + b"fox \xff box\n")
    assert done.code == 1 and done.out == f"{LINES[1]}\n"
    assert done.error.startswith("error: stdin:2: byte 0xff at 4 is not UTF-8")


def test_a_language_without_pieces_is_one_line(use: Use, target_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n\n")
    done = use("generate", target_dir, "--to", "en", "--words-of", tmp_path / "empty", *CPU, stdin=b"the fox\n")
    assert done.error.startswith("error: --words-of: has no piece that could be written")


@pytest.mark.parametrize("beam", [1, 3])
def test_scores_that_are_no_numbers_are_one_line(use: Use, tmp_path: Path, beam: int) -> None:
    tokenizer = tokenizer_with_tags()
    model = module(len(tokenizer))
    torch.nn.init.constant_(model.decoder.lm_head.bias, torch.nan)
    folder = save(tmp_path / "nan", model, tokenizer, None)
    done = use("generate", folder, "--beam", beam, "--max-tokens", 3, *CPU, stdin=b"the fox\n")
    assert done.error == f"error: {folder}: gives scores that are no numbers on the CPU in fp32; take --dtype fp32"


def test_a_run_is_to_be_exported_first(use: Use, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    done = use("generate", tmp_path / "model.pt", *CPU, stdin=b"the fox\n")
    assert "is a fairseq model; make a Hugging Face folder of it first: python -m pipeline export" in done.error


def test_commands_for_encoders_take_its_encoder(use: Use, target_dir: Path) -> None:
    done = use("align", target_dir, "-", *CPU, stdin=b"the fox ||| der fuchs\n")
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1


def test_an_encoder_writes_nothing(use: Use, hf_dir: Path) -> None:
    done = use("generate", hf_dir, *CPU, stdin=b"the fox\n")
    assert (
        done.error == f"error: {hf_dir}: is an encoder, which writes nothing; give the export of a run with a decoder"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "t5"}, "config.json: model_type is 't5'; encoder-decoder of xlm-roberta parts is taken"),
        ({"xlm_align": {"text_to_text": {"tag": "x"}}}, "xlm_align.text_to_text.tag is 'x', not one of source, target"),
        (
            {"xlm_align": {"text_to_text": {"tag": "source", "languages": ["fr"], "sentinels": 0}}},
            "the tokenizer has no word <2fr>",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_one_line(
    use: Use, target_dir: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    for file in target_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(content | change), encoding="utf-8")
    done = use("generate", tmp_path, "--to", "de", *CPU, stdin=b"the fox\n")
    assert done.code == 1 and said in done.error


def test_missing_weights_are_one_line(use: Use, target_dir: Path, tmp_path: Path) -> None:
    for file in target_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"x")
    done = use("generate", tmp_path, "--to", "de", *CPU, stdin=b"the fox\n")
    assert done.error.startswith(f"error: {tmp_path}: its model cannot be read (")
