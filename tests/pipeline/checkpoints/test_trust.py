"""A run or a model that somebody sent runs nothing of its own, whichever command reads it, and says so in one line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.checkpoints import checkpoint, weights_only
from pipeline.checkpoints.manifest import MANIFEST, read_manifest, write_info
from pipeline.checkpoints.reshard import read_and_check
from pipeline.weights.consolidate import full_state
from tests.pipeline.conftest import Done
from tests.pipeline.run_kit import CHECKPOINT, make_run

Use = Callable[..., Done]
MODEL = "mp_rank_00_model_states.pt"


class Harm:
    """Unpickled without care, it touches a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.place),))


@pytest.fixture
def run(hf_dir: Path, tmp_path: Path) -> Path:
    return make_run(hf_dir, tmp_path)


@pytest.fixture
def harm(tmp_path: Path) -> Path:
    return tmp_path / "harm"


def plant(run: Path, harm: Path, name: str = MODEL, listed: bool = True) -> None:
    """Put code into a file of the checkpoint, and seal it anew as its sender would."""
    folder = run / CHECKPOINT
    content = torch.load(folder / MODEL, weights_only=True)
    torch.save({**content, "harm": Harm(harm)}, folder / name)
    if listed:
        info = read_manifest(folder)
        info.files = {}
        (folder / MANIFEST).unlink()
        checkpoint.seal(folder, info)


