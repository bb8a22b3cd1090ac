"""A large JSON file is parsed while it is read, as `json` would parse the whole of it."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.files import canonical_json
from data_prep.token_files import json_parts

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=12) | st.just("\n    },"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_parts, "BLOCK_BYTES", 7)


def read(path: Path) -> tuple[list[Any], dict[str, Any], str]:
    items: list[Any] = []
    fields, digest = json_parts.read_in_parts(path, "shards", lambda some, _: items.extend(some))
    return items, fields, digest


@settings(max_examples=150, deadline=None)
@given(
    shards=st.lists(VALUES, max_size=6),
    others=st.dictionaries(st.text(max_size=6), VALUES, max_size=4),
    form=st.sampled_from(["canonical", "dense", "wide"]),
)
def test_the_parts_are_those_of_the_whole(
    shards: list[Any], others: dict[str, Any], form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = {**others, "shards": shards}
    text = {"canonical": canonical_json(content), "dense": json.dumps(content, separators=(",", ":")).encode()}
    raw = text.get(form, json.dumps(content, indent=7).encode())
    path = tmp_path_factory.getbasetemp() / "parts.json"
    path.write_bytes(raw)
    assert read(path) == (shards, content | {"shards": None}, hashlib.sha256(raw).hexdigest())


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"5", b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,', b'{"a":1,}', b'{"a":1}x', b'{"a":1}}', b'{"shards":[1',
     b'{"shards":[1,', b'{"shards":[1,]}', b'{"shards":[1 2]}', b'{"shards":5}', b'{"a":1,"a":1}', b'{"shards":[],"shards":[]}',
     b'{1:2}', b'{"a":"\xff"}', b'{"a":"\xc3', b'{"a":' + b"[" * 100_000, b'{"shards":[' + b"[" * 100_000],
)  # fmt: skip
def test_what_is_no_such_object_is_a_value_error(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(ValueError):  # noqa: PT011 (every message is json's own or names what was expected)
        read(tmp_path / "a.json")
