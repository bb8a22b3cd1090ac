"""What our code never does: unpickle what it reads, run text as code or through a shell, read YAML in another way than one,
write what a kill would leave half under its final name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data_prep", "kernels", "pipeline")
YAML_LOADER = Path("data_prep/sections.py")
PICKLE_NAMES = {"pickle.UnpicklingError", "pickle.PickleError"}
"""Errors, which readers that unpickle nothing are told of."""
UNPICKLERS = ("_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve")
CODE = {"builtins.eval", "builtins.exec", "eval", "exec"}
WRITERS = {"write_text", "write_bytes", "savefig"}
UNSEALED = {
    "data_prep/files.py": "writes beside and renames",
    "data_prep/token_files/token_file.py": "a shard counts once its marker is there",
    "pipeline/checkpoints/manifest.py": "writes beside and renames, checkpoints' way",
    "pipeline/cluster/hostfile.py": "of one job",
    "pipeline/cluster/preflight/hosts.py": "tries a folder",
    "pipeline/host/agent.py": "tries a folder",
    "pipeline/weights/export.py": "into a folder that is renamed when it is whole",
    "pipeline/xtreme/transfer.py": "a trial counts once its mark is there",
}
"""Who writes a file by its path: their names, and why no half file can be taken for a whole one."""
SCRATCH = "benchmark"
"""Folders of measurements, which write into temporary folders."""
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}


def names_of_imports(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for: `{"loads": "pickle.loads"}`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                (a.asname or a.name.partition(".")[0]): (a.name if a.asname else a.name.partition(".")[0])
                for a in node.names
            }
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """`torch.load` for what stands for it here; empty for what is no name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (before := dotted(node.value, names)):
        return f"{before}.{node.attr}"
    return ""


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def faults(source: str, path: Path) -> Iterator[str]:
    """Every place of a module that does what is not done."""
    tree = ast.parse(source)
    names = names_of_imports(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (f"{path}:{node.lineno}: {fault}" for fault in faults_of_call(node, names, path))
        if isinstance(node, ast.Name | ast.Attribute):
            name = dotted(node, names)
            if name.startswith(tuple(f"{module}." for module in UNPICKLERS)) and name not in PICKLE_NAMES:
                yield f"{path}:{node.lineno}: {name}"


def faults_of_call(call: ast.Call, names: dict[str, str], path: Path) -> Iterator[str]:
    function = dotted(call.func, names)
    words = {word.arg: word.value for word in call.keywords}
    if "weights_only" in words and not is_constant(words["weights_only"], True):
        yield "weights_only is not True"
    if function == "torch.load" and "weights_only" not in words:
        yield "torch.load without weights_only=True"
    if function == "torch.load" and path.parts[0] != "tests" and path.name != "weights_only.py":
        yield "torch.load outside weights_only.py takes what other libraries have told it to take"
    if "allow_pickle" in words and not is_constant(words["allow_pickle"], False):
        yield "allow_pickle is not False"
    if "shell" in words and not is_constant(words["shell"], False):
        yield "shell is not False"
    if function in SHELLS | CODE:
        yield function
    if function.startswith("yaml.") and "load" in function and path != YAML_LOADER:
        yield f"{function} beside the one reader, `data_prep.sections.parse_yaml`"


def written_in_place(source: str) -> list[int]:
    """Lines that write a whole file by its path, `data_prep.files.output_place` and what is made of it left out."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITERS
        if not (node.args and isinstance(node.args[0], ast.Name) and node.args[0].id in ("place", "picture"))
    ]


def test_nothing_is_half_written_under_its_final_name() -> None:
    paths = [path for folder in ("data_prep", "pipeline") for path in sorted((ROOT / folder).rglob("*.py"))]
    writing = {
        str(path.relative_to(ROOT))
        for path in paths
        if SCRATCH not in path.parts and written_in_place(path.read_text(encoding="utf-8"))
    }
    assert writing == set(UNSEALED)
    assert written_in_place("path.write_text(json.dumps(content))\nfigure.savefig(path, dpi=110)\n") == [1, 2]
    assert not written_in_place("figure.savefig(place, dpi=110)\nwrite_text(path, text)\n")


@pytest.mark.parametrize("folder", PACKAGES)
def test_nothing_runs_what_is_read(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = [fault for path in files for fault in faults(path.read_text(encoding="utf-8"), path.relative_to(ROOT))]
    assert found == []


def test_the_one_reader_of_yaml_makes_plain_values_alone() -> None:
    from data_prep import sections

    assert (ROOT / YAML_LOADER).read_text(encoding="utf-8").count("yaml.load(") == 1
    assert issubclass(sections._Loader, sections.yaml.SafeLoader)


@pytest.mark.parametrize(
    "line",
    [
        "import torch; torch.load(p)",
        "import torch as t; t.load(p, weights_only=False)",
        "import torch; torch.load(p, map_location='cpu', weights_only=True)",
        "from torch import load; load(p, map_location='cpu')",
        "import torch; torch.load(p, weights_only=flag)",
        "engine.load_checkpoint(p, weights_only=False)",
        "import pickle; pickle.load(f)",
        "import pickle as p; p.loads(b)",
        "from pickle import Unpickler as U; U(f).load()",
        "import pickle; read = pickle.load",
        "import marshal; marshal.loads(b)",
        "import numpy as np; np.load(p, allow_pickle=True)",
        "import subprocess; subprocess.run(c, shell=True)",
        "import subprocess as s; s.getoutput(c)",
        "from os import system; system(c)",
        "import yaml; yaml.load(t, Loader)",
        "from yaml import unsafe_load as read; read(t)",
        "import yaml; yaml.safe_load_all(t)",
        "eval(text)",
    ],
)
def test_each_of_these_is_found(line: str) -> None:
    assert list(faults(line, Path("pipeline/x.py")))


@pytest.mark.parametrize(
    "line",
    [
        "from pipeline.checkpoints import weights_only; weights_only.load(p)",
        "import pickle\ntry: pass\nexcept pickle.UnpicklingError: pass",
        "import json; json.load(f)",
        "import numpy as np; np.load(p, allow_pickle=False)",
        "import subprocess; subprocess.run([c], shell=False)",
        "import yaml; yaml.dump(v)",
        "model.eval()",
    ],
)
def test_none_of_these_is(line: str) -> None:
    assert not list(faults(line, Path("pipeline/x.py")))
