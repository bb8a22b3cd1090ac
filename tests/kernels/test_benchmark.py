"""`kernels/benchmark.py`: it runs from one command, writes what it says, and times nobody who finds other links."""

import csv
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(KERNELS))
    yield importlib.import_module("benchmark"), importlib.import_module("benchmark_peers")
    for name in ("benchmark", "benchmark_peers"):
        sys.modules.pop(name)


def test_one_command_times_all_that_this_machine_can_run(tmp_path):
    figures, table, picture = tmp_path / "f.json", tmp_path / "f.csv", tmp_path / "f.png"
    options = ["--quick", "--no-compile", "--repeats", "1", "--json", figures, "--csv", table, "--picture", picture]
    done = subprocess.run(
        [sys.executable, KERNELS / "benchmark.py", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(figures.read_text())
    ragged = {entry["contender"]: entry for entry in content["figures"] if "real lengths, width 384" in entry["name"]}
    assert set(ragged) >= {"align", "released", "PyTorch, one padded block", "align, labelling alone"}
    assert ragged["align"]["pairs_per_second"] == pytest.approx(32e6 / ragged["align"]["value"])
    assert ragged["align"]["ratio_to"]["released"] > 0
    assert any("no CUDA device" in line for line in content["left_out"])
    assert len(list(csv.DictReader(table.open()))) == len(content["figures"])
    assert picture.stat().st_size > 1000


def test_who_finds_other_links_is_named_and_not_timed(script):
    benchmark, _ = script
    case = benchmark.cases("cpu", True)[0]
    figures = benchmark.Figures()
    running = benchmark.contenders(case, figures, compiled=False)
    running["wrong"] = benchmark.Contender(lambda: {(0, 1)}, lambda links: links)
    kept = benchmark.correct(case, running, figures)
    assert set(running) - set(kept) == {"wrong"}
    assert any(line.startswith("wrong on 32 pairs") for line in figures.left_out)


def test_the_released_algorithm_reads_its_own_block_of_the_gram_matrix(script):
    benchmark, peers = script
    case = benchmark.cases("cpu", True)[0]
    found = peers.released_labels(case, peers.released_product(peers.padded_sequences(case)))
    sides = zip(*(vector.tolist() for vector in case.spans[:2]), strict=True)
    source = {token for start, length in sides for token in range(start, start + length)}
    assert found and {link[0] for link in found} <= source
    assert not {link[1] for link in found} & source
