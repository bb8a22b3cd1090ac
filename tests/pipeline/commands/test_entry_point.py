"""`xlm-align` means this package wherever it is typed, also beside somebody's own pipeline.py or pipeline/."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.stages import PYTHON, run_stage
from tests.conftest import ROOT
from tests.pipeline.conftest import Done


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with modules of the user's own that have our names."""
    (tmp_path / "pipeline.py").write_text("raise SystemExit('the user own module')\n")
    for package in ("pipeline", "data_prep", "sinkhorn_align"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the user own package')\n")
    return tmp_path


@pytest.fixture
def console_script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command as pip writes it from setup.cfg."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    (line,) = settings["options.entry_points"]["console_scripts"].strip().splitlines()
    name, _, place = (word.strip() for word in line.partition("="))
    module, _, function = place.partition(":")
    script = tmp_path_factory.mktemp("bin") / name
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    assert name == "xlm-align"
    return script


def test_the_command_aligns_beside_a_pipeline_of_the_user(hf_dir: Path, elsewhere: Path, console_script: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    command = [console_script, "align", hf_dir, "-"]
    text = "the fox ||| der fuchs\n"
    done = subprocess.run(
        command, cwd=elsewhere, input=text, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d-\d( \d-\d)*\n", done.stdout)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 looks for `-m` in the current folder first")
def test_what_quickstart_and_adapt_start_is_this_package_too(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(elsewhere)
    run_stage("help", [*PYTHON, "pipeline", "--help"])
    run_stage("help", [*PYTHON, "data_prep", "--help"])
    assert "own" not in capfd.readouterr().err


ELSEWHERE = {"train": "./launch.sh train CONFIG", "mono": "python -m data_prep mono"}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_command_of_another_place_is_answered_with_what_to_type(use: Callable[..., Done], name: str) -> None:
    done = use(name, "config.yaml")
    assert done.code == 2 and f"no such command {name!r} here; it is `{ELSEWHERE[name]}" in done.err
    assert "align" not in done.err.partition("Error")[2].replace("launch", "")


def test_a_slip_of_the_finger_is_answered_with_the_nearest_command(use: Callable[..., Done]) -> None:
    done = use("algin")
    assert done.code == 2 and "Did you mean 'align'?" in done.err
