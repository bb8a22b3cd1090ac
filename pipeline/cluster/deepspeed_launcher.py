"""`python pipeline/cluster/deepspeed_launcher.py …`: the `deepspeed` command, with four differences.

No other host's shell takes its words apart: pdsh hands DeepSpeed's command line to one on every host, and DeepSpeed quotes a
part of it, where every word is quoted here. What may be a password goes into no command line, which other users can read. Where
a signal ends what it has started, it does not return 0. And on one host this process starts the ranks, instead of another one
that first imports PyTorch again, which takes two seconds.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any

from deepspeed.launcher import launch, multinode_runner, runner

OPTIONS_IN_THE_COMMAND = ("master_addr", "venv_script", "enable_each_rank_log")
OF_THIS_HOST = [sys.executable, "-u", "-m", launch.__name__]
"""Beginning of the command by which DeepSpeed starts the ranks of one host."""
SECRETS = "MLFLOW"
"""Beginning of names that DeepSpeed hands on in command lines. `start_rank.py` gives them to ranks; those of srun have them."""


class QuotingPDSHRunner(multinode_runner.PDSHRunner):
    """DeepSpeed's runner for pdsh; what it writes into a command line arrives at the other hosts as it was given."""

    def __init__(self, arguments: Any, world_info: str) -> None:
        super().__init__(arguments, world_info)
        self.user_script = quoted(arguments.user_script)
        for option in OPTIONS_IN_THE_COMMAND:
            if value := getattr(arguments, option):
                setattr(arguments, option, quoted(value))

    def parse_user_args(self) -> list[str]:
        return [quoted(word) for word in self.args.user_args]

    def add_export(self, key: str, var: str) -> None:
        self.exports[quoted(key.strip())] = quoted(var.strip())

    def get_cmd(
        self, environment: MutableMapping[str, str], active_resources: MutableMapping[str, Any]
    ) -> tuple[list[str], list[str], MutableMapping[str, str]]:
        command, kill, environment = super().get_cmd(environment, active_resources)
        return [quoted(word) if word == sys.executable else word for word in command], kill, environment


def quoted(word: str) -> str:
    """A word of a command that pdsh is given: for the shell of the other host, and for pdsh itself, which fills in %h."""
    return shlex.quote(word).replace("%", "%%")


class Started(subprocess.Popen[bytes]):
    """What DeepSpeed has started, the last of which it waits for."""

    last: Started | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        Started.last = self


class Here:
    """DeepSpeed's launcher of this host's ranks, in this process: it ends the process itself where a rank fails."""

    returncode = 0

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        self._words, self._environment = words, environment

    def wait(self) -> None:
        """Start the ranks, and return when all have ended well."""
        sys.argv = [str(launch.__file__), *self._words]
        os.environ.update(self._environment)
        launch.main()


def start(command: Sequence[str], **options: Any) -> Started | Here:
    """In place of Popen, which DeepSpeed's runner is given a command for."""
    if list(command[: len(OF_THIS_HOST)]) == OF_THIS_HOST:
        return Here(command[len(OF_THIS_HOST) :], options["env"])
    return Started(command, **options)


def main() -> None:
    runner.PDSHRunner = QuotingPDSHRunner
    runner.EXPORT_ENVS = [beginning for beginning in runner.EXPORT_ENVS if beginning != SECRETS]
    runner.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": start})
    runner.main()
    # A signal's is negative, and DeepSpeed passes on those above 0 only.
    if Started.last is not None and Started.last.returncode < 0:
        sys.exit(128 - Started.last.returncode)


if __name__ == "__main__":
    main()
