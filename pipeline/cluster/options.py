"""What `./launch.sh train` and `check` are given: options of ours, those of the deepspeed launcher, config and overrides."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from pipeline import shipped
from pipeline.cluster.hostfile import Hosts, check_host_name, read_hostfile, select
from pipeline.host import ports

# Options of `deepspeed` that are read here as well, and then those that are only passed on.
READ = (
    "include",
    "exclude",
    "num_nodes",
    "num_gpus",
    "master_addr",
    "master_port",
    "launcher",
    "node_rank",
    "ssh_port",
)
PASSED = ("launcher_args", "bind_core_list", "venv_script", "log_level", "enable_each_rank_log", "autotuning")
FILES = ("venv_script", "enable_each_rank_log")  # of those, paths: relative to the caller's folder
FLAGS = (
    "no_ssh",
    "no_ssh_check",
    "force_multi",
    "save_pid",
    "bind_cores_to_rank",
    "quiet",
    "module",
    "no_python",
    "no_local_rank",
)
SHORT = {"include": "-i", "exclude": "-e", "quiet": "-q"}
NUMBERS = {"num_nodes": -1, "num_gpus": -1, "master_port": None, "node_rank": -1, "ssh_port": None}
LAUNCHERS = ("pdsh", "openmpi", "mpich", "slurm", "impi", "mvapich")


@dataclass(frozen=True)
class Options:
    """The words of a command line, sorted by who they are for."""

    config: Path | None
    overrides: list[str]
    resume: str | None
    keep_going: int
    look_again: int
    check: bool
    verbose: bool
    hostfile: Path | None
    given: argparse.Namespace

    @property
    def hosts(self) -> Hosts:
        """The hosts and slots that the hostfile and the launcher's options leave."""
        assert self.hostfile is not None
        chosen = {name: getattr(self.given, name) for name in ("include", "exclude", "num_nodes", "num_gpus")}
        return select(read_hostfile(self.hostfile), **chosen)

    @property
    def ranks(self) -> int | None:
        """How many ranks there will be; None where the launcher takes all the devices that it finds."""
        if self.hostfile is not None:
            return sum(map(len, self.hosts.values()))
        return self.given.num_gpus if self.given.num_gpus > 0 else None

    @cached_property
    def master_port(self) -> int:
        """Where the ranks meet: on one host at any free port, as several have to agree on one before they can talk."""
        if self.given.master_port is not None:
            return int(self.given.master_port)
        alone = not self.given.no_ssh and (self.hostfile is None or self.only_here)
        return ports.free_port() if alone else ports.DEFAULT

    @property
    def over_ssh(self) -> bool:
        """Whether this process watches over the hosts itself; else it is one host's launcher, or Slurm does it."""
        return (
            self.hostfile is not None
            and not self.given.no_ssh
            and self.given.launcher != "slurm"
            and not self.only_here
        )

    @property
    def only_here(self) -> bool:
        """Whether the hostfile names this host alone, so that nothing needs ssh."""
        if self.hostfile is None or self.given.force_multi or self.keep_going:
            return False
        return set(self.hosts) <= {"localhost", "127.0.0.1", socket.gethostname()} and len(self.hosts) == 1

    @property
    def ssh_options(self) -> list[str]:
        return ["-p", str(self.given.ssh_port)] if self.given.ssh_port else []

    def for_deepspeed(self, leave_out: Sequence[str] = ()) -> list[str]:
        """The launcher's options as they were given, but for some."""
        words = []
        for name in (*READ, *PASSED):
            value = getattr(self.given, name)
            if name in FILES and value:
                value = os.path.abspath(value)
            if name not in leave_out and value not in ("", None, NUMBERS.get(name)) and value != _DEFAULTS.get(name):
                words.append(f"--{name}={value}")
        if not self.verbose and not self.given.quiet and not self.given.log_level:
            words.append("--log_level=critical")  # an error of a rank tells more than the launcher's of its exit code
        return words + [f"--{name}" for name in FLAGS if getattr(self.given, name) and name not in leave_out]

    def for_training(self, resume: str | None, overrides: Sequence[str]) -> list[str]:
        words = ["--config", str(self.config)]
        if resume is not None:
            words += ["--resume", resume]
        return [*words, *overrides]


_DEFAULTS = {"launcher": "pdsh"}


