"""Files that are not what their names or the user say: told in one line with what to do, and never read as something else."""

import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.text.content import LOOKED_AT, other_encoding, single_byte_encoding, structure_of
from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import Tokenizer
from tests.data_prep.source_kit import documents_of, write_tmx, write_zip

Run = Callable[..., tuple[int, str, str]]

GERMAN = "Zwei Männer grüßen\nein Mädchen schläft\n"


def refused(result: tuple[int, str, str], *parts: str) -> None:
    code, _, err = result
    assert (code, err.count("error:")) == (1, 1), err
    for part in parts:
        assert part in err


# encodings


@pytest.mark.parametrize(
    ("encoding", "told"),
    [
        ("latin-1", "seems to be Latin-1: convert it, iconv -f LATIN1 -t UTF-8"),
        ("utf-16", "seems to be UTF-16: convert it, iconv -f UTF-16 -t UTF-8"),
        ("utf-16-le", "iconv -f UTF-16LE"),
        ("utf-16-be", "iconv -f UTF-16BE"),
        ("utf-32", "iconv -f UTF-32"),
    ],
)
def test_text_in_another_encoding_is_named_with_the_command_that_converts_it(
    encoding: str, told: str, mono: Run, parallel: Run, run: Run, tokenizer_dir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.de"
    path.write_bytes(GERMAN.encode(encoding))
    (tmp_path / "x.en").write_text("two men greet\na girl sleeps\n")
    (tmp_path / "mix.yaml").write_text(f"corpora: [{{mono: de, files: {path}}}]")
    refused(mono(path), str(path), told)
    refused(parallel(tmp_path / "x.en", path), told)
    refused(run("mix", tmp_path / "mix.yaml", "--tokenizer", tokenizer_dir, "--out", tmp_path / "d"), told)
    refused(run("tokenizer", "train", path, "--vocab-size", 30, "--out", tmp_path / "t"), told)
    (tmp_path / "x.de.gz").write_bytes(gzip.compress(path.read_bytes()))
    refused(mono(tmp_path / "x.de.gz"), told)


def test_encodings_are_told_apart() -> None:
    assert single_byte_encoding("“Zwei Männer”\n".encode("cp1252")) == "WINDOWS-1252"
    assert single_byte_encoding("Привет, мир\n".encode("cp1251")) == ""
    assert single_byte_encoding("日本語の文章\n".encode("shift-jis")) == ""
    assert single_byte_encoding("Männer grüßen schön".encode() + b"\xff") is None
    assert single_byte_encoding(GERMAN.encode()) is None
    assert other_encoding("Привет, мир\nещё строка\n".encode("utf-16-le")) == "UTF-16LE"
    assert other_encoding("日本語 の 文章\n次の 行\n".encode("utf-16-be")) == "UTF-16BE"
    assert other_encoding(GERMAN.encode()) is None
    assert other_encoding(b"a\x00b\n" * 20) is None


def test_a_damaged_line_of_utf8_is_no_other_encoding(mono: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(GERMAN.encode() + b"b\xffd\n")
    refused(mono(tmp_path / "x"), "x:3: invalid_utf8", "correct the line, or set bad lines aside with --max-bad-rate")


# structure


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"text": "the cat"}\n{"text": "a dog"}\n', "holds JSON records, a line each: give --format jsonl"),
        (b'[\n {"text": "the cat"}\n]\n', "holds JSON: make it a record a line"),
        (b"WARC/1.0\r\nWARC-Type: response\r\n", "holds a web archive (WARC)"),
        (b"<!DOCTYPE html>\n<html><body>x</body></html>", "holds an HTML page"),
        (b'<?xml version="1.0"?>\n<mteval><refset/></mteval>', "holds markup (<mteval>)"),
        (b'<?xml version="1.0"?><tmx version="1.4"></tmx>', "holds a translation memory: give --format tmx"),
        (bytes(257) + b"ustar\x0000" + b"text\n" * 99, "holds a tar archive"),
        (gzip.compress(b"the cat\n", mtime=0), "holds compressed twice (within is .gz again)"),
    ],
)
def test_what_is_no_plain_text_is_named_and_can_be_taken_as_lines(
    content: bytes, told: str, mono: Run, tmp_path: Path
) -> None:
    (tmp_path / "x.txt.gz").write_bytes(gzip.compress(content))
    refused(mono(tmp_path / "x.txt.gz"), f"{tmp_path / 'x.txt.gz'}: {told}", "--format text")
    as_lines = mono(tmp_path / "x.txt.gz", "--format", "text", "--max-bad-rate", 0.9)
    assert as_lines[0] == 0 or "bad lines" in as_lines[2]


