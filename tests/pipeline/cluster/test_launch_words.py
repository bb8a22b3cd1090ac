"""What other hosts' shells do with the words of a command: nothing. And who can read a user's variables: the ranks alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster import environment as launch_environment
from pipeline.cluster.hostfile import read_hostfile, write_hostfile
from pipeline.cluster.options import parse
from pipeline.host import process

SSH = """#!/usr/bin/env bash
# Stands for sshd on another host: hands the command to a shell, as it does.
while [ $# -gt 0 ]; do
    case $1 in -l | -o | -p) shift 2 ;; -*) shift ;; *) break ;; esac
done
shift
exec sh -c "$*"
"""
RANK = """import json, os, sys
place = sys.argv[sys.argv.index("--") + 1]
with open(os.path.join(place, os.environ["RANK"]), "w") as file:
    json.dump({"words": sys.argv[1:], "folder": os.getcwd(), "path": sys.path, "environment": dict(os.environ),
               "line": open(f"/proc/{os.getppid()}/cmdline").read()}, file)
"""
TOUCHES = ("$(touch {0}/ran)", "`touch {0}/ran`", "'; touch {0}/ran; '", '"; touch {0}/ran; "', "a\ntouch {0}/ran\n")
OTHERS = ("a b", "%h %n %u %%", "\\", "*", "~", "!!", "#", "", "a=$HOME", "\t", "é", "'\"'", "&", "|cat", ">x", "-x")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A package at a path that a shell would take apart, whose train.py writes down what it is started with."""
    folder = tmp_path / "a 'clone' $(id) (1) %h" / "pipeline"
    (folder / "cluster").mkdir(parents=True)
    for name in ("start_rank.py", "deepspeed_launcher.py"):
        shutil.copy(process.OUR_FOLDER / name, folder / "cluster" / name)
    (folder / "train.py").write_text(RANK)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ssh").write_text(SSH)
    (tools / "ssh").chmod(0o755)
    return folder


@pytest.mark.skipif(not shutil.which("pdsh"), reason="apt-get install pdsh")
def test_words_arrive_as_they_were_given(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "here $(id) 'n' %h"
    (where / "deepspeed").mkdir(parents=True)
    for name in ("random.py", "torch.py", "deepspeed/__init__.py"):
        (where / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(where)
    monkeypatch.setattr(process, "OUR_FOLDER", clone / "cluster")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".deepspeed_env").write_text(
        f"HF_TOKEN=$(touch {tmp_path}/ran) sec'ret\nNCCL_X=$(touch {tmp_path}/ran)\n"
    )
    out = tmp_path / "answers"
    out.mkdir()
    words = ["--", str(out), *(word.format(tmp_path) for word in TOUCHES), *OTHERS]
    write_hostfile(tmp_path / "hosts", {"h1": [0], "h2": [0]})

    public, private = launch_environment.carried({**os.environ, "MLFLOW_TOKEN": "sec'ret"}, "pdsh", {"JOB": "1"})
    launch_environment.write_lines(tmp_path / "public", public)
    for_ranks = (str(tmp_path / "private"), launch_environment.write_json(tmp_path / "private", private))
    launcher = [f"--hostfile={tmp_path / 'hosts'}", "--no_ssh_check", "--master_addr=127.0.0.1"]
    command = process.deepspeed_command(launcher, words, for_ranks)
    assert not any("sec'ret" in word for word in command)
    environment = {
        **os.environ,
        **process.SAFE_PATH,
        "PATH": f"{tmp_path / 'tools'}{os.pathsep}{os.environ['PATH']}",
        "DS_ENV_FILE": str(tmp_path / "public"),
        "DS_ACCELERATOR": "cpu",
    }
    done = subprocess.run(
        command, cwd=process.LAUNCHER_FOLDER, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()
    for rank in ("0", "1"):
        found = json.loads((out / rank).read_text())
        assert found["words"] == words and found["folder"] == str(where)
        assert found["environment"]["HF_TOKEN"] == f"$(touch {tmp_path}/ran) sec'ret"
        assert found["environment"]["MLFLOW_TOKEN"] == "sec'ret"  # noqa: S105 (none)
        assert found["environment"]["NCCL_X"] == f"$(touch {tmp_path}/ran)"
        assert str(where) not in found["path"] and "" not in found["path"]
        assert "sec'ret" not in found["line"]
    assert "sec'ret" not in done.stdout + done.stderr


def test_a_file_of_variables_that_is_another_is_refused(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "variables").write_text('{"LD_PRELOAD": "evil.so"}')
    digest = hashlib.sha256(b"{}").hexdigest()
    command = [
        sys.executable,
        str(clone / "cluster" / "start_rank.py"),
        str(tmp_path),
        str(tmp_path / "variables"),
        digest,
    ]
    done = subprocess.run(
        [*command, "--", str(tmp_path)], capture_output=True, text=True, env={**os.environ, "RANK": "0"}
    )
    assert done.returncode == 1 and not (tmp_path / "0").exists()
    assert done.stderr == f"error: {tmp_path}/variables: is not what this job was started with; start it again\n"


@pytest.mark.parametrize(
    "name", ["-oProxyCommand=x", "$(id)", "a;b", "a`id`", "a,b", "n[1-3]", "^file", "a/b", "a@b@c", "-x@a", "ä", "a:b"]
)
def test_what_is_no_host_s_name_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "h").write_text(f"{name} slots=1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is no host's name: letters, digits") as caught:
        read_hostfile(tmp_path / "h")
    assert str(caught.value).startswith(f"{tmp_path}/h:1: ")
    (tmp_path / "c.yaml").touch()
    with pytest.raises(ValueError, match=r"--master_addr: .* is no host's name"):
        parse(["train", str(tmp_path / "c.yaml"), "--hostfile", "h", f"--master_addr={name}"])
