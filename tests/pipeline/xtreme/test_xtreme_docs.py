"""The commands and options of docs/xtreme.md are those of the commands."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.xtreme.recipes import Changes, recipe_of
from tests.conftest import ROOT
from tests.pipeline.conftest import Done
from tests.pipeline.xtreme.test_hub_data import hub
from tests.pipeline.xtreme.test_run import Training, trainings

__all__ = ["hub", "trainings"]

TEXT = (ROOT / "docs" / "xtreme.md").read_text(encoding="utf-8")
COMMANDS = [line for line in TEXT.splitlines() if line.startswith("python -m pipeline ")]


def test_the_commands_of_the_page_in_their_order(
    use: Callable[..., Done],
    trainings: list[Training],
    download: Path,
    hub: tuple[Path, Path],
    model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hf").mkdir()
    Path("hf/base").symlink_to(model_dir)
    Path("download").symlink_to(download)
    for command in COMMANDS:
        if " xtreme-sample " in command:
            Path("download").unlink()
        words = shlex.split(command)[3:]
        here = {"xtreme": ["--layer", "1"], "xtreme-download": ["--dataset", str(hub[0]), "--multi-nli", str(hub[1])]}
        done = use(*words, *here.get(words[0], []))
        assert done.code == 0, (command, done.err)
    assert len(COMMANDS) == 5
    assert len({each.seed for each in trainings}) == 5
    listed = re.findall(r"^OUT/(\S+?)[,/]? .*?$", TEXT, re.MULTILINE)
    for name in [*listed, "row.tex"]:
        assert Path("xtreme/base", name).exists(), name
    shutil.rmtree("xtreme")


def test_every_option_stands_on_the_page(use: Callable[..., Done]) -> None:
    named = set(re.findall(r"`(--[a-z][a-z0-9-]+)", TEXT)) | {"--data", "--out"}
    offered = {
        option
        for command in ("xtreme", "xtreme-sample", "xtreme-check", "xtreme-download")
        for option in re.findall(r"--[a-z][a-z0-9-]+", use(command, "--help").out)
    } - {"--help", "--local-dir", "--verbose"}
    assert named == offered


def test_the_settings_of_the_page_are_the_recipes() -> None:
    for name, rate, epochs in (("xnli", "2e-5", 5), ("panx", "2e-5", 10), ("mlqa", "3e-5", 3)):
        (settings,) = recipe_of(name, "none", Changes()).candidates
        assert (settings.learning_rate, settings.epochs) == (float(rate), epochs)
        assert f"{rate}, {epochs} epochs" in TEXT
