"""`launch.sh` itself: its help, an environment that is not whole, two starts at once, and what lies in the caller's folder."""

from __future__ import annotations

import os
import shutil
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

PYTHON = """#!/usr/bin/env bash
# Stands for an environment's Python: says what it was called with, and is as whole as its folder's files say.
echo "python $* safe=${PYTHONSAFEPATH:-}" >> "$HERE/calls"
case "$*" in
    "-I -c import sys; sys.exit(sys.prefix"*) [ -e "$HERE/.venv/pyvenv.cfg" ] ;;
    "-I -m venv"*) touch "$HERE/.venv/pyvenv.cfg" ;;
    "-I -m pip --version") [ -e "$HERE/pip" ] ;;
    "-I -m ensurepip") [ ! -e "$HERE/beyond-repair" ] && touch "$HERE/pip" ;;
    "-I -m pip install"*)
        echo "install begins" >> "$HERE/calls"; sleep "${INSTALLS:-0}"; echo "install ends" >> "$HERE/calls" ;;
    "--version") echo "Python 3.11.0" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with launch.sh, and an environment in which only pip is missing."""
    folder = tmp_path / "a 'clone' $(touch ran) (1) [x] \"q\""
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "pyvenv.cfg").touch()
    for name in ("launch.sh", "setup.cfg", "constraints.txt", "constraints-oldest.txt"):
        shutil.copy(ROOT / name, folder / name)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return folder


def without_safe_path() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}


