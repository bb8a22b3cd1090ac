"""What a launch is told, and what it carries to other hosts: options, hostfiles, environment files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.cluster import environment as launch_environment
from pipeline.cluster.attempt import exit_code, explain
from pipeline.cluster.finished import ends, finished
from pipeline.cluster.hostfile import include_of, read_hostfile, select, write_hostfile
from pipeline.cluster.options import FILES, parse
from pipeline.settings.schema import load_config

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


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("a slots=99999999999", r"h:1: slots=99999999999: a host has at most 1,024"),
        ("a slots=1025", r"h:1: slots=1025: a host has at most 1,024"),
        ("fe80::1%eth0 slots=2", r"h:1: fe80::1%eth0 is an IPv6 address"),
        ("[2001:db8::7] slots=2", r"h:1: \[2001:db8::7\] is an IPv6 address"),
        ("a slots=0", "write `host slots=N`"),
        ("a", "write `host slots=N`"),
    ],
)
def test_a_line_of_a_hostfile_that_cannot_be_is_named(line: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "h").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=part) as caught:
        read_hostfile(tmp_path / "h")
    assert "\n" not in str(caught.value)


def test_a_hostfile_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "h").write_bytes("\ufeffnode1 slots=2\r\nroot@node2 slots=1\r\n".encode())
    assert read_hostfile(tmp_path / "h") == {"node1": [0, 1], "root@node2": [0]}


def test_a_host_with_its_user_can_be_included_whole() -> None:
    hosts = {"node1": [0, 1], "root@node2": [0, 1]}
    assert select(hosts, include="root@node2") == {"root@node2": [0, 1]}
    assert select(hosts, include="node1:1@root@node2:0,1") == {"node1": [1], "root@node2": [0, 1]}
    with pytest.raises(ValueError, match=r"cannot choose slots of root@node2; .*~/\.ssh/config"):
        select(hosts, include="root@node2:0")
    with pytest.raises(ValueError, match=r"root is not in the hostfile; a user's name belongs into ~/\.ssh/config"):
        select({"node1": [0]}, include="root@node1:0")


def test_ranks_of_one_host_meet_at_a_port_that_is_free(config: Path) -> None:
    found = {parse(["train", str(config)]).master_port for _ in range(5)}
    assert 29500 not in found and len(found) > 1, "two starts at once get two ports"
    assert parse(["train", str(config), "--master_port", "29500"]).master_port == 29500
    assert parse(["train", str(config), "--hostfile", "h", "--no_ssh", "--node_rank=0", "--master_addr=a"]).master_port


def test_deepspeed_s_launcher_is_quiet_unless_asked(config: Path) -> None:
    assert "--log_level=critical" in parse(["train", str(config)]).for_deepspeed()
    assert not any("log_level" in word for word in parse(["train", str(config), "--verbose"]).for_deepspeed())
    assert "--log_level=info" in parse(["train", str(config), "--log_level", "info"]).for_deepspeed()


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
        if action.dest in FILES:
            value = os.path.abspath("x")  # the launcher runs in another folder
        expected = f"--{action.dest}={value}" if value else f"--{action.dest}"
        assert expected in options.for_deepspeed(), action.dest


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["train"], "name a config"),
        (["train", "{config}", "--num_node", "3"], "unrecognized arguments: --num_node 3; ./launch.sh train --help"),
        (["train", "{config}", "--num_nodes", "many"], "num_nodes: invalid int value: 'many'"),
        (["train", "none.yaml"], "none.yaml: no such config"),
        (["check"], "check: name a config, to check this machine for it, or give --hostfile FILE"),
        (["train", "{config}", "--num_accelerators", "0"], "--num_accelerators 0: one or more"),
        (["train", "{config}", "--num_nodes", "2"], "--num_nodes 2: needs --hostfile"),
        (["train", "{config}", "--include", "root@node1:0"], "there is localhost alone, not root"),
        (["train", "{config}", "--master_port", "99999"], "--master_port 99999: a port is a number from 1 to 65535"),
        (
            ["train", "{config}", "--hostfile", "h", "--master_addr", "fe80::1"],
            "--master_addr: fe80::1 is an IPv6 address",
        ),
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
    found, for_ranks_alone = launch_environment.carried(here, "pdsh", {"JOB": "1"})
    assert found == {"NCCL_DEBUG": "WARN", "PATH": "/bin", "GLOO_SOCKET_IFNAME": "ib0", "JOB": "1"}
    assert for_ranks_alone == {"MINE": "a=b"}
    _, problems = launch_environment.read_file(tmp_path / ".deepspeed_env")
    assert [problem.partition(": ")[0] for problem in problems] == [
        str(Path(".deepspeed_env").absolute()) + f":{n}" for n in (2, 4)
    ]
    file = tmp_path / "environment"
    launch_environment.write_lines(file, found)
    assert file.stat().st_mode & 0o777 == 0o600
    assert launch_environment.read_file(file) == (found, [])


@pytest.mark.parametrize(("launcher", "value"), [("pdsh", "a\nb"), ("mpich", "$HOME"), ("mpich", "a b")])
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
