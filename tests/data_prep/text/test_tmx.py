"""Translation memories: what of a TMX file becomes a pair, and what is refused."""

import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.text.readers import open_text, split_lines
from data_prep.text.records import Layout
from data_prep.text.tmx import tmx_lines
from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import Tokenizer
from tests.data_prep.source_kit import documents_of, write_tmx

Run = Callable[..., tuple[int, str, str]]


def test_tmx_markup_is_collapsed_to_text(parallel: Run, tokenizer: Tokenizer, tmp_path: Path) -> None:
    seg = 'the <bpt i="1">&lt;b&gt;<sub>alt</sub></bpt><hi>big\n  red</hi><ept i="1">&lt;/b&gt;</ept> cat<ph x="2">%s</ph>'
    path = write_tmx(tmp_path / "m.tmx", [{"EN_gb": seg, "de": "a <it pos='begin'>x</it>dog &amp; tree"}])
    assert parallel(path)[0] == 0
    assert documents_of(tmp_path / "data", tokenizer)[0][0] == "the big red cat"
    with open_text(parse_records(path)) as stream:
        assert stream.read() == b"the big   red cat\ta dog & tree\n"


def parse_records(path: Path, languages: tuple[str, ...] = ("en", "de")) -> object:
    from data_prep.text.inputs import Records

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


GOOD = {"en": "the cat", "de": "a dog"}
FAULTS = {
    "a control character": {"en": "the\x0bcat", "de": "a dog"},
    "a reference to one": {"en": "the&#11;cat", "de": "a dog"},
    "a bare ampersand": {"en": "cat & dog", "de": "x"},
    "an entity that is not defined": {"en": "cat&nbsp;dog", "de": "x"},
    "a bare less-than sign": {"en": "cat < dog", "de": "x"},
    "a tag that nothing closes": {"en": "<hi>cat", "de": "x"},
    "a tag that nothing opens": {"en": "cat</hi>", "de": "x"},
    "a lone surrogate": {"en": "cat &#xD800; dog", "de": "x"},
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1"])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_bad_unit_costs_that_unit_alone(
    fault: str, encoding: str, parallel: Run, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    units = [GOOD, FAULTS[fault], {"en": "big é", "de": "small"}, FAULTS[fault], {"en": "red", "de": "old"}]
    path = write_tmx(tmp_path / "m.tmx", units)
    path.write_bytes(path.read_text().replace("UTF-8", encoding).encode(encoding))
    code, _, err = parallel(path)
    assert (code, err.count("error:")) == (1, 1)
    assert "m.tmx:2: not_well_formed in b'<tu><tuv" in err and "--max-bad-rate" in err
    assert parallel(path, "--max-bad-rate", 0.5)[0] == 0
    assert documents_of(tmp_path / "data", tokenizer) == [["the cat", "a dog"], ["big é", "small"], ["red", "old"]]
    assert Manifest.load(tmp_path / "data").sources[0]["dropped"] == {"not_well_formed": 2}


def test_invalid_bytes_of_a_unit_cost_that_unit_alone(tmp_path: Path) -> None:
    path = write_tmx(tmp_path / "m.tmx", [GOOD, {"en": "b?d", "de": "x"}, GOOD])
    path.write_bytes(path.read_bytes().replace(b"b?d", b"b\xffd"))
    with open_text(parse_records(path)) as stream:
        lines = split_lines(stream.read())
    assert [lines[0], lines[2]] == [b"the cat\ta dog"] * 2
    assert lines[1].startswith(b"\x00!not_well_formed\x00<tu>") and b"b\xffd" in lines[1]


@pytest.mark.parametrize("bad", [0, 7, 4999, 5000])
def test_a_bad_unit_is_found_wherever_blocks_end(bad: int, tmp_path: Path) -> None:
    units = [{"en": f"cat {number} " + "x" * (number % 97), "de": f"dog {number}"} for number in range(5001)]
    whole = write_tmx(tmp_path / "whole.tmx", units)
    with open_text(parse_records(whole)) as stream:
        expected = split_lines(stream.read())
    units[bad] = {"en": "y" * 200_000 + " & ", "de": "x" * 200_000}
    with open_text(parse_records(write_tmx(tmp_path / "m.tmx", units))) as stream:
        found = split_lines(stream.read())
    assert found[bad].startswith(b"\x00!not_well_formed\x00")
    assert found[:bad] + found[bad + 1 :] == expected[:bad] + expected[bad + 1 :]


@pytest.mark.parametrize("cut", [20, 60, 150])
def test_a_memory_that_is_cut_off_is_refused_even_where_bad_units_are_allowed(
    cut: int, parallel: Run, tmp_path: Path
) -> None:
    path = write_tmx(tmp_path / "m.tmx", [GOOD, FAULTS["a bare ampersand"], GOOD, GOOD])
    path.write_bytes(path.read_bytes()[:-cut])
    code, _, err = parallel(path, "--max-bad-rate", 0.9)
    assert (code, err.count("error:")) == (1, 1)
    assert "not well-formed XML" in err


def test_what_is_wrong_between_units_is_refused_with_its_line(parallel: Run, tmp_path: Path) -> None:
    path = write_tmx(tmp_path / "m.tmx", [GOOD, GOOD, GOOD])
    text = path.read_text().replace("</tu>\n", "</tu>\n&\n", 2)
    path.write_text(text)
    assert "m.tmx:3: not well-formed XML" in parallel(path, "--max-bad-rate", 0.9)[2]


def test_utf_16_is_read_with_or_without_its_declaration(tmp_path: Path) -> None:
    path = write_tmx(tmp_path / "m.tmx", [{"en": "日本 \U0001f600", "de": "ß"}] * 3)
    text = path.read_text()
    for encoding in ("utf-16", "utf-16-be"):
        mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
        for content in (text.replace("UTF-8", "UTF-16"), text.split("?>", 1)[1]):
            path.write_bytes(mark + content.encode(encoding))
            with open_text(parse_records(path)) as stream:
                assert split_lines(stream.read()) == ["日本 \U0001f600\tß".encode()] * 3
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="ends inside a character of UTF-16"), open_text(parse_records(path)) as stream:
        stream.read()


HUGE = {
    "tag": b'<tmx><body><tu a="%s',
    "comment": b"<tmx><body><!--%s--></body></tmx>",
    "instruction": b"<?x %s",
    "entity": b"<tmx><body><tu>&%s",
    "declaration": b"<!DOCTYPE tmx [%s",
}


@pytest.mark.parametrize("kind", HUGE)
def test_markup_without_an_end_is_refused_before_it_takes_long(kind: str) -> None:
    """32 MB, of which a parser that takes them block by block scans each again and again."""
    began = time.process_time()
    with pytest.raises(ValueError, match="a tag or comment of more than 1,048,576 bytes"):
        list(tmx_lines(io.BytesIO(HUGE[kind] % (b"x" * (32 << 20))), "m.tmx", ("en",)))
    assert time.process_time() - began < 5


def test_many_bad_units_and_a_long_one_take_no_more_than_their_length() -> None:
    began = time.process_time()
    good = b'<tu><tuv xml:lang="en"><seg>cat</seg></tuv></tu>'
    raw = b"<tmx><body>%s%s</body></tmx>" % (good, b"<tu>&</tu>" * 20_000)
    assert len(list(tmx_lines(io.BytesIO(raw), "m.tmx", ("en",)))) == 20_001
    with pytest.raises(ValueError, match="not well-formed"):
        list(tmx_lines(io.BytesIO(b"<tmx><body><tu>& %s" % (b"x y " * (4 << 20))), "m.tmx", ("en",)))
    assert time.process_time() - began < 20
