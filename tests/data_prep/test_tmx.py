"""Translation memories: what of a TMX file becomes a pair, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.manifest import Manifest
from data_prep.readers import open_text, split_lines
from data_prep.records import Layout
from data_prep.tokenizer import Tokenizer
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
