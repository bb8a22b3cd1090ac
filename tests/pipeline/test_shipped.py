"""What the package brings is found by name from any folder, a user's own file comes first, and the wheel holds it all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline import shipped
from pipeline.experiments.plan import read_experiment
from pipeline.settings.schema import load_config
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is not the repository's, in which everything here is done."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", ["mlm", "mlm.yaml", "configs/mlm.yaml", "pipeline/configs/mlm.yaml"])
def test_a_shipped_config_is_found_by_name_and_finds_its_deepspeed_file(name: str) -> None:
    config = load_config(Path(name))
    assert config == load_config(ROOT / "pipeline" / "configs" / "mlm.yaml")
    assert config.deepspeed == ROOT / "ds_configs" / "zero1_fp16.json"


def test_a_file_of_the_user_comes_before_a_shipped_one(elsewhere: Path) -> None:
    (elsewhere / "mlm").mkdir()
    assert load_config(Path("mlm")).run.steps == 200_000, "a folder of that name is no config"
    (elsewhere / "mlm.yaml").write_text("data: {path: d}\nrun: {out: r, steps: 3}\ndeepspeed: mlm.json\n")
    assert load_config(Path("mlm.yaml")).run.steps == 3


@pytest.mark.parametrize("given", ["xlm_align_bas", "pipeline/configs/xlm_align_bas.yaml", "/none/xlm_align_bas.yaml"])
def test_a_config_that_is_not_there_names_those_that_are(given: str) -> None:
    with pytest.raises(
        ValueError, match=r"no such config, neither as a file nor by name; shipped are .*xlm_align_base"
    ):
        load_config(Path(given))


def test_a_deepspeed_file_is_looked_up_beside_the_config_then_among_the_shipped(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "ds_configs").mkdir(parents=True)
    for name in ("own.json", "ds_configs/zero1_fp16.json"):
        (folder / name).write_text("{}")

    def found(name: str, *overrides: str) -> Path:
        (folder / "my.yaml").write_text(f"data: {{path: d}}\nrun: {{out: r}}\ndeepspeed: {name}\n")
        return load_config(folder / "my.yaml", overrides).deepspeed

    assert found("own.json") == folder / "own.json"
    assert found("ds_configs/zero1_fp16.json") == folder / "ds_configs" / "zero1_fp16.json"
    assert found("ds_configs/zero2_bf16.json") == ROOT / "ds_configs" / "zero2_bf16.json"
    assert found("zero2_bf16") == ROOT / "ds_configs" / "zero2_bf16.json"
    assert found("none.json") == folder / "none.json", "so that the error names the place"


def test_a_deepspeed_file_of_the_command_line_is_the_caller_s(elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("data: {path: d}\nrun: {out: r}\ndeepspeed: own.json\n")
    for folder in (tmp_path, elsewhere):
        (folder / "own.json").write_text("{}")
    assert load_config(tmp_path / "my.yaml").deepspeed == tmp_path / "own.json"
    given = load_config(tmp_path / "my.yaml", ["deepspeed=own.json"]).deepspeed
    assert given.resolve() == elsewhere / "own.json"
    assert load_config(tmp_path / "my.yaml", ["deepspeed=zero0_fp32"]).deepspeed == ROOT / "ds_configs/zero0_fp32.json"


def test_a_run_s_config_means_the_same_from_another_folder(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "models" / "x").mkdir(parents=True)  # else it is the name of a model of the hub
    asked = ["data.path=data", "run.out=runs/a", "validation.gold=[gold]", "model.init=models/x"]
    config = load_config(Path("xlm_align_base"), asked)
    (tmp_path / "kept.yaml").write_text(config.dump(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    kept = load_config(tmp_path / "kept.yaml")
    assert (kept.data.path, kept.run.out) == (elsewhere / "data", elsewhere / "runs" / "a")
    assert (kept.validation.gold, kept.model.init) == ([elsewhere / "gold"], elsewhere / "models" / "x")
    assert kept.deepspeed == ROOT / "ds_configs" / "zero1_fp16.json"


def test_a_shipped_experiment_is_found_by_name() -> None:
    assert read_experiment(Path("generated")) == read_experiment(ROOT / "pipeline/experiments/generated.yaml")
    with pytest.raises(ValueError, match=r"nosuch: no such experiment.*ablations"):
        read_experiment(Path("nosuch"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a wheel that was built from this tree, as an installation has them."""
    root = tmp_path_factory.mktemp("wheel")
    tree = root / "tree"
    for name in ("data_prep", "pipeline", "kernels", "ds_configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", root, tree]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(root.glob("*.whl"))) as wheel:
        wheel.extractall(root / "site")
    return root / "site"


def test_the_wheel_holds_every_module_and_every_shipped_file(installed: Path) -> None:
    def files(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if path.suffix in (".py", ".yaml", ".json", ".c"))
        return {path.relative_to(folder).as_posix() for path in found if "__pycache__" not in path.parts}

    assert files(installed / "data_prep") == files(ROOT / "data_prep")
    assert files(installed / "sinkhorn_align") == files(ROOT / "kernels" / "sinkhorn_align")
    jsons = {f"ds_configs/{name}" for name in files(ROOT / "ds_configs")}
    assert files(installed / "pipeline") == files(ROOT / "pipeline") | jsons


def test_an_installed_package_finds_its_configs_and_deepspeed_files(installed: Path, elsewhere: Path) -> None:
    script = "import json, pipeline.settings.schema as c; from pathlib import Path; n = c.load_config(Path('mlm')); "
    script += "print(json.dumps([c.__file__, str(n.deepspeed), n.deepspeed.is_file()]))"
    # The wheel's files come first, then those that the environment has: nothing of the repository.
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=elsewhere
    )
    module, deepspeed, there = json.loads(done.stdout)
    assert Path(module).is_relative_to(installed) and there
    assert Path(deepspeed) == installed / "pipeline" / "ds_configs" / "zero1_fp16.json"


def test_every_shipped_config_names_a_shipped_deepspeed_file() -> None:
    for name in shipped.names(shipped.CONFIGS):
        assert load_config(Path(name)).deepspeed.is_relative_to(shipped.DEEPSPEED_JSONS), name
