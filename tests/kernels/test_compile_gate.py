"""What the kernels compile to, checked without a GPU."""

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
job = Job("align_pairs_fused", 90, "bf16", "clip", 64, 64)
good = Compiled(warps=4, registers=200, stack=0, shared=1024, tensor_core=2)
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