@pytest.mark.parametrize(
    "text", ["{curly} text\n", "[1] a note\n", "<s> tags </s>\n", '"quoted"\n', "a < b\n", "[[x]]\n"]
)
def test_text_that_begins_with_a_bracket_is_text(text: str, mono: Run, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(text)
    assert mono(tmp_path / "x.txt")[0] == 0


def test_json_by_its_usual_names_is_read_as_records(mono: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    records = [{"text": "the cat\na dog", "url": "x"}, {"text": "red"}]
    path = tmp_path / "c4-de.json.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    assert mono(path, "--documents", "--fields", "text")[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == [["the cat", "a dog"], ["red"]]
    (tmp_path / "x.json").write_text(json.dumps(records, indent=1))
    refused(mono(tmp_path / "x.json"), "holds one JSON value, not a record a line", "jq -c")


def test_a_record_longer_than_what_is_looked_at_is_a_record() -> None:
    assert structure_of(b'{"text": "' + b"x" * LOOKED_AT) == "jsonl"


def test_a_memory_named_xml_is_read(parallel: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert parallel(write_tmx(tmp_path / "m.xml", [{"en": "cat", "de": "dog"}]))[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == [["cat", "dog"]]


# csv


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_read_by_its_columns(
    delimiter: str, parallel: Run, mono: Run, run: Run, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = [["id", "en", "de"], ["1", 'the "big, red; cat"', "a dog"], ["2", "big\nred", "small"]]
    quoted = [delimiter.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    (tmp_path / "x.csv").write_bytes(("\ufeff" + "\r\n".join(quoted) + "\r\n").encode())
    assert parallel(tmp_path / "x.csv", "--fields", "en,de")[0] == 0
    expected = [['the "big, red; cat"', "a dog"], ["big red", "small"]]
    assert documents_of(tmp_path / "data", tokenizer) == [
        [tokenizer.decode(tokenizer.encode(side)) for side in pair] for pair in expected
    ]
    refused(mono(tmp_path / "x.csv"), "no column text; its first row is id, en, de", "--fields", "--format text")
    assert mono(tmp_path / "x.csv", "--fields", "de")[0] == 0


def test_csv_rows_of_another_shape_are_bad_and_an_open_quote_is_no_csv(mono: Run, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,text\n1,the cat\n2,a,dog\n\n3,red\n")
    refused(mono(path), "x.csv:2: columns in b'2,a,dog'")
    assert mono(path, "--max-bad-rate", 0.5)[0] == 0
    assert Manifest.load(tmp_path / "data").sources[0]["dropped"] == {"blank": 1, "columns": 1}
    path.write_text('id,text\n1,"the cat\n2,a dog\n3,red\n')
    refused(mono(path, "--max-bad-rate", 0.9), "not valid CSV")
    path.write_bytes("id,text\n1,Männer grüßen\n".encode("latin-1"))
    refused(mono(path), "invalid_utf8", "Latin-1")


# options


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("x.txt", ("--fields", "text"), "--fields text: means nothing for"),
        ("x.txt", ("--documents",), "--documents: means nothing for"),
        ("x.txt", ("--split", "test"), "--split test: means nothing for"),
        ("x.txt", ("--config", "de"), "--config de: means nothing for"),
        ("x.txt", ("--revision", "main"), "--revision main: means nothing for"),
        ("x.tmx", ("--documents",), "--documents: means nothing for"),
    ],
)
def test_an_option_that_means_nothing_is_an_error(
    name: str, options: tuple[str, ...], told: str, mono: Run, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text("the cat\n")
    write_tmx(tmp_path / "x.tmx", [{"de": "cat"}])
    refused(mono(tmp_path / name, *options), told)


def test_options_of_pairs_that_mean_nothing_are_errors(
    pair_files: tuple[Path, Path], parallel: Run, run: Run, tokenizer_dir: Path, tmp_path: Path
) -> None:
    refused(parallel(*pair_files, "--columns", "source,target"), "--columns source,target: means nothing for")
    refused(parallel(*pair_files, "--fields", "en,de"), "--fields en,de: means nothing for")
    refused(parallel(pair_files[0], "--tsv", "--format", "jsonl"), "--tsv --format jsonl: one or the other")
    mix = {"corpora": [{"pair": "en-de", "source_files": str(pair_files[0]), "target_files": str(pair_files[1])}]}
    mix["corpora"][0]["columns"] = "source,target"
    (tmp_path / "mix.yaml").write_text(json.dumps(mix))
    refused(run("mix", tmp_path / "mix.yaml", "--tokenizer", tokenizer_dir, "--out", tmp_path / "d"), "means nothing")


def test_a_tsv_of_two_columns_is_told_of_columns(parallel: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("the cat\ta dog\n")
    told = "columns (2 where --columns score,source,target has 3)"
    refused(parallel(tmp_path / "x.tsv"), told, "--columns source,target")
    assert parallel(tmp_path / "x.tsv", "--columns", "source,target")[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == [["the cat", "a dog"]]


# names


def test_files_whose_names_say_that_they_are_swapped_are_refused_unless_meant(parallel: Run, tmp_path: Path) -> None:
    for name, text in (("val.en.gz", b"the cat\n"), ("val.de.gz", b"a dog\n")):
        (tmp_path / name).write_bytes(gzip.compress(text))
    swapped = (tmp_path / "val.de.gz", tmp_path / "val.en.gz")
    refused(parallel(*swapped), "source and target are swapped", "--pair de-en", "--trust-order")
    assert parallel(*swapped, "--trust-order")[0] == 0
    assert parallel(*swapped, pair="de-en")[0] == 0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("de.txt", "en.txt"),
        ("de/x.txt", "en/x.txt"),
        ("x.de-en.de", "x.de-en.en"),
        ("x_de.txt", "x_en.txt"),
        ("x.de_AT", "x.en-GB"),
    ],
)
def test_names_say_it_in_many_ways(source: str, target: str, parallel: Run, tmp_path: Path) -> None:
    for name, text in ((source, "a dog\n"), (target, "the cat\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    refused(parallel(tmp_path / source, tmp_path / target), "source and target are swapped")
    assert parallel(tmp_path / target, tmp_path / source)[0] == 0


def test_names_that_leave_a_doubt_are_taken_as_they_are_given(parallel: Run, tmp_path: Path) -> None:
    for number, (source, target) in enumerate([("x.src", "x.en"), ("a.de-en.1", "a.de-en.2"), ("y.de", "y.hyp")]):
        (tmp_path / source).write_text(f"a dog {number}\n")
        (tmp_path / target).write_text(f"the cat {number}\n")
        assert parallel(tmp_path / source, tmp_path / target)[0] == 0


def test_a_tsv_whose_name_says_the_other_order_is_refused_unless_meant(parallel: Run, tmp_path: Path) -> None:
    path = tmp_path / "WikiMatrix.de-en.tsv"
    path.write_text("1.1\tein\tone\n")
    refused(parallel(path), "its name says de-en", "--pair de-en")
    assert parallel(path, "--trust-order", "--columns", "score,target,source")[0] == 0


def test_a_name_of_another_language_is_noted_and_no_error(mono: Run, parallel: Run, tmp_path: Path) -> None:
    for name, text in (("a.fr", "the cat\n"), ("b.de", "a dog\n"), ("c.txt", "red\n"), ("d.de_AT", "old\n")):
        (tmp_path / name).write_text(text)
    assert "note: a.fr: taken as --lang de, its name says fr" in mono(tmp_path / "a.fr")[2]
    assert (
        "note: a.fr: taken as --pair en-de: en, its name says fr" in parallel(tmp_path / "a.fr", tmp_path / "b.de")[2]
    )
    for name in ("c.txt", "d.de_AT"):
        assert "note:" not in mono(tmp_path / name)[2]


def test_a_file_name_that_is_no_utf8_works(mono: Run, run: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("the cat\n")
    assert mono(path)[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == [["the cat"]]
    assert Manifest.load(tmp_path / "data").sources[0]["files"][0]["name"] == "caf\\xe9.txt"
    assert mono(path, "--dry-run")[0] == 0
    assert run("inspect", tmp_path / "data", "--json")[0] == 0
    assert run("rechunk", path, "--out", tmp_path / "framed")[0] == 0
    assert run("remove", tmp_path / "data", path)[0] == 0


# what is no file


def test_standard_input_and_pipes_are_named(mono: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(mono("-"), "-: standard input cannot be read twice")
    os.mkfifo("pipe")
    threading.Thread(target=lambda: open("pipe", "wb").close(), daemon=True).start()
    refused(mono("pipe"), "pipe: is a pipe or a device, and has to be read twice; write its text to a file")


def test_a_folder_is_all_files_within_in_order(mono: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    for name, text in (("part-1.txt.gz", "a dog\n"), ("part-0.txt.gz", "the cat\n"), ("more/part-2.txt.gz", "red\n")):
        (parts / name).parent.mkdir(exist_ok=True, parents=True)
        (parts / name).write_bytes(gzip.compress(text.encode()))
    (parts / "_SUCCESS").write_text("")
    (parts / ".part-1.crc").write_text("x")
    code, out, err = mono(parts)
    assert (code, "3 shards written" in out) == (0, True)
    assert "3 files are read; 2 are no parts: .part-1.crc, _SUCCESS" in err
    assert [source["files"][0]["name"] for source in Manifest.load(tmp_path / "data").sources] == [
        "part-0.txt.gz",
        "part-1.txt.gz",
        "part-2.txt.gz",
    ]


def test_two_folders_are_the_sides_of_pairs_and_one_holds_files_of_pairs(parallel: Run, tmp_path: Path) -> None:
    for side, word in (("en", "cat"), ("de", "dog")):
        (tmp_path / side).mkdir()
        for part in (0, 1):
            (tmp_path / side / f"part-{part}.{side}").write_text(f"{word} {part}\n")
    (tmp_path / "tsv").mkdir()
    for part in (0, 1):
        (tmp_path / "tsv" / f"{part}.tsv").write_text(f"1.1\ttree {part}\thouse {part}\n")
    assert "2 shards written" in parallel(tmp_path / "en", tmp_path / "de")[1]
    assert "2 shards written" in parallel(tmp_path / "tsv")[1]
    (tmp_path / "de" / "part-1.de").rename(tmp_path / "de" / "part-2.de")
    refused(parallel(tmp_path / "en", tmp_path / "de"), "part-1.en would be paired with", "part-2.de")
    (tmp_path / "de" / "part-2.de").unlink()
    refused(parallel(tmp_path / "en", tmp_path / "de"), "folders of pairs are two with as many files each")


def test_a_mix_takes_folders_and_tells_a_wrong_path_before_anything_is_encoded(
    run: Run, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.txt").write_text("the cat\n")
    mix = tmp_path / "mix.yaml"
    command = ("mix", mix, "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    mix.write_text(json.dumps({"corpora": [{"mono": "de", "files": str(tmp_path / "parts")}]}))
    assert run(*command)[0] == 0
    wrong = {"mono": "en", "files": str(tmp_path / "none.txt")}
    mix.write_text(json.dumps({"corpora": [{"mono": "de", "files": str(tmp_path / "parts")}, wrong]}))
    monkeypatch.setattr("data_prep.commands.binarize.run_job", None)
    refused(run(*command), f"{mix}: corpus 2: {tmp_path / 'none.txt'}: no such file")
    refused(
        run("mono", tmp_path / "parts", tmp_path / "none.txt", "--lang", "de", *command[2:]), "none.txt: no such file"
    )


# zip


def test_what_a_mac_packs_beside_files_and_folders_are_no_members(
    parallel: Run, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    members = {
        "daten.en/": "",
        "daten.en/x.en": "the cat\n",
        "daten.en/x.de": "a dog\n",
        "__MACOSX/daten.en/._x.de": "\x00",
    }
    path = write_zip(tmp_path / "m.zip", {**members, "daten.en/._x.en": "\x00", ".DS_Store": "\x00"})
    assert parallel(path)[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == [["the cat", "a dog"]]


def test_one_of_several_members_can_be_chosen_by_its_name(
    parallel: Run, mono: Run, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    members = {"a/x.en": "the cat\n", "a/x.de": "a dog\n", "b/y.en": "red\n", "b/y.de": "old\n", "all.txt": "tree\n"}
    path = write_zip(tmp_path / "m.zip", members)
    refused(parallel(path), "several members end in .en; it has a/x.en, b/y.en", "--fields")
    assert parallel(path, "--fields", "b/y.en,y.de")[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == [["red", "old"]]
    assert mono(path, "--fields", "all.txt")[0] == 0


def test_two_archives_in_one_file_are_refused(parallel: Run, tmp_path: Path) -> None:
    first = write_zip(tmp_path / "a.zip", {"x.en": "the cat\n", "x.de": "a dog\n"}).read_bytes()
    second = write_zip(tmp_path / "b.zip", {"x.en": "red\n", "x.de": "old\n"}).read_bytes()
    (tmp_path / "both.zip").write_bytes(first + second)
    refused(parallel(tmp_path / "both.zip"), f"{len(first)} bytes stand before the archive")


def test_norwegian_is_a_language_in_a_mix(
    run: Run, tokenizer_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("no.txt", "the cat"), ("en.txt", "a dog"), ("x.no", "red"), ("x.en", "old")):
        Path(name).write_text(f"{text}\n")
    Path("mix.yaml").write_text(
        "corpora:\n"
        "  - {mono: [no, en], files: '{lang}.txt', filters: {drop_duplicates: no}}\n"
        "  - {pair: no-en, source_files: 'x.{source}', target_files: 'x.{target}'}\n"
    )
    assert run("mix", "mix.yaml", "--tokenizer", tokenizer_dir, "--out", "data")[0] == 0
    manifest = Manifest.load(Path("data"))
    assert (list(manifest.mono), list(manifest.pairs)) == (["en", "no"], ["no-en"])
