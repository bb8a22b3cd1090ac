"""What aligning takes beside the encoder's forward: one command, one figure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.benchmark.labelling import benchmark, draw


def test_spans_are_the_sides_of_the_packed_pairs() -> None:
    packed, spans = draw(20)
    first_B, rows_B = spans.source_start_B - 1, spans.source_length_B
    assert first_B.tolist() == packed.offsets_S1[:-1].tolist()
    assert (spans.target_start_B - first_B).tolist() == (rows_B + 2).tolist()
    assert (rows_B + spans.target_length_B + 3).tolist() == packed.sequence_lengths.tolist()
    assert spans.checked(packed.tokens).pairs == 20


def test_the_command_tells_the_share_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark(pairs=2, repeats=1, device="cpu", json_file=tmp_path / "share.json")
    (entry,) = json.loads((tmp_path / "share.json").read_text(encoding="utf-8"))
    assert entry["value"] > 0 and entry["unit"] == "share"
    assert capsys.readouterr().out.startswith("align / forward of 12 x 768 on 2 pairs of real lengths: ")
