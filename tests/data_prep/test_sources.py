"""Every kind of source gives the token files that the same text gives as plain lines, and a wrong one is refused by name."""

import functools
import http.server
import io
import json
import lzma
import threading
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import fsspec
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from data_prep.inputs import choose_member, parse_location
from data_prep.manifest import Manifest
from data_prep.readers import decode_line, open_text, split_lines
from data_prep.records import Layout, field_value, record_line
from data_prep.token_file import TokenFile
from data_prep.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]

PAIRS = [("the cat sees", "a dog"), ("big\nred\thouse", "small tree"), ("é 日本", "ß 語"), ("river on", "old bird")]
LINES = ["the cat sees", "a dog hears", "é 日本 語"]


def documents_of(data_dir: Path, tokenizer: Tokenizer) -> list[list[str]]:
    """Every document of a folder's only shard, decoded."""
    (shard,) = Manifest.load(data_dir).shards
    tokens = TokenFile(shard.stem)
    texts = [tokenizer.decode(tokens.read_sequence(i)) for i in range(len(tokens))]
    ends = tokens.documents.tolist()
    return [texts[start:end] for start, end in pairwise(ends)]


def expected_pairs() -> list[list[str]]:
    return [[" ".join(side.split()) for side in pair] for pair in PAIRS]


def write_tmx(path: Path, units: list[dict[str, str]], head: str = "") -> Path:
    """A TMX file of units, each language → the XML inside its <seg>."""
    body = "".join(
        "<tu>" + "".join(f'<tuv xml:lang="{lang}"><seg>{seg}</seg></tuv>' for lang, seg in unit.items()) + "</tu>\n"
        for unit in units
    )
    path.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<tmx version="1.4"><header/><body>{body}</body></tmx>'
    )
    return path