def start(clone: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    variables = {**without_safe_path(), "HERE": str(clone), "DS_ACCELERATOR": "cpu", **environment}
    variables.setdefault("XDG_CACHE_HOME", str(clone.parent / "caches"))
    return subprocess.Popen(
        [str(clone / "launch.sh"), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
    )


def run(clone: Path, *words: str, **environment: str) -> tuple[int, str, str]:
    process = start(clone, *words, **environment)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def calls(clone: Path) -> list[str]:
    file = clone / "calls"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_is_data_and_no_mistake(clone: Path, word: str) -> None:
    code, output, errors = run(clone, word)
    assert code == 0 and not errors and not calls(clone)
    assert output.startswith("Usage:\n  ./launch.sh setup ") and "./launch.sh check CONFIG" in output
    assert "#" not in output and "set -euo" not in output


def test_an_unknown_command_is_one_line_and_code_2(clone: Path) -> None:
    code, output, errors = run(clone, "trian")
    assert (code, output) == (2, "")
    known = "setup, quickstart, test, test-oldest, train or check"
    assert errors == f"error: trian: no such command; choose {known} (--help says more)\n"
    code, output, errors = run(clone)
    assert (code, output) == (2, "") and errors.startswith("Usage:\n")


def test_an_environment_without_pip_is_made_whole(clone: Path) -> None:
    code, output, errors = run(clone, "setup")
    assert code == 0, errors
    assert ".venv has no pip, as an interrupted setup leaves it: adding it" in errors
    assert "ready: .venv (Python 3.11.0)" in output
    assert any("-m pip install" in call for call in calls(clone))
    done = len(calls(clone))
    assert run(clone, "setup")[0] == 0
    assert not any("pip" in call for call in calls(clone)[done:]), "what is whole is not looked at again"


def test_the_oldest_versions_have_an_environment_of_their_own(clone: Path) -> None:
    (clone / "pip").touch()
    shutil.copytree(clone / ".venv", clone / ".venv-oldest")
    code, output, errors = run(clone, "test-oldest", "-x")
    assert code == 0, errors
    assert "installing (test) into .venv-oldest" in output
    installs = [call for call in calls(clone) if "-m pip install" in call]
    assert installs and all("-c constraints-oldest.txt" in call for call in installs)
    assert any("-m pytest" in call and " -x " in call for call in calls(clone))
    assert not list((clone / ".venv").glob(".installed-*"))


def test_an_environment_beyond_repair_is_named_and_left_alone(clone: Path) -> None:
    (clone / "beyond-repair").touch()
    (clone / ".venv" / "mine").touch()
    code, _, errors = run(clone, "setup")
    assert code == 1 and "/.venv is not whole; delete it, and start again" in errors
    assert (clone / ".venv" / "mine").exists()


def test_a_clone_at_an_odd_path_is_used_by_a_link_to_it(clone: Path) -> None:
    """PyTorch's ninja files and the first lines of pip's scripts do not quote the paths in them."""
    (clone / "pip").touch()
    for _ in range(2):
        assert run(clone, "setup")[0] == 0
    (link,) = (clone.parent / "caches" / "xlm-align").iterdir()
    assert link.resolve() == clone and set(str(link)) <= set(string.ascii_letters + string.digits + "_-/.")
    assert not (clone.parent / "ran").exists() and not (clone / "ran").exists()
    code, _, errors = run(clone, "setup", XDG_CACHE_HOME=str(clone.parent / "my caches"))
    assert code == 1 and "my caches/xlm-align: PyTorch cannot build at such a path, nor at" in errors


def test_two_starts_at_once_wait_for_each_other(clone: Path) -> None:
    (clone / "pip").touch()
    first = start(clone, "setup", INSTALLS="3")
    end = time.monotonic() + 30
    while "install begins" not in calls(clone):
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.02)
    code, _, errors = run(clone, "setup", INSTALLS="3")
    assert first.wait(30) == 0 and code == 0
    assert "waiting for another ./launch.sh that sets up .venv" in errors
    assert [call for call in calls(clone) if call.startswith("install")] == ["install begins", "install ends"]


@pytest.mark.parametrize("command", ["train", "check", "quickstart"])
def test_modules_of_the_caller_s_folder_are_not_taken_for_python_s(clone: Path, command: str) -> None:
    (clone / "pip").touch()
    assert run(clone, command, "my.yaml")[0] == 0
    assert calls(clone)[-1].endswith("my.yaml safe=1")
    assert all(
        call.startswith("python -I ") for call in calls(clone) if call.startswith("python") and "--version" not in call
    )


def test_an_environment_without_its_settings_is_made_again(clone: Path) -> None:
    (clone / "pip").touch()
    (clone / ".venv" / "pyvenv.cfg").unlink()
    code, _, errors = run(clone, "setup", PYTHON=str(clone / ".venv" / "bin" / "python"))
    assert code == 0, errors
    assert (clone / ".venv" / "pyvenv.cfg").exists(), "pip would have installed into the Python it was made with"


def test_only_the_lock_of_a_build_that_was_killed_is_removed(clone: Path) -> None:
    (clone / "pip").touch()
    killed, held = (clone / ".venv" / "torch_extensions" / name / "lock" for name in ("killed", "it's held"))
    for lock in (killed, held):
        lock.parent.mkdir(parents=True)
        lock.touch()
    with held.open():  # as PyTorch's build keeps it
        code, _, errors = run(clone, "train", "my.yaml", TORCH_EXTENSIONS_DIR=str(clone / ".venv" / "torch_extensions"))
    assert code == 0 and f"removed the lock of a build that was killed: {killed}\n" in errors
    assert held.exists() and not killed.exists() and str(held) not in errors


@pytest.mark.skipif(not (ROOT / ".venv" / ".installed-runtime").exists(), reason="needs ./launch.sh setup")
@pytest.mark.parametrize("command", ["train", "check", "quickstart", "xlm-align"])
def test_code_in_the_caller_s_folder_does_not_run(command: str, tmp_path: Path) -> None:
    """The real launch.sh, up to the one line that says that there is no such config, or what --help says."""
    for name in ("random", "torch", "pipeline", "json", "encodings", "sitecustomize", "pip", "typing", "os", "site"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').write(__file__)")
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("open('ran', 'w').write(__file__)")
    words = [str(ROOT / "launch.sh"), command, "none.yaml"]
    if command == "quickstart":
        words[-1] = "--help"
    elif command == "xlm-align":
        words = [str(Path(sys.executable).with_name("xlm-align")), "align", "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=without_safe_path())
    assert not (tmp_path / "ran").exists(), (tmp_path / "ran").read_text()
    assert "--help" in done.stdout if words[-1] == "--help" else "none.yaml: no such config" in done.stderr, done.stderr
