"""`python pipeline/cluster/deepspeed_launcher.py …`: the `deepspeed` command, whose words no other host's shell takes apart.

pdsh hands DeepSpeed's command line to a shell on every host. DeepSpeed quotes a part of it; here every word is quoted.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import MutableMapping
from typing import Any

from deepspeed.launcher import multinode_runner, runner

OPTIONS_IN_THE_COMMAND = ("master_addr", "venv_script", "enable_each_rank_log")


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


if __name__ == "__main__":
    runner.PDSHRunner = QuotingPDSHRunner
    runner.main()
