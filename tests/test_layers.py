"""Imports go one way, as docs/architecture.md says; what is to start at once starts without PyTorch."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("data_prep", "pipeline", "kernels/sinkhorn_align")
LIGHT = (
    "pipeline.cli",
    "pipeline.cluster.finished",
    "pipeline.cluster.options",
    "pipeline.settings.schema",
    "pipeline.estimate.dry_run",
    "data_prep.cli",
)
"""Modules that answer before PyTorch could be loaded."""
HEAVY = {"torch", "deepspeed", "transformers", "matplotlib"}


def test_imports_go_down_the_layers_and_in_no_circle() -> None:
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("package", ["pipeline", "data_prep"])
def test_the_page_has_the_layers_that_are_checked(package: str) -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    contract = settings[f"importlinter:contract:{package.replace('_', '-')}"]["layers"]
    checked = [set(re.findall(r"\w+", layer)) for layer in contract.split("\n") if layer and layer != "__main__"]
    assert shown_layers(package) == checked


def shown_layers(package: str) -> list[set[str]]:
    """The rows of a package's table, those without a number of their own with the row above."""
    section = PAGE.read_text(encoding="utf-8").split(f"### `{package}/`")[1].split("###")[0]
    layers: list[set[str]] = []
    for number, names in re.findall(r"^\| *(\d*) *\| ([^|]+) \|", section, re.MULTILINE):
        found = set(re.findall(r"`(\w+)/?`", names))
        if number:
            layers.append(found)
        elif found:
            layers[-1] |= found
    return layers


def test_every_folder_says_in_its_first_line_what_it_is_for() -> None:
    for package in PACKAGES:
        for path in [ROOT / package / "__init__.py", *(ROOT / package).glob("**/__init__.py")]:
            said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert said, path
            assert said.split("\n")[0].endswith((".", "?")), path
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).glob("**/*.py")}
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()


def test_the_scripts_beside_the_kernels_know_the_kernels_alone() -> None:
    for path in (ROOT / "kernels").glob("*.py"):
        assert imported_packages(path) & {"pipeline", "data_prep", "tests"} == set(), path


def imported_packages(path: Path) -> set[str]:
    """Names of the packages that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("module", LIGHT)
def test_what_starts_at_once_loads_no_torch(module: str) -> None:
    script = f"import sys, {module}; print(*sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
