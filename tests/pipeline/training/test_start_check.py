"""What a config, its files or its folders forbid is one line before ranks start, and nothing that is slow is loaded for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from data_prep.files import canonical_json
from pipeline.settings.schema import load_config
from pipeline.training.start_check import check_start

MISTAKES = {
    "nothing_there": (["data.path={root}/none"], "none/manifest.json: no such file"),
    "no_data_for_an_objective": (["objectives.mlm={{}}"], "holds no mono data"),
    "no_links_for_an_objective": (
        ["objectives.token_contrast={{layer: 1, labels: links}}"],
        "x-0: these pairs (de-en) have no word links, which labels = links asks for",
    ),
    "no_pairs_of_a_direction": (
        [
            "objectives={{mlm: null, tlm: null, dwa: null, mt: {{directions: [en-de, en-fr]}}}}",
            "model.decoder={{layers: 1}}",
        ],
        "objectives.mt.directions = en-de, en-fr: no pairs of en-fr are read from {root}/data; de-en are",
    ),
    "weights_for_another_language": (["data.weights={{pairs: {{en-fr: 1}}}}"], "data.weights: de-en, en-fr is either"),
    "no_model": (["model.init={root}/none"], "model.init = {root}/none: no such folder or file; give a Hugging Face"),
    "layer_beyond_the_model": (["objectives.dwa.alignment_layer=3"], "alignment_layer = 3: the model has 2 layers"),
    "layer_beyond_a_loaded_model": (
        ["model.init={root}/hf", "objectives.dwa.alignment_layer=7"],
        "alignment_layer = 7: the model has 6 layers; choose 0 to 6",
    ),
    "longer_than_a_loaded_model": (
        ["model.init={root}/hf", "data.side_tokens=300"],
        "512 positions, data.block_tokens and data.side_tokens need 603; lower them",
    ),
    "batch_that_cannot_be_cut": (["batch.pairs=5"], "batch.pairs = 5 cannot be cut into 2 ranks"),
    "run_s_folder_is_a_file": (["run.out={root}/config.yaml/run"], "config.yaml is no folder; choose another"),
    "run_s_folder_is_the_data_s": (["run.out={root}/data"], "data: is data.path too; choose another folder"),
    "no_deepspeed_file": (["deepspeed={root}/none.json"], "none.json: cannot read the DeepSpeed config"),
    "fp16_on_a_cpu": (["deepspeed=zero1_fp16"], "fp16 needs a GPU"),
    "offload_on_a_cpu": (["deepspeed=zero1_offload_bf16"], "offload needs a GPU"),
    "no_gold": (["validation.gold=[{root}/none]"], "validation.gold: {root}/none: no such file or folder"),
    "no_retrieval": (["validation.retrieval=[{root}/none]"], "validation.retrieval: {root}/none"),
    "validation_of_another_tokenizer": (["validation.data={root}/other"], "made with another tokenizer"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config, a data folder with pairs alone, one of another tokenizer, and a Hugging Face folder without weights."""
    root = tmp_path_factory.mktemp("start")
    for name, sha in (("data", "a" * 64), ("other", "b" * 64)):
        shard = {
            "stem": "pair/de-en/x-0",
            "kind": "pair",
            "languages": ["de", "en"],
            "counts": {"documents": 2, "sequences": 4, "tokens": 12, "max_length": 3},
            "files": {suffix: {"bytes": 8, "sha256": "0" * 64} for suffix in ("bin", "idx")},
        }
        content = {"schema": 1, "tokenizer": {"sha256": sha, "vocab_size": 100}, "shards": [shard], "sources": []}
        (root / name / "pair" / "de-en").mkdir(parents=True)
        for suffix in ("bin", "idx"):
            (root / name / "pair" / "de-en" / f"x-0.{suffix}").write_bytes(bytes(8))
        (root / name / "manifest.json").write_bytes(canonical_json(content))
    (root / "hf").mkdir()
    (root / "hf" / "config.json").write_text(json.dumps({"num_hidden_layers": 6, "max_position_embeddings": 514}))
    config = {
        "data": {"path": str(root / "data"), "side_tokens": 30},
        "model": {"layers": 2, "hidden": 16, "heads": 2, "feed_forward": 32},
        "objectives": {"mlm": None, "dwa": {"alignment_layer": 1}},
        "batch": {"mono": 4, "pairs": 8},
        "run": {"out": str(root / "run"), "steps": 3},
        "deepspeed": "zero0_fp32",
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return root


def check(root: Path, *settings: str, resume: str | None = None) -> None:
    config = load_config(root / "config.yaml", [setting.format(root=root) for setting in settings])
    check_start(config, resume, 2, "cpu")


def test_what_can_train_is_let_through_and_nothing_is_made(root: Path) -> None:
    check(root)
    check(root, "model.init={root}/hf", "objectives.dwa.alignment_layer=6", "data.weights={{pairs: {{de-en: 1}}}}")
    assert not (root / "run").exists()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_names_it(root: Path, mistake: str) -> None:
    settings, part = MISTAKES[mistake]
    with pytest.raises(ValueError, match=re.escape(part.format(root=root))) as caught:
        check(root, *settings)
    assert "\n" not in str(caught.value)


def test_a_folder_with_checkpoints_wants_a_word_and_one_without_has_nothing_to_resume(
    root: Path, tmp_path: Path
) -> None:
    sealed = tmp_path / "run" / "checkpoints" / "step_00000001"
    sealed.mkdir(parents=True)
    (sealed / "manifest.json").write_text("{}")
    out = f"run.out={tmp_path / 'run'}"
    with pytest.raises(ValueError, match="holds checkpoints of a run; add --resume auto"):
        check(root, out)
    for resume in ("auto", str(tmp_path / "run"), str(sealed)):
        check(root, out, resume=resume)
    with pytest.raises(ValueError, match=r"--resume .*: nothing to resume there; give a run folder"):
        check(root, resume=str(tmp_path))


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may write into, root included, to whom permissions say nothing."""
    folder = tmp_path / "unwritable"
    folder.mkdir(mode=0o500)
    mounted = os.geteuid() == 0
    if mounted and subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("root without the right to mount")
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_that_cannot_be_written_is_named(root: Path, unwritable: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be written \(permission denied, or mounted read-only\)"):
        check(root, f"run.out={unwritable / 'run'}")


LIGHT = {
    "train": ["pipeline.cluster.launch", "train", "{config}", "optimizer.lrr=1"],
    "check": ["pipeline.cluster.launch", "check", "{config}"],
    "finished": ["pipeline.cluster.finished", "{config}"],
    "dry-run": ["pipeline", "dry-run", "{config}", "--device", "cpu", "--gpus", "1"],
    "plan": ["pipeline", "plan", "{config}", "--gpus", "1", "deepspeed=zero1_bf16", "data.path=none"],
}
SPY = """import runpy, sys
try: runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
except SystemExit as end: print("code", end.code or 0)
print("loaded", sorted({"torch", "deepspeed", "transformers", "matplotlib"} & sys.modules.keys()))"""


@pytest.mark.parametrize("command", LIGHT)
def test_what_needs_no_tensors_loads_no_pytorch(root: Path, command: str) -> None:
    words = [word.format(config=root / "config.yaml") for word in LIGHT[command]]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SPY, *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.splitlines()[-1] == "loaded []", done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_typo_is_one_line_and_nothing_of_deepspeed(root: Path) -> None:
    words = [sys.executable, "-m", "pipeline.cluster.launch", "train", str(root / "config.yaml"), "optimizer.lrr=1"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line == f"error: {root / 'config.yaml'}: unknown key optimizer.lrr; did you mean optimizer.lr?"


def test_this_machine_is_checked_in_every_point(root: Path, tmp_path: Path) -> None:
    def checked(*settings: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "pipeline.cluster.launch", "check", str(root / "config.yaml"), *settings]
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "COLUMNS": "200"}
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment)

    found = checked(f"data.path={root / 'none'}")
    assert found.returncode == 1
    for name in ("DeepSpeed JSON", "data", "run.out", "disk", "memory", "port", "/dev/shm", "compiler"):
        assert name in found.stdout
    (error,) = found.stderr.splitlines()
    assert error.startswith(f"error: data: {root}/none/manifest.json: no such file; give a folder written by")
    row = next(line for line in found.stdout.splitlines() if "validation" in line)
    assert "not checked" in row, "what depends on it is neither ok nor a second failure"
    assert not (root / "run").exists()
