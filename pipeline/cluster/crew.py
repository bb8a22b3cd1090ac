"""One agent on every host, reached over ssh: requests to all of them at a time, and who has stopped answering.

Knows ssh and the agent's protocol (a JSON line each way); nothing of what is asked.
"""

from __future__ import annotations

import json
import queue
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HELLO_SECONDS = 15
ANSWER_SECONDS = 20
SSH = (
    *("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
)
# Modules that the agent is made of, in the order in which they are made on the other host; packages are only names.
MODULES = ("pipeline", "pipeline.host", "pipeline.host.rendezvous", "pipeline.host.agent")
BOOTSTRAP = """import json, sys, types
for name, source in json.loads(sys.stdin.buffer.raw.readline()):
    module = sys.modules[name] = types.ModuleType(name)
    parent, _, child = name.rpartition(".")
    if parent: setattr(sys.modules[parent], child, module)
    exec(source, module.__dict__)
module.main()"""


class Gone(Exception):  # noqa: N818
    """A host that does not answer (any more); the text says why, as far as ssh knows."""


class Hand:
    """The agent on one host. `ask` sends a request, `answer` waits for its answer; both raise Gone."""

    def __init__(self, host: str, ssh_options: Sequence[str] = ()) -> None:
        self.host = host
        # Where our Python is missing, any will do to say so. In /, where nobody else can put modules for it.
        choose = f'p={shlex.quote(sys.executable)}; [ -x "$p" ] || p=python3'
        remote = f'cd /; {choose}; PYTHONSAFEPATH=1 exec "$p" -u -c {shlex.quote(BOOTSTRAP)}'
        self._ssh = subprocess.Popen(
            [*SSH, *ssh_options, "--", host, remote],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()
        self._send(json.dumps([(name, _source_of(name)) for name in MODULES]))

    def ask(self, verb: str, **arguments: Any) -> None:
        self._send(json.dumps({"do": verb, **arguments}))

    def answer(self, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=max(0.01, seconds))
        except queue.Empty:
            raise Gone(f"no answer in {seconds:.0f} s") from None
        if answer is None:
            self._answers.put(None)
            self._readers[1].join(1)
            raise Gone(self._errors[-1] if self._errors else "the connection ended")
        return answer

    def close(self) -> None:
        """Let the agent end by itself: it takes the end of its input as the launching host's end."""
        try:
            self._ssh.stdin.close()  # type: ignore[union-attr]
            self._ssh.wait(2)
        except (OSError, subprocess.TimeoutExpired):
            self._ssh.kill()
            self._ssh.wait()

    def _send(self, line: str) -> None:
        try:
            self._ssh.stdin.write(f"{line}\n".encode())  # type: ignore[union-attr]
            self._ssh.stdin.flush()  # type: ignore[union-attr]
        except (OSError, ValueError):
            pass  # the reader has seen the end, and `answer` tells of it

    def _read(self) -> None:
        for line in self._ssh.stdout:  # type: ignore[union-attr]
            try:
                answer = json.loads(line)
            except ValueError:  # what a login script of the host prints
                continue
            if isinstance(answer, dict):
                self._answers.put(answer)
        self._answers.put(None)

    def _read_errors(self) -> None:
        for line in self._ssh.stderr:  # type: ignore[union-attr]
            self._errors.append(line.decode(errors="replace").strip())


class Crew:
    """The hands on all hosts of a run. Hosts that fail are in `gone`, with the reason, and are asked no more."""

    def __init__(self, hosts: Iterable[str], ssh_options: Sequence[str] = ()) -> None:
        """Connect to all hosts at a time; each has said hello or is in `gone` on return, within HELLO_SECONDS."""
        self.ssh_options = ssh_options
        self.hands = {host: Hand(host, ssh_options) for host in hosts}
        self.gone: dict[str, str] = {}
        self.ask("clock", limit=HELLO_SECONDS)

    @property
    def hosts(self) -> list[str]:
        """The hosts that answer."""
        return [host for host in self.hands if host not in self.gone]

    def ask(
        self,
        verb: str,
        each: dict[str, dict[str, Any]] | None = None,
        limit: float = ANSWER_SECONDS,
        **arguments: Any,
    ) -> dict[str, dict[str, Any]]:
        """Ask all hosts (or those in `each`, with arguments of their own) the same, and return their answers."""
        asked = [host for host in self.hosts if each is None or host in each]
        for host in asked:
            self.hands[host].ask(verb, **arguments, **(each or {}).get(host, {}))
        deadline, answers = time.monotonic() + limit, {}
        for host in asked:
            try:
                answers[host] = self.hands[host].answer(deadline - time.monotonic())
            except Gone as reason:
                self.gone[host] = str(reason)
        return answers

    def keep_only(self, hosts: Iterable[str]) -> None:
        """Let go of all other hosts."""
        for host in self.hands.keys() - set(hosts):
            self.hands.pop(host).close()

    def close(self) -> None:
        for hand in self.hands.values():
            hand.close()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _source_of(module: str) -> str:
    path = Path(__file__).resolve().parents[2].joinpath(*module.split(".")).with_suffix(".py")
    return path.read_text("utf-8") if path.is_file() else ""
