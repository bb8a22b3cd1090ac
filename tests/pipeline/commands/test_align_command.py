"""`python -m pipeline align` as it is typed: a line of output for every line of input, whatever is in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.align import word_alignment
from pipeline.align.aligner import Aligner
from pipeline.align.link_files import read_links
from pipeline.settings.align_options import METHODS, plain_options
from pipeline.weights.loading import load_model
from tests.pipeline.conftest import Done

Use = Callable[..., Done]
SOURCE = ["the quick brown fox", "", "pack my box", "five dozen jugs , judge my vow"]
TARGET = ["der schnelle braune fuchs", "hund", "", "den faulen hund"]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.en", tmp_path / "a.de"
    for path, lines in zip(paths, (SOURCE, TARGET), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return paths


def test_every_line_has_its_links_and_the_api_gives_the_same(use: Use, hf_dir: Path, files: tuple[Path, Path]) -> None:
    done = use("align", hf_dir, *files, "--layer", 2)
    lines = done.out.split("\n")
    assert done.code == 0 and len(lines) == 5 and lines[1] == lines[2] == lines[4] == ""
    assert re.fullmatch(r"\d+-\d+( \d+-\d+)*", lines[0])
    assert done.err.splitlines()[-1] == (
        "4 pairs aligned: layer 2, argmax, separate, on the CPU; 2 of them with an empty side, and so without links"
    )
    links = Aligner.load(hf_dir, 2).align(zip(SOURCE, TARGET, strict=True))
    assert [" ".join(f"{i}-{j}" for i, j in of_pair) for of_pair in links] == lines[:4]


@pytest.mark.parametrize("from_stdin", [True, False])
def test_pairs_of_one_file_or_stdin_align_as_those_of_two(
    use: Use, hf_dir: Path, files: tuple[Path, Path], tmp_path: Path, from_stdin: bool
) -> None:
    text = "".join(f"{s} ||| {t}\n" if s or t else "\n" for s, t in zip(SOURCE, TARGET, strict=True)).encode()
    (tmp_path / "pairs.txt").write_bytes(text)
    one = use("align", hf_dir, "-" if from_stdin else tmp_path / "pairs.txt", stdin=text)
    assert (one.code, one.out) == (0, use("align", hf_dir, *files).out)
    half = use("align", hf_dir, files[0], "-", stdin=files[1].read_bytes())
    assert half.out == one.out


@pytest.mark.parametrize("encoding", ["joint", "separate"])
@pytest.mark.parametrize("method", METHODS)
def test_methods_and_encodings_give_links_with_scores_and_words(
    use: Use, hf_dir: Path, files: tuple[Path, Path], method: str, encoding: str
) -> None:
    options = ["--method", method, "--encoding", encoding]
    links = use("align", hf_dir, *files, *options).out.splitlines()
    scored = use("align", hf_dir, *files, *options, "--scores").out.splitlines()
    assert [re.sub(r":-?[01]\.\d{4}", "", line) for line in scored] == links
    words = use("align", hf_dir, *files, *options, "--words").out.splitlines()
    pairs = zip(SOURCE, TARGET, links, strict=True)
    assert words == [
        "\t".join(f"{s.split()[int(i)]} {t.split()[int(j)]}" for i, j in (link.split("-") for link in line.split()))
        for s, t, line in pairs
    ]
    both = use("align", hf_dir, *files, *options, "--words", "--scores").out.splitlines()
    assert [re.sub(r" -?[01]\.\d{4}(?=\t|$)", "", line) for line in both] == words


def test_raw_text_is_split_and_the_split_can_be_kept(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.txt"
    text = "Pack my box, judge!  ||| 我的狗。\n\n".encode()
    raw = use("align", hf_dir, "-", "--raw", "--split", split, stdin=text)
    assert split.read_text(encoding="utf-8") == "Pack my box , judge ! ||| 我 的 狗 。\n\n"
    assert raw.out == use("align", hf_dir, split).out
    assert len(raw.out.split("\n")) == 3


def test_a_line_of_ten_thousand_words_is_aligned_to_its_end_and_reported(
    use: Use, hf_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "long").write_text("dog " * 10_000 + "fox\nfox\n", encoding="utf-8")
    done = use("align", hf_dir, tmp_path / "long", tmp_path / "long")
    first, second = done.out.splitlines()
    assert second == "0-0"
    links = [tuple(map(int, link.split("-"))) for link in first.split()]
    assert links[-1][0] > 9_900 and links[-1][1] > 9_900
    assert re.search(r"1 too long for the model, aligned in [\d,]+ overlapping parts", done.err)


def test_unequal_files_fail_after_every_common_pair(
    use: Use, hf_dir: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(word_alignment, "READ_AHEAD", 3)
    whole = use("align", hf_dir, *files).out
    with files[1].open("a", encoding="utf-8") as file:
        file.write("hund\nhund\n")
    done = use("align", hf_dir, *files)
    assert (done.code, done.out) == (1, whole)
    assert done.error == (
        f"error: {files[0]} has 4 lines, {files[1]} has 6; the first 4 pairs were read; give translations line by line"
    )


MISTAKES = {
    "missing file": (["{hf}", "nowhere.en", "nowhere.de"], b"", "nowhere.en: cannot be read"),
    "a file of another kind": (["{hf}", "{hf}/config.json", "{hf}/config.json"], b"", "is JSON by its name"),
    "folder for a file": (["{hf}", "{hf}", "{hf}"], b"", "is a folder; give a text file, or - for stdin"),
    "no separator": (
        ["{hf}", "-"],
        b"a ||| b\nc d\n",
        "stdin:2: no '|||' between spaces; give the file of its translations",
    ),
    "a table": (
        ["{hf}", "-"],
        b"a ||| b\nc\td\n",
        "stdin:2: a tab stands where '|||' is looked for; name the file .tsv",
    ),
    "two separators": (["{hf}", "-"], b"a ||| b ||| c\n", "stdin:1: 2 '|||' between spaces"),
    "not UTF-8": (
        ["{hf}", "-"],
        b"a ||| b\n\xff ||| c\n",
        "stdin:2: byte 0xff at 0 is not UTF-8; if this file is Latin-1",
    ),
    "unknown layer": (["{hf}", "-", "--layer", "4"], b"", "--layer 4: the model has 3 layers; choose 0"),
    "negative layer": (["{hf}", "-", "--layer", "-1"], b"", "--layer -1: the model has 3 layers"),
    "unknown method": (["{hf}", "-", "--method", "best"], b"", "method 'best': choose ot-filter, ot, argmax"),
    "unknown encoding": (["{hf}", "-", "--encoding", "x"], b"", "encoding 'x': choose joint or separate"),
    "unknown cost": (["{hf}", "-", "--cost", "x"], b"", "cost is 'x'"),
    "unknown dtype": (["{hf}", "-", "--dtype", "int8"], b"", "--dtype int8: choose auto, fp32, bf16, fp16"),
    "no window": (["{hf}", "-", "--window", "0"], b"", "window 0: it must have at least 1 token"),
    "unknown device": (["{hf}", "-", "--device", "tpu9"], b"", "--device tpu9: no such device; choose auto, cpu, cuda"),
    "a device of another kind": (
        ["{hf}", "-", "--device", "meta"],
        b"",
        "--device meta: the aligner runs on cpu and cuda",
    ),
    "no such GPU": (["{hf}", "-", "--device", "cuda:99"], b"", "--device cuda:99: "),
    "bad rate": (
        ["{hf}", "-", "--max-bad-rate", "2"],
        b"",
        "--max-bad-rate 2.0: give a share of lines, from 0 to less",
    ),
    "cost of another method": (["{hf}", "-", "--method", "ot", "--cost", "exp"], b"", "only ot-filter takes others"),
    "no model": (["nowhere", "-"], b"", "nowhere: no such folder; give a Hugging Face model folder"),
    "empty folder": (["{empty}", "-"], b"", "holds no model (neither config.json, model.pt nor checkpoints/); give a"),
    "stdin twice": (["{hf}", "-", "-"], b"", "stdin cannot be both sides"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(use: Use, hf_dir: Path, tmp_path: Path, mistake: str) -> None:
    words, stdin, message = MISTAKES[mistake]
    done = use("align", *(word.format(hf=hf_dir, empty=tmp_path) for word in words), stdin=stdin)
    assert done.code == 1 and message in done.error
    if "\n" in stdin.decode(errors="replace").strip():
        assert len(done.out.splitlines()) == 1, "the pair before the mistake has its line"


def test_a_reader_that_leaves_early_is_no_error(hf_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "long").write_text("dog fox\n" * 20_000, encoding="utf-8")
    command = f"{sys.executable} -m pipeline align {hf_dir} long long | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ}
    )
    assert len(done.stdout.splitlines()) == 1
    assert "rror" not in done.stderr and "Traceback" not in done.stderr


def test_bf16_links_nearly_as_fp32(hf_dir: Path) -> None:
    pairs = [("the quick brown fox jumps over the lazy dog", "der schnelle braune fuchs springt")] * 3
    exact, rounded = (Aligner.load(hf_dir, 2, dtype=dtype).align_scored(pairs) for dtype in ("fp32", "bf16"))
    common = [set(a) & set(b) for a, b in zip(exact, rounded, strict=True)]
    assert all(common)
    for a, b, links in zip(exact, rounded, common, strict=True):
        assert [a[link] for link in links] == pytest.approx([b[link] for link in links], abs=0.05)


def test_space_pieces_of_the_released_aligner_can_be_kept(hf_dir: Path) -> None:
    encoder, tokenizer = load_model(hf_dir)
    assert tokenizer.piece(tokenizer.encode(",")[0]) == "▁", "a comma after a space is two pieces here"
    aligner = Aligner(encoder, tokenizer, plain_options(3), keep_space_pieces=True)
    assert aligner.align([(", fox", "fox ,")]) and aligner.report.pairs == 1


def test_every_format_has_the_same_links(use: Use, hf_dir: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    scored = use("align", hf_dir, *files, "--scores")
    plain = use("align", hf_dir, *files).out.splitlines()
    links = [[tuple(map(int, link.split("-"))) for link in line.split()] for line in plain]
    records = [json.loads(line) for line in use("align", hf_dir, *files, "--format", "json", "--null").out.splitlines()]
    assert [[tuple(link) for link in record["links"]] for record in records] == links
    assert [" ".join(record["source"]) for record in records] == SOURCE
    shown = [
        ":".join([f"{i}-{j}", f"{s:.4f}"]) for r in records for (i, j), s in zip(r["links"], r["scores"], strict=True)
    ]
    assert shown == scored.out.split()
    assert records[1]["unlinked_target"] == [0] and records[1]["unlinked_source"] == []
    assert use("align", hf_dir, *files, "--format", "talp").out.splitlines() == [
        " ".join(f"{i + 1}-{j + 1}" for i, j in of_pair) for of_pair in links
    ]
    naacl = tmp_path / "links.naacl"
    naacl.write_text(use("align", hf_dir, *files, "--format", "naacl", "--null").out)
    assert read_links(naacl, 4).possible == [set(of_pair) for of_pair in links]
    rows = use("align", hf_dir, *files, "--format", "tsv").out.splitlines()
    assert rows[0].startswith("pair\t") and len(rows) == 1 + sum(map(len, links))


def test_links_below_a_score_are_left_out_and_counted(use: Use, hf_dir: Path, files: tuple[Path, Path]) -> None:
    scored = [line.split() for line in use("align", hf_dir, *files, "--scores").out.splitlines()]
    values = sorted(float(link.split(":")[1]) for line in scored for link in line)
    least = values[len(values) // 2]
    done = use("align", hf_dir, *files, "--min-score", least - 0.00006, "--scores")
    kept = [[link for link in line if float(link.split(":")[1]) >= least] for line in scored]
    assert [line.split() for line in done.out.splitlines()] == kept
    below = len(values) - sum(map(len, kept))
    assert f"; {below} link{'s' * (below != 1)} below --min-score" in done.err and below


def test_words_of_conllu_with_spaces_stay_one_in_the_split(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    row = "1\t{}" + "\t_" * 8 + "\n\n"
    (tmp_path / "a.conllu").write_text(row.format("10 000"))
    (tmp_path / "b.txt").write_text("zehn tausend\n")
    split = tmp_path / "split"
    done = use("align", hf_dir, tmp_path / "a.conllu", tmp_path / "b.txt", "--split", split)
    assert done.code == 0 and split.read_text() == "10\u00a0000 ||| zehn tausend\n"
    assert use("align", hf_dir, split).out == done.out
