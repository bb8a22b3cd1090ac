"""One start of a job over several hosts, watched until it ends; whatever ends it, nothing of it is left on any host.

The launcher (pdsh, mpirun) starts the ranks; the agents on the hosts tell whether they are alive, pass on the wish to stop,
and end what is left. Knows nothing of checkpoints or of further attempts.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.cluster.crew import Crew
from pipeline.cluster.hostfile import Hosts
from pipeline.host.agent import JOB
from pipeline.host.process import LAUNCHER_FOLDER

BEAT_SECONDS = 3
BEAT_LIMIT_SECONDS = 12  # a host that has not answered for so long is lost
GRACE_SECONDS = 15  # between the end of a first rank and that of the launcher
POLL_SECONDS = 0.2
SSH_FAILED = 255  # ssh's own exit code, where the connection ended, or a signal the command
# Some of MPI's launchers return 0 where a signal ended what they had started: that is only believed of a run that has ended.
LAUNCHER_DIED = "the launcher returned 0, but the run had not ended: a signal ended what it had started"
MISTAKE = re.compile(rb"(\S+: )?error: ")
PDSH_EXIT = re.compile(rb"pdsh@\S+: (\S+): ssh exited with exit code (\d+)")


@dataclass
class Ended:
    """How an attempt ended: the launcher's exit code, why if it was ended from here, and the user's mistake if it was one."""

    code: int
    reason: str = ""
    mistake: bool = False


class Attempt:
    """A running job. Made with the command that starts it; `watch` returns when it has ended and nothing is left."""

    def __init__(
        self, job: str, hosts: Hosts, crew: Crew, command: list[str], environment: Mapping[str, str], port: int
    ) -> None:
        self.job, self.hosts, self.crew, self.port = job, hosts, crew, port
        self._mistake = False
        self._exits: dict[str, int] = {}  # by host, in the order in which pdsh tells of them
        self._complete: set[str] = set()  # hosts on which all ranks were seen
        self._short_since: float | None = None
        crew.ask("guard", job=job)
        self._process = subprocess.Popen(
            command,
            cwd=LAUNCHER_FOLDER,
            env={**environment, JOB: job},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._pump = threading.Thread(target=self._pass_on_output, daemon=True)
        self._pump.start()

    def watch(self, wishes: Callable[[], int]) -> Ended:
        """Wait for the end. `wishes` counts how often the user (or a host that is back) has asked the job to stop."""
        reason, obeyed, beaten = "", 0, time.monotonic()
        try:
            while self._process.poll() is None and not reason:
                if (wish := wishes()) > obeyed:
                    obeyed = wish
                    reason = self._stop(again=obeyed > 1)
                if time.monotonic() - beaten > BEAT_SECONDS:
                    reason = reason or self._listen()
                    beaten = time.monotonic()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(POLL_SECONDS)
        finally:
            self._end_all()
        code = exit_code(self._process.returncode)
        return Ended(code or (1 if reason else 0), reason or self._first_to_fail(), self._mistake and not reason)

    def _stop(self, again: bool) -> str:
        if again:
            return "told twice to stop"
        ranks = sum(answer["ranks"] for answer in self.crew.ask("stop", limit=BEAT_LIMIT_SECONDS).values())
        if not ranks:
            return "told to stop before the ranks ran"
        print("stopping: the ranks save after this step; once more to end them at once", file=sys.stderr)
        return ""

    def _listen(self) -> str:
        """Ask all hosts how many ranks they run; the reason to end the job, if there is one."""
        answers = self.crew.ask("beat", limit=BEAT_LIMIT_SECONDS)
        for host in self.hosts:
            if host in self.crew.gone:
                return f"{host} is lost ({self.crew.gone[host]})"
        short = []
        for host, slots in self.hosts.items():
            if answers[host]["orphans"]:
                return f"the launcher on {host} has died, its ranks had not"
            if answers[host]["ranks"] >= len(slots):
                self._complete.add(host)
            elif host in self._complete:
                short.append(host)
        if not short:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = time.monotonic()
        elif time.monotonic() - self._short_since > GRACE_SECONDS:
            return f"a rank on {short[0]} has ended, the others wait for it"
        return ""

    def _end_all(self) -> None:
        """SIGKILL to the launcher here and to all of the job's processes everywhere; hosts that were lost are tried again."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        lost = [host for host in self.hosts if host in self.crew.gone]
        _clean(self.crew, self.job, self.port)
        if lost:
            with Crew(lost, self.crew.ssh_options) as again:
                _clean(again, self.job, self.port)
                for host, reason in again.gone.items():
                    print(f"{host} cannot be reached ({reason}): its own agent ends what runs there", file=sys.stderr)
        self._pump.join(2)

    def _first_to_fail(self) -> str:
        """Where it began: on a host that was lost, else where a signal ended a launcher or rank, else what pdsh told first."""
        ended = [host for host, code in self._exits.items() if code == SSH_FAILED]
        if lost := [host for host in ended if host in self.crew.gone]:
            return f"{lost[0]} is lost (its ssh connection ended)"
        if ended:
            return f"the launcher on {ended[0]} has died, the host answers"
        by_signal = [host for host, code in self._exits.items() if "SIG" in explain(code)]
        host = next(iter([*by_signal, *self._exits]), None)
        return f"{host} ended first, with exit code {explain(self._exits[host])}" if host else ""

    def _pass_on_output(self) -> None:
        for line in self._process.stdout:  # type: ignore[union-attr]
            self._mistake |= bool(MISTAKE.match(line))
            if ended := PDSH_EXIT.match(line):
                self._exits.setdefault(ended[1].decode(), int(ended[2]))
            # of a closed terminal or pipe: ranks whose output nobody takes would wait
            with contextlib.suppress(OSError):
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()


def exit_code(returned: int) -> int:
    """A shell's code: 128 and the signal's number where a signal ended the process."""
    return returned if returned >= 0 else 128 - returned


def explain(code: int) -> str:
    """An exit code, and the signal that is behind it: DeepSpeed's launcher makes -9 of it, ssh 247, a shell 137."""
    number = 256 - code if 192 < code < SSH_FAILED else code - 128
    names = {signal.value: signal.name for signal in signal.Signals}
    return f"{code} ({names[number]})" if number in names else str(code)


def _clean(crew: Crew, job: str, port: int) -> None:
    crew.ask("guard", job=job)
    for host, answer in crew.ask("kill").items():
        if answer["left"]:
            print(f"{host}: {answer['left']} processes of the job do not end; see ps there", file=sys.stderr)
    crew.ask("sweep", port=port)