def write_zip(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def write_jsonl(path: Path, records: list[object]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(lzma.compress(text) if path.suffix == ".xz" else text)
    return path


@pytest.fixture
def parallel(run: Run, tokenizer_dir: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run `parallel` into `data`."""

    def run_parallel(*arguments: object, pair: str = "en-de") -> tuple[int, str, str]:
        fixed = ("--pair", pair, "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
        return run("parallel", *arguments, *fixed)

    return run_parallel


@pytest.fixture
def mono(run: Run, tokenizer_dir: Path, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run `mono` into `data`."""

    def run_mono(*arguments: object, lang: str = "de") -> tuple[int, str, str]:
        return run("mono", *arguments, "--lang", lang, "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")

    return run_mono


def make_pairs(kind: str, folder: Path) -> list[object]:
    """The arguments that read `PAIRS` from a file of this kind."""
    records = [{"translation": {"en": source, "de": target}} for source, target in PAIRS]
    fields = ["--fields", "translation.en,translation.de"]
    if kind == "zip":
        sides = ["".join(" ".join(pair[side].split()) + "\n" for pair in PAIRS) for side in (0, 1)]
        return [write_zip(folder / "de-en.txt.zip", {"README": "x", "OS.de-en.de": sides[1], "OS.de-en.en": sides[0]})]
    if kind == "tmx":
        return [write_tmx(folder / "m.tmx", [{"en-US": source, "de": target} for source, target in PAIRS])]
    if kind == "parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), folder / "p.parquet", row_group_size=2)
        return [folder / "p.parquet", *fields]
    if kind == "dataset":
        (folder / "set").mkdir()
        write_jsonl(folder / "set" / "train.jsonl", records)
        return [folder / "set", "--format", "dataset", *fields]
    return [write_jsonl(folder / kind, records), *fields]


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
    assert "0 shards made, 1 were there" in parallel(*arguments)[1]


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
    assert (code, "8 sequences" in out) == (0, True)


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


# TMX


def test_tmx_markup_is_collapsed_to_text(parallel: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    seg = 'the <bpt i="1">&lt;b&gt;<sub>alt</sub></bpt><hi>big\n  red</hi><ept i="1">&lt;/b&gt;</ept> cat<ph x="2">%s</ph>'
    path = write_tmx(tmp_path / "m.tmx", [{"EN_gb": seg, "de": "a <it pos='begin'>x</it>dog &amp; tree"}])
    assert parallel(path)[0] == 0
    assert documents_of(tmp_path / "data", tokenizer)[0][0] == "the big red cat"
    with open_text(parse_records(path)) as stream:
        assert stream.read() == b"the big   red cat\ta dog & tree\n"


def parse_records(path: Path, languages: tuple[str, ...] = ("en", "de")) -> object:
    from data_prep.inputs import Records

    return Records(path, Layout("tmx", languages))


def test_tmx_languages_go_by_prefix_an_exact_one_first(tmp_path: Path) -> None:
    units = [
        {"en-US": "american", "en": "plain", "de-AT": "x"},
        {"eng": "no", "de": "x"},
        {"en-GB": "british", "en-US": "american", "DE": "x"},
    ]
    path = write_tmx(tmp_path / "m.tmx", units)
    with open_text(parse_records(path)) as stream:
        lines = split_lines(stream.read())
    assert lines == [b"plain\tx", b"\x00-missing_language\x00", b"british\tx"]
    with open_text(parse_records(path, ("en", "en_US"))) as stream:
        assert split_lines(stream.read())[2] == b"british\tamerican"


def test_missing_languages_are_counted_and_none_at_all_is_an_error(parallel: Run, tmp_path: Path) -> None:
    path = write_tmx(tmp_path / "m.tmx", [{"en": "cat", "de": "dog"}, {"en": "cat"}, {"fr": "x", "de": "dog"}])
    assert parallel(path)[0] == 0
    assert Manifest.load(tmp_path / "data").sources[0]["dropped"] == {"missing_language": 2}
    code, _, err = parallel(path, pair="en-es")
    assert (code, err.count("error:")) == (1, 1)
    assert "no unit has en and es; its languages are de, en, fr" in err


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE tmx [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE tmx [<!ENTITY % a "x">]>',
    ],
)
def test_entities_are_refused_before_they_are_used(head: str, parallel: Run, tmp_path: Path) -> None:
    path = write_tmx(tmp_path / "m.tmx", [{"en": "cat", "de": "dog"}], head)
    code, _, err = parallel(path)
    assert (code, err.count("error:")) == (1, 1)
    assert f"{path}: uses the entity" in err


def test_a_document_type_without_entities_is_read(parallel: Run, tmp_path: Path) -> None:
    path = write_tmx(tmp_path / "m.tmx", [{"en": "cat", "de": "dog"}], '<!DOCTYPE tmx SYSTEM "tmx14.dtd">')
    assert parallel(path)[0] == 0
    undefined = write_tmx(tmp_path / "n.tmx", [{"en": "&nbsp;", "de": "dog"}], '<!DOCTYPE tmx SYSTEM "tmx14.dtd">')
    assert "uses the entity nbsp" in parallel(undefined)[2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<tmx><body><tu>", "m.tmx:1: not well-formed XML (no element found)"),
        ("<html></html>", "its root is <html>"),
        ("hello", "m.tmx:1: not well-formed XML"),
        ("<tmx><body></body></tmx>", "holds no text"),
        ("<tmx>&#0;</tmx>", "not well-formed XML"),
    ],
)
def test_what_is_no_memory_is_refused(content: str, message: str, parallel: Run, tmp_path: Path) -> None:
    (tmp_path / "m.tmx").write_text(content)
    code, _, err = parallel(tmp_path / "m.tmx")
    assert (code, err.count("error:")) == (1, 1)
    assert message in err


def test_an_oversized_segment_is_a_bad_record(parallel: Run, tmp_path: Path) -> None:
    units = [{"en": "cat", "de": "dog"}, {"en": "x" * 1_100_000, "de": "dog"}]
    path = write_tmx(tmp_path / "m.tmx", units)
    assert "m.tmx:2: oversized" in parallel(path)[2]


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


# remote


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A local HTTP server of the folder `served`."""
    (tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_remote_file_gives_the_same_shards_as_a_local_copy(
    server: str, mono_file: Path, mono: Run, run: Run, tokenizer_dir: Path, tmp_path: Path, files_under: Callable
) -> None:
    archive = lzma.compress(mono_file.read_bytes())
    (tmp_path / "served" / "de.txt.xz").write_bytes(archive)
    (tmp_path / "de.txt.xz").write_bytes(archive)
    with fsspec.open("memory://corpora/de.txt.xz", "wb") as file:
        file.write(archive)
    assert mono(tmp_path / "de.txt.xz")[0] == 0
    local = files_under(tmp_path / "data")
    for number, url in enumerate([f"{server}/de.txt.xz", "memory://corpora/de.txt.xz", f"file://{tmp_path}/de.txt.xz"]):
        out = tmp_path / f"remote{number}"
        code, _, err = run("mono", url, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", out)
        assert code == 0, err
        assert files_under(out) == local


def test_remote_archives_and_records_are_read_too(
    server: str, parallel: Run, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for kind in ("zip", "tmx", "parquet"):
        path, *options = make_pairs(kind, tmp_path / "served")
        code, _, err = parallel(f"{server}/{path.name}", *options)
        assert code == 0, err
    assert len(Manifest.load(tmp_path / "data").sources) == 3


def test_what_cannot_be_fetched_is_one_line(server: str, mono: Run, tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/x.txt"
    (tmp_path / "served" / "empty.txt").write_bytes(b"")
    (tmp_path / "served" / "wrong.xz").write_bytes(b"plain\n")
    for url, part in [
        (f"{server}/none.txt", "no such file"),
        (closed, "cannot be fetched"),
        ("memory://none.txt", "no such file"),
        ("nowhere://x/y.txt", "rotocol"),
        (f"{server}/empty.txt", "empty file"),
        (f"{server}/wrong.xz", "named as .xz"),
    ]:
        code, _, err = mono(url)
        assert (code, err.count("error:")) == (1, 1), err
        assert url in err
        assert part in err


def test_names_of_urls_are_their_last_part() -> None:
    names = [parse_location(url).name for url in ("https://x.org/a/b.tmx?download=1", "s3://bucket/c.zst", "/d/e.txt")]
    assert names == ["b.tmx", "c.zst", "e.txt"]


# what the user gives


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("a.jsonl",), "--fields (none): jsonl needs the names of source, target"),
        (("a.jsonl", "--fields", "s"), "--fields s"),
        (("a.parquet", "--fields", "s,t,u,v"), "--fields s,t,u,v"),
        (("a.en", "--format", "csv"), "--format csv: not known"),
        (("a.zip", "b.zip"), "2 files given"),
        (("a.en",), "1 files given"),
        (("a.tmx", "--min-score", 1), "has no score"),
        (("a.tmx",), "a.tmx: no such file"),
        (("a.zip",), "a.zip: no such file"),
        (("a.jsonl", "--fields", "s,t"), "a.jsonl: no such file"),
        (("nothing", "--format", "dataset", "--fields", "s,t"), "nothing:train: cannot be read"),
        (("a.en", "a.de", "--lang-id", 0), "--lang-id 0.0"),
    ],
)
def test_wrong_options_are_named(
    arguments: tuple[object, ...], part: str, parallel: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
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
    assert "--fields a,b" in mono(tmp_path / "x.jsonl", "--fields", "a,b")[2]
    assert "TSV holds pairs" in mono(tmp_path / "x.tsv")[2]
