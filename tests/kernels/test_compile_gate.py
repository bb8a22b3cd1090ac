"""What the kernels compile to, checked without a GPU."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(KERNELS), **environment}
    return subprocess.run([sys.executable, *command], env=variables, capture_output=True, text=True, check=False)


def test_every_default_launch_compiles_to_what_is_recorded():
    # The default settings in bf16; the whole record takes minutes, and is compared when it is written anew.
    gate = run(str(KERNELS / "compile_gate.py"), "--quick")
    assert gate.returncode == 0, gate.stdout + gate.stderr
    assert "0 problems" in gate.stdout


def test_spills_missing_tensor_cores_and_other_registers_are_told():
    script = """
import dataclasses
from compile_gate import Compiled, Job, differences, faults, rows_of
job = Job("align_pairs_fused", 90, "bf16", "clip", 64, 64, short=0)
good = Compiled(warps=4, registers=200, stack=0, shared=1024, tensor_core=2, instructions=1)
print(faults({job: good}), faults({dataclasses.replace(job, dtype="fp32"): dataclasses.replace(good, tensor_core=0)}))
spilled = dataclasses.replace(good, stack=160)
print(*faults({dataclasses.replace(job, rows=128, columns=128): spilled}), *faults({job: dataclasses.replace(good, stack=8)}))
print(*faults({job: dataclasses.replace(good, tensor_core=0)}))
recorded = rows_of({job: good})
print(differences(recorded, recorded))
print(*differences(recorded, rows_of({job: dataclasses.replace(good, registers=201)})), *differences(recorded, []), sep="\\n")
"""
    lines = run("-c", script).stdout.splitlines()
    assert lines[0] == "[] []"
    assert "8 bytes of stack a thread, at most 0" in lines[1]
    assert "no tensor-core instruction" in lines[2]
    assert lines[3] == "[]"
    assert "'registers': 200" in lines[4] and "'registers': 201" in lines[4]
    assert "now None" in lines[5]


def test_a_pair_of_each_tile_issues_no_more_instructions_than_it_may():
    launches = json.loads((KERNELS / "compiled.json").read_text(encoding="utf-8"))["launches"]
    counted = {
        (row["rows"], row["short"]): row["instructions"]
        for row in launches
        if (row["kernel"], row["capability"], row["dtype"], row["settings"])
        == ("align_pairs_fused", 90, "bf16", "clip")
    }
    most = {16: 2_600, 32: 7_000, 64: 24_000}
    assert all(0 < counted[side, 0] <= instructions for side, instructions in most.items())


SASS = """
kernel:
.text.kernel:
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_0:
        /*0010*/                   LDGSTS.E.128 [R1], desc[UR4][R2.64] ;
        /*0020*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0030*/              @!P0 BRA `(.L_x_0) ;
        /*0040*/               @P1 BRA `(.L_x_2) ;
.L_x_1:
        /*0050*/                   FADD R0, R0, R1 ;
        /*0060*/                   BRA.DIV ~URZ, `(.L_x_4) ;
        /*0070*/               @P2 CALL.REL.NOINC `(.L_x_3) ;
        /*0080*/                   BRA `(.L_x_1) ;
.L_x_2:
        /*0090*/                   MUFU.EX2 R0, R0 ;
        /*00a0*/                   MUFU.LG2 R0, R0 ;
        /*00b0*/                   FADD R0, R0, R1 ;
        /*00c0*/                   FADD R0, R0, R1 ;
        /*00d0*/               @P2 BRA `(.L_x_2) ;
.L_x_3:
        /*00e0*/                   STG.E desc[UR4][R2.64], R0 ;
        /*00f0*/                   EXIT ;
.L_x_4:
        /*0100*/                   WARPSYNC R0 ;
.L_x_5:
        /*0110*/                   BRA `(.L_x_5) ;
"""


def test_instructions_are_counted_through_loops_and_by_the_shorter_branch(monkeypatch):
    monkeypatch.syspath_prepend(str(KERNELS))
    counted = importlib.import_module("count_instructions").instructions_of_a_pair(SASS, steps=12, iterations=2)
    # The product's three instructions 12 times, the shorter of two loops twice up to where it is left: nobody diverges.
    assert counted == {
        "S2R": 1,
        "LDGSTS": 12,
        "HMMA": 12,
        "FADD": 2,
        "CALL": 2,
        "STG": 1,
        "EXIT": 1,
        "BRA": 12 + 1 + 2,
    }


def test_the_cost_model_reads_the_record_and_keeps_its_promises(monkeypatch):
    monkeypatch.syspath_prepend(str(KERNELS))
    model = importlib.import_module("cost_model")
    _, share, launches = model.batch_cost([(64, 64)] * 2048, 768)
    assert len(launches) == 1
    assert 0.8 <= share < 1
    _, share, launches = model.batch_cost(model.of_real_corpora(2048), 768)
    assert len(launches) == 4
    assert 0.6 <= share < 1
