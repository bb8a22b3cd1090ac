"""What a rank imports for an optimizer that it does not have."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: other tests import the compiler.
WHOLE = """
import sys
from deepspeed.runtime import compiler
from pipeline.training import muon

# As DeepSpeed 0.19.6 does, which imports it with itself.
was_there = "deepspeed.runtime.zero.muon.original_muon" in sys.modules
decorator = compiler.compile
muon.import_uncompiled()
from deepspeed.runtime.zero.muon import muon_optimizer, original_muon

assert compiler.compile is decorator
assert original_muon.muon_update.__module__ == original_muon.__name__
assert muon_optimizer.MuonWithAuxAdam.__mro__[1] is original_muon.MuonWithAuxAdam
assert was_there or "torch._inductor.compile_fx" not in sys.modules
"""


def test_muon_is_there_and_the_compiler_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", WHOLE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
