"""A training on this host alone, or by Slurm: DeepSpeed's launcher is started, told of signals, and cleaned up after.

The job runs in a session of its own, so that Ctrl-C and SIGTERM reach this process alone: DeepSpeed's launcher would kill the
ranks, while they are to finish their step, save, and end by themselves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from pipeline.cluster import environment as launch_environment
from pipeline.cluster.attempt import LAUNCHER_DIED, exit_code, explain
from pipeline.cluster.options import Options, job_name
from pipeline.host.agent import JOB, Agent
from pipeline.host.process import LAUNCHER_FOLDER, SAFE_PATH, WATCHED, Interrupts, deepspeed_command

POLL_SECONDS = 0.5


def train_here(options: Options) -> int:
    """Run the launcher on this host, for this host's ranks (or for Slurm), and return its exit code."""
    agent = Agent()
    agent.guard(job_name())
    hostfile = [f"--hostfile={options.hostfile.absolute()}"] if options.hostfile else []
    if options.given.master_port is None:
        hostfile.append(f"--master_port={options.master_port}")
    environment = {**os.environ, JOB: agent.job, **SAFE_PATH}
    if options.only_here:
        hostfile += ["--no_ssh_check", "--master_addr=127.0.0.1"]
    elif options.given.launcher == "slurm":
        # srun hands the whole environment on, so that this is how the ranks learn where to meet.
        address = options.given.master_addr or next(iter(options.hosts))
        hostfile += ["--no_ssh_check", f"--master_addr={address}"]
        for path in launch_environment.user_files(os.environ):
            environment |= launch_environment.read_file(path)[0]
        # DeepSpeed would write what is in those files into srun's command line, for all to see.
        environment |= {launch_environment.FILE_VARIABLE: os.devnull}
        environment |= {"MASTER_ADDR": address, "MASTER_PORT": str(options.master_port)}
    command = deepspeed_command(
        [*hostfile, *options.for_deepspeed()], options.for_training(options.resume, options.overrides)
    )
    interrupts, obeyed = Interrupts(), 0
    job, watch = _start(command, environment, options.given.launcher == "slurm")
    while job.poll() is None:
        if interrupts.count > obeyed:
            obeyed = interrupts.count
            _stop(agent, job, options, again=obeyed > 1)
        try:
            job.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    if watch is not None:
        os.close(watch)
    orphans = agent.beat()["ranks"]
    agent.kill()
    agent.sweep(options.master_port)
    if job.returncode == 0 and orphans:
        print(f"the job has ended: {LAUNCHER_DIED}", file=sys.stderr)
        return 1
    code = exit_code(job.returncode)
    if code not in (0, 1) and not interrupts.count:  # 1: a rank has said why
        killed = "; the system kills what takes too much memory, see dmesg" if "SIGKILL" in explain(code) else ""
        print(f"the job has ended: exit code {explain(code)}{killed}", file=sys.stderr)
    return code


def _start(
    command: list[str], environment: dict[str, str], by_slurm: bool
) -> tuple[subprocess.Popen[bytes], int | None]:
    """The launcher, and what is to be kept open: its end tells the ranks, when nothing else can, that this process has ended.

    Not by Slurm, which watches over its steps itself, and whose srun reads standard input.
    """
    if by_slurm:
        return subprocess.Popen(command, cwd=LAUNCHER_FOLDER, env=environment, start_new_session=True), None
    reading, writing = os.pipe()
    environment = {**environment, WATCHED: "1"}
    job = subprocess.Popen(command, cwd=LAUNCHER_FOLDER, env=environment, stdin=reading, start_new_session=True)
    os.close(reading)
    return job, writing


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