def parse(words: Sequence[str]) -> Options:
    """Read `train CONFIG …` or `check …`; words of the config's own (`key=value`) are left as they are.

    Raises:
        ValueError: an unknown option, options that do not go together, or a config that is not there.
    """
    given = _parser().parse_intermixed_args(list(words))
    given.launcher = given.launcher.lower()
    if given.launcher not in LAUNCHERS:
        raise ValueError(f"--launcher {given.launcher}: choose one of {', '.join(LAUNCHERS)}")
    check = given.command == "check"
    positional = list(given.words)
    config = (
        Path(positional.pop(0)) if positional and ("=" not in positional[0] or Path(positional[0]).exists()) else None
    )
    if config is None and check and given.hostfile is None:
        raise ValueError("check: name a config, to check this machine for it, or give --hostfile FILE, or both")
    if config is None and not check:
        raise ValueError("train: name a config; see pipeline/configs/")
    if config is not None:
        config = shipped.config_path(config)
    hostfile = given.hostfile
    if hostfile is None and (given.keep_going or given.launcher != "pdsh" or given.no_ssh):
        what = "--keep-going" if given.keep_going else f"--launcher {given.launcher} and --no_ssh"
        raise ValueError(f"{what}: needs --hostfile FILE, with lines `host slots=N`")
    if given.master_addr:
        check_host_name(given.master_addr, "--master_addr")
    if hostfile is None:
        _check_words_of_one_host(given)
    if given.no_ssh and (check or given.keep_going):
        raise ValueError("--no_ssh: each host is started by hand; it does not go with check or --keep-going")
    if given.no_ssh and (given.node_rank < 0 or not given.master_addr):
        raise ValueError(
            "--no_ssh: give --node_rank (0, 1, … in the hostfile's order) and --master_addr of the first host"
        )
    if given.master_port is not None and not 0 < given.master_port < 65536:
        raise ValueError(f"--master_port {given.master_port}: a port is a number from 1 to 65535")
    return Options(
        config, positional, given.resume, given.keep_going, given.look_again, check, given.verbose, hostfile, given
    )


def _check_words_of_one_host(given: argparse.Namespace) -> None:
    """ValueError where options of DeepSpeed's launcher ask for hosts that are not there; it would end in a traceback."""
    if given.num_gpus != -1 and given.num_gpus < 1:
        raise ValueError(f"--num_accelerators {given.num_gpus}: one or more")
    if given.num_nodes > 1:
        raise ValueError(f"--num_nodes {given.num_nodes}: needs --hostfile FILE, with lines `host slots=N`")
    for option in ("include", "exclude"):
        if other := [
            part for part in getattr(given, option).split("@") if part and part.partition(":")[0] != "localhost"
        ]:
            raise ValueError(
                f"--{option} {getattr(given, option)}: without --hostfile FILE there is localhost alone, not {other[0]}"
            )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; ./launch.sh train --help lists the options")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="./launch.sh",
        usage="./launch.sh train|check CONFIG [--hostfile H] [--keep-going N] [--resume auto|PATH] [deepspeed's options] "
        "[key=value …]",
        description="Start training, on this host or on those of a hostfile, or only check whether they are fit for it.",
        epilog="All options of the deepspeed launcher may be given; `deepspeed --help` describes them.",
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=["train", "check"])
    parser.add_argument(
        "words", nargs="*", metavar="CONFIG key=value", help="YAML config, and settings that override it"
    )
    parser.add_argument("--resume", metavar="auto|PATH", help="continue from the run's latest checkpoint, or from PATH")
    parser.add_argument("-H", "--hostfile", type=Path, help="lines `host slots=N`")
    parser.add_argument(
        "--keep-going", type=_count, default=0, metavar="N",
        help="when a host or rank is lost, continue on the hosts that answer, up to N times",
    )  # fmt: skip
    parser.add_argument(
        "--look-again", type=int, default=15, metavar="S", help="seconds between looks at hosts that were lost"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show all that DeepSpeed and PyTorch log, not errors alone"
    )
    for name in (*READ, *PASSED):
        names = [SHORT[name]] if name in SHORT else []
        names += [f"--{name}", *(["--num_accelerators"] if name == "num_gpus" else [])]
        kind = int if name in NUMBERS else str
        parser.add_argument(
            *names, type=kind, default=NUMBERS.get(name, _DEFAULTS.get(name, "")), help=argparse.SUPPRESS
        )
    for name in FLAGS:
        names = [SHORT[name]] if name in SHORT else []
        parser.add_argument(*names, f"--{name}", action="store_true", help=argparse.SUPPRESS)
    return parser


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of restarts")
    return int(text)


def job_name() -> str:
    """A name that no other job has: its processes are found by it."""
    return f"{os.getpid()}-{os.urandom(6).hex()}"
