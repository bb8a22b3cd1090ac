"""`python pipeline/cluster/deepspeed_launcher.py …`: the `deepspeed` command, with three differences.

No other host's shell takes its words apart: pdsh hands DeepSpeed's command line to one on every host, and DeepSpeed quotes a
part of it, where every word is quoted here. What may be a password goes into no command line, which other users can read. And
where a signal ends what it has started, it does not return 0.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any

from deepspeed.launcher import multinode_runner, runner

OPTIONS_IN_THE_COMMAND = ("master_addr", "venv_script", "enable_each_rank_log")
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


def main() -> None:
    runner.PDSHRunner = QuotingPDSHRunner
    runner.EXPORT_ENVS = [beginning for beginning in runner.EXPORT_ENVS if beginning != SECRETS]
    runner.subprocess = SimpleNamespace(**{**vars(subprocess), "Popen": Started})
    runner.main()
    # A signal's is negative, and DeepSpeed passes on those above 0 only.
    if Started.last is not None and Started.last.returncode < 0:
        sys.exit(128 - Started.last.returncode)


if __name__ == "__main__":
    main()
