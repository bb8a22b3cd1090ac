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
    for name in ("benchmark", "benchmark_peers", "record"):
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
    case = next(benchmark.cases("cpu", True))
    figures = benchmark.Figures(benchmark.Record(None))
    running = benchmark.contenders(case, figures, compiled=False)
    running["wrong"] = benchmark.Contender(lambda: {(0, 1)}, lambda links: links)
    running["broken"] = benchmark.Contender(lambda: 1 // 0, lambda links: links)
    kept = benchmark.correct(case, running, figures)
    assert set(running) - set(kept) == {"wrong", "broken"}
    assert any(line.startswith("wrong on 32 pairs") for line in figures.left_out)
    assert "broken on 32 pairs of real lengths, width 384: ZeroDivisionError" in "\n".join(figures.left_out)


def test_the_released_algorithm_finds_its_links_in_bf16_and_on_few_of_the_pairs(script):
    benchmark, _ = script
    case = next(benchmark.cases("cpu", True))
    case.hidden_TD = 10 * case.hidden_TD.bfloat16()  # similarities of thousands, as XLM-R's
    running = benchmark.released_contenders(case.first(8))
    kept = benchmark.correct(case, running, benchmark.Figures(benchmark.Record(None)))
    assert set(kept) == set(running) and {contender.pairs for contender in kept.values()} == {8}
    figures = benchmark.Figures(benchmark.Record(None))
    benchmark.contenders = lambda *_: kept
    benchmark.measure(case, figures, 1, "cpu", 1e9, compiled=False)
    assert {entry["scaled_from_pairs"] for entry in figures.entries} == {8}


def test_figures_are_kept_as_they_are_made_and_nothing_is_begun_late(script, tmp_path):
    benchmark, _ = script
    record = tmp_path / "record.jsonl"
    figures = benchmark.Figures(benchmark.Record(str(record)), until=0)
    figures.add({"name": "n", "value": 1})
    case = next(benchmark.cases("cpu", True))
    assert benchmark.correct(case, {"late": benchmark.Contender(lambda: 1 // 0)}, figures) == {}
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert lines[0] == {"kind": "figure", "name": "n", "value": 1}
    assert lines[1] == {"kind": "left out", "what": f"late on {case.name}: the time is up"}


def test_the_commit_is_the_environments_where_there_is_no_git(script, monkeypatch):
    record = sys.modules["record"]
    monkeypatch.setenv("PATH", "")
    assert record.environment("cpu")["commit"] == "unknown"
    monkeypatch.setenv("COMMIT", "abc1234")
    assert record.environment("cpu")["commit"] == "abc1234"


def test_the_released_algorithm_reads_its_own_block_of_the_gram_matrix(script):
    benchmark, peers = script
    case = next(benchmark.cases("cpu", True))
    found = peers.released_labels(case, peers.released_product(peers.padded_sequences(case)))
    sides = zip(*(vector.tolist() for vector in case.spans[:2]), strict=True)
    source = {token for start, length in sides for token in range(start, start + length)}
    assert found and {link[0] for link in found} <= source
    assert not {link[1] for link in found} & source
