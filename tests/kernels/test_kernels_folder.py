"""`kernels/` is a plain folder: Hugging Face's package of that name must stay importable beside the project."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

STAND_IN = """
class _OfAny(type):
    def __getattr__(self, name): return _Anything()

class _Anything(metaclass=_OfAny):
    def __init__(self, *arguments, **options): pass
    def __call__(self, *arguments, **options): return self
    def __getattr__(self, name): return _Anything()
    def __or__(self, other): return self

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return type(name, (_Anything,), {})
"""

IMPORTS = """
import importlib.metadata, kernels, sinkhorn_align, transformers
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
from transformers.integrations import hub_kernels
from transformers.utils import is_kernels_available
print(kernels.__file__, sinkhorn_align.__file__, is_kernels_available(), sep="\\n")
"""


def test_kernels_is_not_a_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert (ROOT / "kernels" / "sinkhorn_align" / "__init__.py").exists()


def imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (module.name for module in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_nothing_in_kernels_imports_another_part_of_the_project():
    files = list((ROOT / "kernels").rglob("*.py"))
    imports = {(path.name, module) for path in files for module in imported_by(path)}
    assert len(files) > 20
    assert {found for found in imports if found[1].split(".")[0] in ("pipeline", "data_prep")} == set()


def test_settings_are_read_without_pytorch():
    script = "import sys, sinkhorn_align; from sinkhorn_align import AlignmentSettings; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "kernels")}
    run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_transformers_imports_with_the_hub_kernels_package_installed(tmp_path):
    from transformers.utils.import_utils import KERNELS_MIN_VERSION

    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN)
    metadata = tmp_path / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n")
    (metadata / "top_level.txt").write_text("kernels\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "kernels")])
    run = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    kernels_file, sinkhorn_file, available = run.stdout.split()[-3:]
    assert Path(kernels_file) == package / "__init__.py"
    assert Path(sinkhorn_file).parent == ROOT / "kernels" / "sinkhorn_align"
    assert available == "True"
