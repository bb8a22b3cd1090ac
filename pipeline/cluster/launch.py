"""`./launch.sh train` and `./launch.sh check`: from a command line to ranks on one host or on many, and their end.

On one host the job runs in a session of its own, so that Ctrl-C and SIGTERM reach this process alone: DeepSpeed's launcher
would kill the ranks, while they are to finish their step, save, and end by themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType

from rich.console import Console

from pipeline.cluster.agent import JOB, Agent
from pipeline.cluster.attempt import LAUNCHER_DIED, exit_code
from pipeline.cluster.options import Options, job_name, parse

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
POLL_SECONDS = 0.5


class Interrupts:
    """Counts SIGTERM and Ctrl-C: the first asks the ranks to save, a second one ends them at once."""

    def __init__(self) -> None:
        self.count = 0
        self._arrived = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def wait(self, seconds: float) -> None:
        """Sleep, but no longer than until the next one."""
        self._arrived.clear()
        self._arrived.wait(seconds)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._arrived.set()


def deepspeed_command(launcher: list[str], training: list[str]) -> list[str]:
    """`deepspeed … pipeline/train.py …`, by the Python that runs this."""
    return [str(Path(sys.executable).with_name("deepspeed")), *launcher, str(TRAIN), *training]


def train_here(options: Options) -> int:
    """Run the launcher on this host, for this host's ranks (or for Slurm), and return its exit code."""
    agent = Agent()
    agent.guard(job_name())
    hostfile = [f"--hostfile={options.hostfile}"] if options.hostfile else []
    environment = {**os.environ, JOB: agent.job}
    if options.only_here:
        hostfile += ["--no_ssh_check", "--master_addr=127.0.0.1"]
    elif options.given.launcher == "slurm":
        # srun hands the whole environment on, so that this is how the ranks learn where to meet.
        address = options.given.master_addr or next(iter(options.hosts))
        hostfile += ["--no_ssh_check", f"--master_addr={address}"]
        environment |= {"MASTER_ADDR": address, "MASTER_PORT": str(options.given.master_port)}
    command = deepspeed_command(
        [*hostfile, *options.for_deepspeed()], options.for_training(options.resume, options.overrides)
    )
    interrupts = Interrupts()
    job = subprocess.Popen(command, env=environment, start_new_session=True)
    obeyed = 0
    while job.poll() is None:
        if interrupts.count > obeyed:
            obeyed = interrupts.count
            _stop(agent, job, options, again=obeyed > 1)
        try:
            job.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    orphans = agent.beat()["ranks"]
    agent.kill()
    agent.sweep(options.given.master_port)
    if job.returncode == 0 and orphans:
        print(f"the job has ended: {LAUNCHER_DIED}", file=sys.stderr)
        return 1
    return exit_code(job.returncode)


def _stop(agent: Agent, job: subprocess.Popen[bytes], options: Options, again: bool) -> None:
    if again:
        print("ending the ranks at once", file=sys.stderr)
        agent.kill()
    elif agent.stop()["ranks"]:
        print("stopping: the ranks save after this step; once more to end them at once", file=sys.stderr)
    elif options.given.launcher == "slurm" and (steps := _children(job.pid)):
        print("stopping: srun passes the signal to all ranks", file=sys.stderr)
        for step in steps:
            os.kill(step, signal.SIGTERM)
    else:
        job.terminate()


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def main() -> None:
    try:
        options = parse(sys.argv[1:])
        if options.check or options.over_ssh:
            from pipeline.cluster.supervise import check, supervise  # needs the config's schema, and with it torch

            code = check(options, Console()) if options.check else supervise(options, Console(), Interrupts())
        else:
            code = train_here(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)


if __name__ == "__main__":
    main()
