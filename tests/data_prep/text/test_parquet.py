"""Parquet: several files in one are no file, and what is damaged ends no process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tests.conftest import ROOT

Run = Callable[..., tuple[int, str, str]]


def test_two_parquet_files_in_one_are_refused(mono: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"text": ["the cat"] * 50}), path)
    assert mono(path)[0] == 0
    path.write_bytes(path.read_bytes() * 2)
    code, _, error = mono(path, "--replace")
    assert code == 1 and "p.parquet: several Parquet files in one" in error


def test_text_with_parquet_s_mark_in_it_is_text(mono: Run, tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    parquet.write_table(pyarrow.table({"text": ["PAR1PAR1 the cat", "PAR1" * 9]}), path, compression="none")
    assert b"PAR1PAR1" in path.read_bytes()[4:-8]
    assert mono(path)[0] == 0


FLIP_PARQUET = """
import sys
from pathlib import Path
from data_prep.text.records import Layout, parquet_lines

path = Path(sys.argv[1])
content = path.read_bytes()
for bit in range(0, 8 * len(content), 5):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        with path.open("rb") as file:
            list(parquet_lines(file, "p.parquet", Layout("parquet", ("text",))))
    except ValueError as error:
        assert str(error).startswith("p.parquet: "), error
print("done")
"""


def test_no_bit_of_a_parquet_file_ends_the_process(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    column = pyarrow.array(["cat", "dog", None, "cat"]).dictionary_encode()
    parquet.write_table(pyarrow.table({"text": column}), path, row_group_size=2)
    done = subprocess.run(
        [sys.executable, "-c", FLIP_PARQUET, path], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout == "done\n", done.stderr
