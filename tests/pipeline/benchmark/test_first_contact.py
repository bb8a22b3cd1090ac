"""`first_contact`, as far as a machine without a GPU can tell: items are safe from each other, and what was found is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline.benchmark import contact_training, first_contact
from pipeline.benchmark.contact_items import ITEMS, check_attention
from pipeline.benchmark.contact_record import Contact, Entry, Record, environment, read, table
from pipeline.benchmark.step import BASELINE, OURS

SCRIPT = Path(first_contact.__file__)


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def contact(tmp_path: Path) -> Contact:
    record = Record(tmp_path / "record.jsonl", "an item", time.time())
    return Contact(record, tmp_path, True, time.monotonic() + 60)


def found(contact: Contact, kind: str) -> list[Entry]:
    return [entry for entry in read(contact.record.path) if entry["kind"] == kind]


def line(step: int, loss: float, speed: float) -> dict[str, float]:
    losses = {f"{name}_loss": loss / 3 for name in ("mlm", "tlm", "dwa")}
    more = {"tokens_per_second": speed, "peak_memory_gb": 2.0, "utilisation": 0.5, "tflops_per_device": 400.0}
    return {"step": step, "skipped_steps": 0, **losses, **more}


def test_every_item_has_its_time() -> None:
    assert list(ITEMS) == list(first_contact.ITEMS)
    ten_minutes_of_what_tells_most = list(first_contact.ITEMS.values())[:-3]
    assert sum(ten_minutes_of_what_tells_most) <= 600


def test_a_rehearsal_leaves_a_record_that_becomes_a_table(tmp_path: Path) -> None:
    items = ["ceilings", "products"]
    done = script("--rehearse", "--out", tmp_path / "out", "--data", tmp_path, "--only", *items)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = read(tmp_path / "out" / "record.jsonl")
    assert entries[0]["kind"] == "environment" and entries[0]["rehearsal"] is True
    assert [entry["item"] for entry in entries if entry["kind"] == "item"] == items
    checks = [entry for entry in entries if entry["kind"] == "check"]
    assert len(checks) == 4 and all(check["passed"] for check in checks)
    printed = script("--table", tmp_path / "out" / "record.jsonl").stdout
    assert "4 of 4 checks passed." in printed and "| copy, read and written | copy_ |" in printed
    again = script("--rehearse", "--out", tmp_path / "out", "--data", tmp_path)
    assert again.returncode == 1 and again.stderr.count("\n") == 1 and "another --out" in again.stderr


def arguments_of(out: Path, items: list[str]) -> SimpleNamespace:
    found = SimpleNamespace(out=out, data=None, only=items, minutes=1.0, rehearse=False, wheels=None, triton_cache=None)
    found.started = time.time()
    return found


def test_an_item_that_fails_hangs_or_ends_early_leaves_what_it_found_and_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = "open(sys.argv[-1], 'a').write(json.dumps({'kind': 'figure', 'item': sys.argv[2]}) + chr(10))"
    items = {"fails": "sys.exit('no such kernel')", "hangs": "time.sleep(60)", "works": ""}
    script = tmp_path / "item.py"
    lines = ["import json, sys, time", write, f"exec({items!r}[sys.argv[2]])"]
    script.write_text("\n".join(lines).replace("sys.argv[-1]", f"{str(tmp_path / 'record.jsonl')!r}"))
    monkeypatch.setattr(first_contact, "__file__", str(script))
    monkeypatch.setattr(first_contact, "ITEMS", {"fails": 20, "hangs": 1, "works": 20})
    arguments = arguments_of(tmp_path, list(items))
    record = Record(tmp_path / "record.jsonl", "all", arguments.started)
    assert not first_contact.run_items(arguments, record)  # type: ignore[arg-type]
    entries = read(record.path)
    assert [entry["item"] for entry in entries if entry["kind"] == "figure"] == list(items)
    told = [entry["what"] for entry in entries if entry["kind"] == "left out"]
    assert told[0].endswith("exit code 1: no such kernel") and told[1].endswith("not finished after 1 s")
    assert [entry["ended"] for entry in entries if entry["kind"] == "item"] == ["failed", "failed", "well"]
    arguments.minutes = 0
    first_contact.run_items(arguments, record)  # type: ignore[arg-type]
    assert sum("the time is up" in entry.get("what", "") for entry in read(record.path)) == 3


def test_a_record_that_a_kill_cut_is_read_up_to_there(contact: Contact) -> None:
    contact.figure("a name", "somebody", 1.0, "s")
    with contact.record.path.open("a") as file:
        file.write('{"kind": "figu')
    assert [entry["name"] for entry in read(contact.record.path)] == ["a name"]
    with contact.record.path.open("a") as file:
        file.write("\n{}\n")
    with pytest.raises(ValueError, match=r"record\.jsonl:2: not a line of JSON"):
        read(contact.record.path)


def test_figures_of_training_are_those_of_the_runs(contact: Contact, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(contender: str, config: Path, ranks: int, steps: int, settings: list[str], out: Path) -> list[Entry]:
        if any("large" in setting or "batch.mono=4" in setting for setting in settings):
            raise ValueError("ended with exit code 1: out of memory")
        fp32, ours = any("fp32" in setting for setting in settings), contender == OURS
        return [line(step, 6.0 if fp32 else 3.0, 300.0 if ours else 100.0) for step in range(steps)]

    monkeypatch.setattr(contact_training, "run", run)
    contact_training.speed(contact)
    contact_training.curves(contact)
    figures = {(entry["name"], entry["contender"]): entry for entry in found(contact, "figure")}
    speed = figures["equal batches, bf16: tokens_per_second", OURS]
    assert speed["value"] == 300 and speed["ratio_to"] == {BASELINE: 3.0}
    ends = {contender: entry for (_, contender), entry in figures.items() if contender.startswith("ZeRO")}
    assert ends["ZeRO 3_bf16"]["ratio_to"] == {"ZeRO 1_fp32": pytest.approx(0.5)}
    (told,) = found(contact, "left out")
    assert "out of memory" in told["what"]


def test_nothing_is_begun_after_the_time_is_up(contact: Contact) -> None:
    late = Contact(contact.record, contact.data, True, time.monotonic())
    assert contact_training.trained(late, OURS, "1_bf16", 3) is None
    assert "the time is up" in found(contact, "left out")[0]["what"]


def test_attention_that_is_wrong_fails_its_check(contact: Contact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.model.attention.attend", lambda q, k, v, *_, **__: q * k * v * (1 + q.element_size()))
    check_attention(contact)
    assert not any(check["passed"] for check in found(contact, "check")[:1])


def test_no_git_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    assert environment(tmp_path)["commit"] == "unknown"
    monkeypatch.setenv("COMMIT", "abc1234")
    assert environment(tmp_path)["commit"] == "abc1234"


def test_carried_packages_are_found_where_they_are_missing(tmp_path: Path) -> None:
    arguments = arguments_of(tmp_path / "out", [])
    arguments.wheels, arguments.triton_cache = tmp_path / "wheels", tmp_path / "cache"
    arguments.wheels.mkdir()
    arguments.triton_cache.mkdir()
    (arguments.triton_cache / "kernel.cubin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no \*\.whl there"):
        first_contact.carried(arguments)  # type: ignore[arg-type]
    (arguments.wheels / "torch-2.0-py3-none-any.whl").write_bytes(b"")  # is installed: not even opened
    variables = first_contact.carried(arguments)  # type: ignore[arg-type]
    assert (Path(variables["TRITON_CACHE_DIR"]) / "kernel.cubin").exists()
    assert str(tmp_path / "out" / "packages") in variables["PYTHONPATH"].split(os.pathsep)
    (arguments.wheels / "nobody_has_this-1.0-py3-none-any.whl").write_bytes(b"")
    with pytest.raises(ValueError, match="nobody_has_this"):
        first_contact.carried(arguments)  # type: ignore[arg-type]


def test_the_table_names_what_failed() -> None:
    entries = [
        {"kind": "check", "name": "n", "passed": False, "detail": "3 wrong"},
        {"kind": "figure", "name": "f", "contender": "c", "value": 1234.5, "unit": "µs", "ratio_to": {"d": 2.0}},
        {"kind": "left out", "what": "memcheck"},
    ]
    printed = table(json.loads(json.dumps(entries)))
    for part in ("0 of 1 checks passed.", "- FAILED n: 3 wrong", "| f | c | 1234 µs | 2 × d |", "- memcheck"):
        assert part in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a gpu")
def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    for arguments, part in (([], "--out is missing"), (["--out", tmp_path], "--data is missing")):
        done = script(*arguments)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and part in done.stderr
