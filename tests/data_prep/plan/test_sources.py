"""Every kind of source gives the token files that the same text gives as plain lines, and a wrong one is refused by name."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data_prep.text.readers import decode_line
from data_prep.text.records import Layout, field_value, record_line
from data_prep.text.zip_members import choose_member
from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import Tokenizer
from tests.data_prep.source_kit import (
    PAIRS,
    documents_of,
    expected_pairs,
    make_pairs,
    write_jsonl,
    write_tmx,
    write_zip,
)

Run = Callable[..., tuple[int, str, str]]

LINES = ["the cat sees", "a dog hears", "é 日本 語"]


@pytest.mark.parametrize("kind", ["zip", "tmx", "a.jsonl", "a.jsonl.xz", "parquet", "dataset"])
def test_pairs_of_every_format_are_the_pairs_of_two_text_files(
    kind: str, parallel: Run, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    arguments = make_pairs(kind, tmp_path)
    code, _, err = parallel(*arguments)
    assert code == 0, err
    assert documents_of(tmp_path / "data", tokenizer) == expected_pairs()
    (source,) = Manifest.load(tmp_path / "data").sources
    assert all(file["bytes"] > 0 and len(file["sha256"]) == 64 for file in source["files"])
    assert "0 shards written, 1 already present" in parallel(*arguments)[1]


@pytest.mark.parametrize("kind", ["a.jsonl", "parquet", "tmx", "zip", "dataset"])
def test_monolingual_text_of_every_format_is_that_of_a_text_file(
    kind: str, mono: Run, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    records: list[object] = [{"text": line, "id": 1} for line in LINES]
    options: list[object] = []
    if kind == "parquet":
        path = tmp_path / "p.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(records), path)
    elif kind == "tmx":
        path = write_tmx(tmp_path / "m.tmx", [{"de-AT": line, "en": "x"} for line in LINES])
    elif kind == "zip":
        path = write_zip(tmp_path / "m.zip", {"m.de": "\n".join(LINES)})
    elif kind == "dataset":
        path, options = tmp_path / "set", ["--format", "dataset"]
        path.mkdir()
        write_jsonl(path / "train.jsonl", records)
    else:
        path = write_jsonl(tmp_path / kind, records)
    code, _, err = mono(path, *options)
    assert code == 0, err
    assert documents_of(tmp_path / "data", tokenizer) == [LINES]


def test_records_can_be_documents_whose_lines_are_sentences(mono: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "d.jsonl", [{"text": "the cat\n\na dog\n"}, {"text": ""}, {"text": "red"}])
    assert mono(path, "--documents")[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == [["the cat", "a dog"], ["red"]]
    assert Manifest.load(tmp_path / "data").sources[0]["dropped"] == {"empty": 1}


def test_a_saved_dataset_is_read_from_disk(parallel: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"s": source, "t": target, "q": 0.5} for source, target in PAIRS])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows.select([0]), "test": rows}).save_to_disk(tmp_path / "all")
    assert parallel(tmp_path / "one", "--format", "dataset", "--fields", "s,t,q", "--min-score", 0.4)[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == expected_pairs()
    options = ("--format", "dataset", "--split", "test", "--fields", "s,t")
    code, out, _ = parallel(tmp_path / "all", *options)
    assert (code, "8 sentences" in out) == (0, True)


def test_scores_of_records_are_filtered_and_a_wrong_one_is_bad(parallel: Run, tmp_path: Path) -> None:
    records = [{"s": "the cat", "t": "a dog", "q": score} for score in (0.5, 0.2, 1, None, "x", True)]
    path = write_jsonl(tmp_path / "s.jsonl", records)
    options = ("--fields", "s,t,q", "--min-score", 0.4, "--max-bad-rate", 0.6)
    assert parallel(path, *options)[0] == 0
    (source,) = Manifest.load(tmp_path / "data").sources
    assert source["dropped"] == {"low_score": 1, "score": 3}
    assert source["lines"] == 6


def test_bad_records_are_set_aside_with_their_number_and_raw_text(mono: Run, tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(
        b'{"text": "the cat"}\n{"text": 5}\n{"text": "cut\n[1]\n{"text": "\\ud800"}\n{"text": "a\\u0000b"}\n\n{"text": " "}\n'
    )
    code, _, err = mono(path)
    assert (code, err.count("error:")) == (1, 1)
    assert f"{path}:2: field in b'{{\"text\": 5}}'" in err
    assert mono(path, "--max-bad-rate", 0.9)[0] == 0
    (source,) = Manifest.load(tmp_path / "data").sources
    assert source["dropped"] == {"blank": 1, "empty": 1, "field": 1, "invalid_utf8": 1, "json": 2, "nul": 1}
    (aside,) = (tmp_path / "data" / "quarantine").rglob("*.jsonl")
    found = [json.loads(line) for line in aside.read_text().splitlines()]
    assert [(record["line"], record["reason"]) for record in found] == [
        (2, "field"),
        (3, "json"),
        (4, "json"),
        (5, "invalid_utf8"),
        (6, "nul"),
    ]


def test_invalid_utf8_in_parquet_is_a_bad_record(mono: Run, tmp_path: Path) -> None:
    raw = pyarrow.array([b"the cat", b"b\xffd", None], pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, raw.buffers())
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "p.parquet")
    assert mono(tmp_path / "p.parquet", "--max-bad-rate", 0.9)[0] == 0
    assert Manifest.load(tmp_path / "data").sources[0]["dropped"] == {"field": 1, "invalid_utf8": 1}


spaces = st.text(st.sampled_from("ab \t\n\r\u2028\u0085\x0b日"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(source=spaces, target=spaces)
def test_a_record_is_one_line_with_the_ids_of_its_text(source: str, target: str, tokenizer: Tokenizer) -> None:
    line = record_line([source, target], Layout("jsonl", ("s", "t")), b"")
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    sides = decode_line(line[:-1]).split("\t")
    assert [tokenizer.encode(side) for side in sides] == [tokenizer.encode(source), tokenizer.encode(target)]


def test_fields_are_found_by_name_first_and_then_by_path() -> None:
    record = {"a.b": 1, "a": {"b": 2, "c": {"d": 3}}}
    assert [field_value(record, name) for name in ("a.b", "a.c.d", "a.x", "a.b.c", "z")] == [1, 3, None, None, None]


# zip


@pytest.mark.parametrize("name", ["../x.de", "/x.de", "a/../../x.de", "..\\x.de", "C:\\x.de"])
def test_a_zip_with_a_path_outside_is_refused(name: str, parallel: Run, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"x.en": "cat\n", name: "dog\n"})
    code, _, err = parallel(path)
    assert (code, err.count("error:")) == (1, 1)
    assert f"{path}: its member" in err
    assert "leads outside" in err


def test_members_are_chosen_by_language() -> None:
    names = ["a/README", "a/x.pt_br", "a/x.en", "a/x.zh-Hans", "a/x.en.ids"]
    chosen = [choose_member(names, language, "z") for language in ("pt", "en", "zh_Hans")]
    assert chosen == ["a/x.pt_br", "a/x.en", "a/x.zh-Hans"]
    with pytest.raises(ValueError, match=r"no member ends in \.de; it has a/README"):
        choose_member(names, "de", "z")
    with pytest.raises(ValueError, match=r"several members end in \.en"):
        choose_member([*names, "b/y.en"], "en", "z")


def test_members_can_be_named_as_the_archive_spells_them(parallel: Run, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"x.en": "cat\n", "x.zh_CN": "日本\n"})
    assert "no member ends in .zh_Hans" in parallel(path, pair="en-zh_Hans")[2]
    assert parallel(path, "--fields", "en,zh_CN", pair="en-zh_Hans")[0] == 0


def test_zip_members_of_unequal_length_and_damaged_archives_are_refused(parallel: Run, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "m.zip", {"x.en": "cat\n", "x.de": "dog\ndog\n"})
    assert f"{path} (en) has 1 lines, {path} (de) has 2 lines" in parallel(path)[2]
    whole = write_zip(path, {"x.en": "cat sees dog\n" * 99, "x.de": "dog hears cat\n" * 99}).read_bytes()
    for damaged in (whole[:-30], whole[: len(whole) // 2], b"PK\x03\x04" + bytes(50)):
        path.write_bytes(damaged)
        code, _, err = parallel(path)
        assert (code, err.count("error:")) == (1, 1)
        assert f"{path}: damaged, encrypted or no zip archive" in err
    flipped = bytearray(whole)
    flipped[50] ^= 0x55
    path.write_bytes(flipped)
    code, _, err = parallel(path)
    assert (code, err.count("error:")) == (1, 1)


# what the user gives


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("a.jsonl",), "--fields (none): jsonl needs the names of source, target"),
        (("a.jsonl", "--fields", "s"), "--fields s"),
        (("a.parquet", "--fields", "s,t,u,v"), "--fields s,t,u,v"),
        (("a.en", "--format", "doc"), "--format doc: not known"),
        (("a.zip", "b.zip"), "2 files given"),
        (("a.en",), "1 files given"),
        (("a.tmx", "--min-score", 1), "has no score"),
        (("none.tmx",), "none.tmx: no such file"),
        (("none.zip",), "none.zip: no such file"),
        (("none.jsonl", "--fields", "s,t"), "none.jsonl: no such file"),
        (("folder",), "folder: a folder without files"),
        (("nothing", "--format", "dataset", "--fields", "s,t"), "nothing:train: cannot be read"),
        (("a.en", "a.de", "--lang-id", 0), "--lang-id 0.0"),
    ],
)
def test_wrong_options_are_named(
    arguments: tuple[object, ...], part: str, parallel: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.en", "a.de", "a.jsonl", "a.parquet", "a.zip", "b.zip", "a.tmx"):
        (tmp_path / name).write_text("text\n")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    code, _, err = parallel(*arguments)
    assert (code, err.count("error:")) == (1, 1), err
    assert part in err


def test_a_missing_field_tells_which_there_are(mono: Run, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"body": ["x"], "id": [1]}), buffer)
    (tmp_path / "p.parquet").write_bytes(buffer.getvalue())
    assert "no field text; its fields are body, id" in mono(tmp_path / "p.parquet")[2]
    assert "field" in mono(tmp_path / "p.parquet", "--fields", "id")[2]
    (tmp_path / "p.parquet").write_bytes(buffer.getvalue()[:-9])
    assert "not a Parquet file that can be read" in mono(tmp_path / "p.parquet")[2]
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", [{"body": "x"}])
    assert "no field text; its fields are body" in mono(tmp_path / "set", "--format", "dataset")[2]


def test_monolingual_text_is_one_field_and_no_tsv(mono: Run, tmp_path: Path) -> None:
    for name in ("x.jsonl", "x.tsv"):
        (tmp_path / name).write_text("text\n")
    assert "--fields a,b" in mono(tmp_path / "x.jsonl", "--fields", "a,b")[2]
    assert "TSV holds pairs" in mono(tmp_path / "x.tsv")[2]