COMMANDS = {
    "align": ["align", "{run}", "-"],
    "export": ["export", "{run}", "{tmp}/out"],
    "evaluate": ["evaluate", "{run}", "--gold", "{gold}"],
    "show": ["show", "{run}", "the fox", "der fuchs", "--out", "{tmp}/x.html"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_code_in_a_checkpoint_is_not_run(use: Use, run: Path, harm: Path, gold_dir: Path, command: str) -> None:
    plant(run, harm)
    words = [word.format(run=run, tmp=run.parent, gold=gold_dir) for word in COMMANDS[command]]
    done = use(*words, stdin=b"a ||| b\n")
    assert done.code == 1 and f"{MODEL}: holds posix.mkdir, which no training stores" in done.error
    assert not harm.exists()


def test_code_that_the_manifest_does_not_list_is_not_run(use: Use, run: Path, harm: Path) -> None:
    plant(run, harm, "zero_pp_rank_0_mp_rank_00_optim_states.pt", listed=False)
    done = use("align", run, "-", stdin=b"a ||| b\n")
    assert done.code == 1 and "is not listed in manifest.json" in done.error and not harm.exists()


def test_code_in_a_checkpoint_is_not_resumed(run: Path, harm: Path) -> None:
    plant(run, harm)
    with pytest.raises(ValueError, match=r"holds posix\.mkdir, which no training stores"):
        read_and_check(run / CHECKPOINT)
    with pytest.raises(ValueError, match="posix"), weights_only.reading(run), weights_only.refusing_code():
        torch.load(run / CHECKPOINT / MODEL, weights_only=False)  # as DeepSpeed does
    assert not harm.exists()


@pytest.mark.parametrize("name", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
def test_the_environment_cannot_allow_it_and_is_left_as_it_was(
    run: Path, harm: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(run, harm)
    monkeypatch.setenv(name, "1")
    with pytest.raises(ValueError, match="posix"), weights_only.reading(run), weights_only.refusing_code():
        torch.load(run / CHECKPOINT / MODEL, weights_only=False)
    assert os.environ[name] == "1" and not harm.exists()
    with pytest.raises(ValueError, match="posix"):
        full_state(run / CHECKPOINT, read_manifest(run / CHECKPOINT))


def test_what_deepspeed_stores_is_all_that_is_let_through() -> None:
    """The types are found, by their names, in the DeepSpeed that is installed, and are plain data."""
    for name in sorted(weights_only.STORED_TYPES):
        assert f"{weights_only._type(name).__module__}.{weights_only._type(name).__qualname__}" == name
    with weights_only.refusing_code():
        assert len(torch.serialization.get_safe_globals()) == len(weights_only.STORED_TYPES)


def test_what_other_libraries_tell_pytorch_to_take_is_not_let_through(tmp_path: Path) -> None:
    """Megatron-Core, once imported by whatever library looks for it, has paths and signals taken everywhere."""
    file = tmp_path / "x.pt"
    torch.save({"path": tmp_path}, file)
    with torch.serialization.safe_globals([type(tmp_path)]):
        before = torch.serialization.get_safe_globals()
        with pytest.raises(ValueError, match=r"x\.pt: holds pathlib\.PosixPath"):
            weights_only.check([file])
        with pytest.raises(ValueError, match=r"x\.pt: holds pathlib\.PosixPath"):
            weights_only.read(file)
        with pytest.raises(ValueError, match="PosixPath"), weights_only.reading(file), weights_only.refusing_code():
            torch.load(file, weights_only=False)
        assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize("content", [b"", b"PK", b"cposix\nmkdir\n(S'harm'\ntR.", b"\x80\x04."])
def test_a_file_that_is_no_checkpoint_s_is_one_line(run: Path, content: bytes) -> None:
    path = run / CHECKPOINT / MODEL
    path.write_bytes(content)
    info = read_manifest(run / CHECKPOINT)
    with pytest.raises(ValueError, match=rf"{MODEL}: cannot be read \(.*\); give another checkpoint"):
        full_state(run / CHECKPOINT, info)


@pytest.mark.parametrize("content", [[], {"module": 3}, {"module": {"a": 1}}, {}])
def test_a_checkpoint_without_weights_is_one_line(use: Use, run: Path, content: Any) -> None:
    torch.save(content, run / CHECKPOINT / MODEL)
    info = read_manifest(run / CHECKPOINT)
    info.files = {}
    (run / CHECKPOINT / MANIFEST).unlink()
    checkpoint.seal(run / CHECKPOINT, info)
    assert "holds no weights of a model" in use("export", run, run.parent / "hf").error


def test_wrong_sizes_in_a_checkpoint_are_one_line(use: Use, run: Path) -> None:
    whole = read_manifest(run / CHECKPOINT)
    for encoder in (
        {},
        {**whole.encoder, "layers": "3"},
        {**whole.encoder, "depth": 3},
        {**whole.encoder, "layers": 2**31},
    ):
        info = read_manifest(run / CHECKPOINT)
        info.encoder = encoder
        write_info(run / CHECKPOINT, info)
        done = use("align", run, "-", stdin=b"a ||| b\n")
        assert done.code == 1 and done.error


@pytest.mark.parametrize("beside", ["manifest.json", "checkpoints", "both"])
def test_a_hugging_face_folder_is_one_whatever_lies_beside_its_weights(
    use: Use, hf_dir: Path, run: Path, harm: Path, beside: str
) -> None:
    plant(run, harm)
    folder = run.parent / "hf"
    shutil.copytree(hf_dir, folder)
    if beside != "manifest.json":
        shutil.copytree(run / "checkpoints", folder / "checkpoints")
    if beside != "checkpoints":
        shutil.copytree(run / CHECKPOINT, folder, dirs_exist_ok=True)
    done = use("align", folder, "-", stdin=b"the fox ||| der fuchs\n")
    assert done.code == 0 and done.out == use("align", hf_dir, "-", stdin=b"the fox ||| der fuchs\n").out
    assert not harm.exists()
    if beside != "manifest.json":
        done = use("align", folder, "-", stdin=b"the fox ||| der fuchs\n")
        assert "the Hugging Face model is taken, not the checkpoints beside it" in done.err
    assert use("export", folder, run.parent / "out").code == 0
    found, expected = (load_file(place / "model.safetensors") for place in (run.parent / "out", hf_dir))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert not harm.exists()
