"""What a launch is told, and what it carries to other hosts: options, hostfiles, environment files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cluster import environment as launch_environment
from pipeline.cluster.attempt import exit_code, explain
from pipeline.cluster.finished import ends, finished
from pipeline.cluster.hostfile import include_of, read_hostfile, select, write_hostfile
from pipeline.cluster.options import parse
from pipeline.config import load_config

HOSTS = {"a": [0, 1], "b": [0, 1], "c": [0]}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text("data: {path: d}\nrun: {out: r, steps: 5}\ndeepspeed: z.json\n")
    return path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, HOSTS),
        ({"include": "c@a:1"}, {"a": [1], "c": [0]}),
        ({"exclude": "b@a:0"}, {"a": [1], "c": [0]}),
        ({"num_nodes": 2}, {"a": [0, 1], "b": [0, 1]}),
        ({"num_nodes": 2, "num_gpus": 1}, {"a": [0], "b": [0]}),
    ],
)
def test_options_select_the_hosts_that_deepspeed_would(options: dict, expected: dict) -> None:
    from deepspeed.launcher.runner import apply_num_nodes_and_gpus, parse_inclusion_exclusion

    assert select(HOSTS, **options) == expected
    pool = {host: len(slots) for host, slots in HOSTS.items()}
    theirs = parse_inclusion_exclusion(pool, options.get("include", ""), options.get("exclude", ""))
    assert apply_num_nodes_and_gpus(theirs, options.get("num_nodes", -1), options.get("num_gpus", -1)) == expected


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"include": "d"}, "--include d: d is not in the hostfile"),
        ({"include": "a:5"}, "a has slots 0 to 1, not 5"),
        ({"exclude": "a@b@c"}, "no slot is left"),
        ({"include": "a", "exclude": "b"}, "give one of them"),
        ({"include": "a", "num_gpus": 1}, "do not go with"),
        ({"include": "a:x"}, "write a:0,1 for slots"),
    ],
)
def test_impossible_selections_are_refused(options: dict, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        select(HOSTS, **options)


def test_a_written_hostfile_and_include_give_the_same_slots_again(tmp_path: Path) -> None:
    for hosts in (HOSTS, {"a": [1], "b": [0, 1]}):
        write_hostfile(tmp_path / "hosts", hosts)
        assert select(read_hostfile(tmp_path / "hosts"), include=include_of(hosts)) == hosts
    assert include_of(HOSTS) == ""


def test_every_option_of_deepspeed_is_known_and_passed_on(config: Path) -> None:
    import argparse
    from unittest import mock

    from deepspeed.launcher import runner

    with mock.patch.object(argparse.ArgumentParser, "parse_args", lambda self, args=None: self):
        theirs = runner.parse_args()
    for action in theirs._actions:
        if action.dest in ("help", "hostfile", "user_script", "user_args", "no_ssh"):  # no_ssh wants --node_rank too
            continue
        value = {int: "7", str: "mpich" if action.dest == "launcher" else "x"}.get(action.type)
        words = [action.option_strings[-1], *([value] if value else [])]
        options = parse(["train", str(config), "--hostfile", "h", *words, "run.steps=3"])
        assert options.overrides == ["run.steps=3"]
        expected = f"--{action.dest}={value}" if value else f"--{action.dest}"
        assert expected in options.for_deepspeed(), action.dest


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train"], "name a config"),
        (["train", "{config}", "--num_node", "3"], "unrecognized arguments: --num_node 3; ./launch.sh train --help"),
        (["train", "{config}", "--num_nodes", "many"], "num_nodes: invalid int value: 'many'"),
        (["train", "none.yaml"], "none.yaml: no such config"),
        (["check"], "check: needs --hostfile"),
        (["train", "{config}", "--keep-going", "3"], "--keep-going: needs --hostfile"),
        (["train", "{config}", "--hostfile", "h", "--no_ssh"], "give --node_rank"),
        (["train", "{config}", "--hostfile", "h", "--launcher", "carrier-pigeon"], "choose one of pdsh"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: list[str], part: str, config: Path) -> None:
    with pytest.raises(ValueError, match=part):
        parse([word.format(config=config) for word in words])


def test_the_environment_file_is_the_users_and_what_is_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / ".deepspeed_env").write_text("NCCL_DEBUG=WARN\n\nMINE=a=b\n# none\n")
    here = {
        "NCCL_DEBUG": "INFO",
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "3",
        "SECRET": "x",
        "GLOO_SOCKET_IFNAME": "ib0",
    }
    found = launch_environment.carried(here, "pdsh", {"JOB": "1"})
    assert found == {"NCCL_DEBUG": "WARN", "PATH": "/bin", "GLOO_SOCKET_IFNAME": "ib0", "MINE": "a=b", "JOB": "1"}
    _, problems = launch_environment.read_file(tmp_path / ".deepspeed_env")
    assert [problem.partition(": ")[0] for problem in problems] == [
        str(Path(".deepspeed_env").absolute()) + f":{n}" for n in (2, 4)
    ]
    file = tmp_path / "environment"
    launch_environment.write_file(file, found)
    assert file.stat().st_mode & 0o777 == 0o600
    assert launch_environment.read_file(file) == (found, [])


@pytest.mark.parametrize(("launcher", "value"), [("pdsh", 'a"b'), ("pdsh", "$HOME"), ("mpich", "a b")])
def test_values_that_a_launcher_would_change_are_refused(
    launcher: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"NCCL_X=.*{launcher} cannot carry"):
        launch_environment.carried({"NCCL_X": value}, launcher, {})


def test_exit_codes_name_their_signals() -> None:
    assert [exit_code(code) for code in (0, 3, -9)] == [0, 3, 137]
    assert [explain(code) for code in (247, 137, 143, 255, 1)] == [
        "247 (SIGKILL)",
        "137 (SIGKILL)",
        "143 (SIGTERM)",
        "255",
        "1",
    ]


def test_a_run_has_finished_when_its_last_end_says_so(config: Path, tmp_path: Path) -> None:
    run = load_config(config, [f"run.out={tmp_path / 'run'}"])
    assert not finished(run)
    run.run.out.mkdir()
    lines = ['{"kind": "train", "step": 3}', '{"kind": "end", "step": 3, "finished": false}']
    (run.run.out / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert not finished(run)
    lines += ['{"kind": "end", "step": 5, "finished": true}']
    (run.run.out / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert finished(run)
    assert not finished(load_config(config, [f"run.out={tmp_path / 'run'}", "run.steps=9"]))


def test_what_a_killed_run_left_of_a_line_is_no_end(config: Path, tmp_path: Path) -> None:
    run = load_config(config, [f"run.out={tmp_path}"])
    lines = ['{"kind": "end", "step": 3, "fin', '{"kind": "end", "step": 4, "finished": false}', '{"kind": "end", "st']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert [end["step"] for end in ends(run)] == [4]
    assert not finished(run)
