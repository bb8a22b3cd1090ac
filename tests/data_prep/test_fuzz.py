"""A few seconds of `tests/tools/fuzz_data_prep.py`, and the damaged inputs that it once found to crash."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.text.inputs import Records
from data_prep.text.readers import open_text
from data_prep.text.records import Layout
from data_prep.text.zip_members import choose_member
from data_prep.token_files.token_file import TokenFile, TokenFileWriter
from tests.conftest import ROOT
from tests.token_files import add_sequence


def test_damaged_input_raises_nothing_but_our_errors() -> None:
    script = ROOT / "tests" / "tools" / "fuzz_data_prep.py"
    command = [sys.executable, str(script), "--minutes", "0.08", "--seed", "11"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no crash" in done.stdout


@pytest.mark.parametrize("name", ["", ".", "./"])
def test_a_zip_member_without_a_name_is_no_crash(name: str) -> None:
    assert choose_member([name, "a.en"], "en", "z") == "a.en"


def test_segments_outside_of_a_unit_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "m.tmx").write_text('<tmx><tuv xml:lang="en"><seg>a</seg></tuv><tu><tuv/></tu></tmx>')
    with (
        pytest.raises(ValueError, match="no unit has en"),
        open_text(Records(tmp_path / "m.tmx", Layout("tmx", ("en",)))) as stream,
    ):
        stream.read()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """The index of a good shard."""
    writer = TokenFileWriter(tmp_path / "x", "mono", ("de",), "f" * 64)
    add_sequence(writer, [5, 6])
    writer.end_document()
    writer.close()
    return tmp_path / "x.idx"


@pytest.mark.parametrize(
    "trailer",
    [[], 5, {"schema": 1}, {"schema": 1, "kind": "pairs", "languages": ["de"], "tokenizer_sha256": "f"},
     {"schema": 1, "kind": "mono", "languages": "de", "tokenizer_sha256": "f"},
     {"schema": 1, "kind": "mono", "languages": [1], "tokenizer_sha256": "f"},
     {"schema": 1, "kind": "mono", "languages": ["de"], "tokenizer_sha256": None}],
)  # fmt: skip
def test_a_trailer_of_another_shape_is_refused(trailer: object, index: Path) -> None:
    content, body = index.read_bytes(), json.dumps(trailer).encode()
    at = content.index(b"XLMALIGN")
    index.write_bytes(content[: at + 8] + struct.pack("<Q", len(body)) + body)
    with pytest.raises(ValueError, match=r"x\.idx: (trailer|schema)"):
        TokenFile(index.with_suffix(""))


@pytest.mark.parametrize("counts", [(2**63, 2), (1, 2**64 - 1), (2**61, 2**61)])
def test_counts_beyond_the_file_are_refused(counts: tuple[int, int], index: Path) -> None:
    content = bytearray(index.read_bytes())
    content[18:34] = struct.pack("<QQ", *counts)
    index.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.idx: cut off"):
        TokenFile(index.with_suffix(""))
