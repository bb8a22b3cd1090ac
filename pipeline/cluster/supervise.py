"""A run over several hosts: checked first, then kept going on the hosts that answer, from the last good checkpoint.

The global batch never changes: fewer ranks take more micro-steps. Each restart looks at all hosts of the hostfile again, and
a host that is back is taken back as soon as it answers.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from pipeline.checkpoints.checkpoint import holds_any
from pipeline.cluster import environment as launch_environment
from pipeline.cluster.attempt import LAUNCHER_DIED, Attempt, Ended, explain
from pipeline.cluster.crew import Crew
from pipeline.cluster.finished import ends
from pipeline.cluster.hostfile import Hosts, include_of, write_hostfile
from pipeline.cluster.options import Options, job_name
from pipeline.cluster.preflight.checks import preflight, show
from pipeline.cluster.preflight.findings import Findings, Job
from pipeline.host.agent import JOB
from pipeline.host.process import SAFE_PATH, Interrupts, deepspeed_command
from pipeline.host.run_lock import forget
from pipeline.objectives import catalog
from pipeline.run_folder import METRICS
from pipeline.settings.schema import Config, load_config

POLL_SECONDS = 0.5
SSH_OF_PDSH = "-o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=5 -o ServerAliveCountMax=3"
OURS = ("include", "exclude", "num_nodes", "num_gpus", "master_addr", "master_port", "force_multi", "no_ssh_check")


def job_of(options: Options) -> Job:
    """What the preflight checks: hosts, launcher, and the run if a config was given."""
    config = load_config(options.config, options.overrides) if options.config else None
    given = options.given
    return Job(
        options.hosts, given.launcher, os.environ, given.master_addr, options.master_port, config, options.config
    )


def check(options: Options, console: Console) -> int:
    """Check the hosts, show the table, and return the exit code."""
    job = job_of(options)
    with Crew(job.hosts, options.ssh_options) as crew:
        findings = preflight(job, crew)
    show(findings, console)
    return 1 if findings.failures else 0


def supervise(options: Options, console: Console, interrupts: Interrupts) -> int:
    """Train until the run has ended, the user stops it, or it fails once more than `--keep-going` allows."""
    job, resume, restarts = job_of(options), options.resume, 0
    full = job.hosts
    with Crew(full, options.ssh_options) as crew:
        findings = preflight(job, crew)
        show(findings, console)
        if findings.failures:
            return 1
        ended, waited_for = _attempt(options, findings, full, crew, resume, interrupts)
    while True:
        if ended.code:
            print(f"the job has ended: {ended.reason or f'exit code {explain(ended.code)}'}", file=sys.stderr)
        if interrupts.count or (ended.code == 0 and not waited_for) or ended.mistake:
            return ended.code
        if ended.code:
            if restarts == options.keep_going:
                return ended.code
            restarts += 1
        with Crew(full, options.ssh_options) as crew:
            findings = preflight(job, crew, reduce=False)
            hosts = usable(job, findings)
            if not hosts:
                show(findings, console)
                interrupts.wait(options.look_again)
                ended = Ended(1, "no host of the hostfile is fit")
                continue
            left_out = [f"{host} ({findings.unfit.get(host, 'not needed')})" for host in full if host not in hosts]
            without = f"; without {', '.join(left_out)}" if left_out else ""
            print(f"restart {restarts} of {options.keep_going} on {', '.join(hosts)}{without}", file=sys.stderr)
            ended, waited_for = _attempt(options, findings, hosts, crew, _resume(job.config, resume), interrupts)


def usable(job: Job, findings: Findings) -> Hosts:
    """The fit hosts, without the last ones where the global batch could not be cut for all; none where this host is unfit."""
    if any(failure.host not in job.hosts for failures in findings.failures.values() for failure in failures):
        return {}
    hosts = {host: slots for host, slots in job.hosts.items() if host not in findings.unfit}
    assert job.config is not None
    while hosts and micro_steps(job.config, _ranks(job.hosts), _ranks(hosts)) is None:
        hosts.popitem()
    return hosts


def micro_steps(config: Config, planned: int, ranks: int) -> int | None:
    """Micro-steps with which `ranks` cut the same global batch into parts no larger than planned; None: it cannot be cut."""
    rows = [getattr(config.batch, stream) for stream in catalog.streams(config.objectives)]
    least = -(-config.batch.micro_steps * planned // ranks)
    fitting = (steps for steps in range(least, min(rows) // ranks + 1) if all(n % (ranks * steps) == 0 for n in rows))
    return next(fitting, None)


def _attempt(
    options: Options, findings: Findings, hosts: Hosts, crew: Crew, resume: str | None, interrupts: Interrupts
) -> tuple[Ended, bool]:
    """Start the ranks on `hosts` and watch them; also whether the job was stopped to take lost hosts back."""
    job = findings.job
    assert job.config is not None
    place = job.config.run.out.absolute() / "launch"
    place.mkdir(parents=True, exist_ok=True)
    name = job_name()
    hostfile, public_file, private_file = (place / f"{name}.{what}" for what in ("hosts", "environment", "json"))
    write_hostfile(hostfile, hosts)
    address = job.master_addr if next(iter(hosts)) == next(iter(job.hosts)) else ""
    address = address or str(findings.routes[next(iter(hosts))]["address"])
    own = {JOB: name, "MASTER_ADDR": address, "MASTER_PORT": str(job.master_port)}
    own["TTY_COMPATIBLE"] = "0"  # Open MPI gives ranks a terminal, and there is none
    public, private = launch_environment.carried(os.environ, job.launcher, own)
    launch_environment.write_lines(public_file, public)
    for_ranks = (str(private_file), launch_environment.write_json(private_file, private))
    overrides = list(options.overrides)
    if (steps := micro_steps(job.config, _ranks(job.hosts), _ranks(hosts))) and steps != job.config.batch.micro_steps:
        overrides.append(f"batch.micro_steps={steps}")
    launcher = [
        f"--hostfile={hostfile}", "--force_multi", "--no_ssh_check",
        f"--master_addr={address}", f"--master_port={job.master_port}",
    ]  # fmt: skip
    if include := include_of(hosts):
        launcher.append(f"--include={include}")
    training = options.for_training(resume, overrides)
    command = deepspeed_command([*launcher, *options.for_deepspeed(OURS)], training, for_ranks)
    # Not those that answer and are unfit, or that the batch cannot be cut for: they would be back at once, for nothing.
    returned = Returned(list(crew.gone), options, job.config.run.out / METRICS)
    crew.keep_only(hosts)
    ends_before = len(ends(job.config))
    attempt = Attempt(name, hosts, crew, command, _environment(job.launcher, public_file), job.master_port)
    try:
        ended = attempt.watch(lambda: interrupts.count + returned.count)
    finally:
        returned.stop()
        forget(job.config.run.out, name)
        for file in (hostfile, public_file, private_file):
            file.unlink(missing_ok=True)
    if ended.code == 0 and len(ends(job.config)) == ends_before:
        ended = Ended(1, LAUNCHER_DIED)
    return ended, bool(returned.count)


class Returned:
    """Looks now and then whether a host that was left out answers again; then `count` is 1, once the run has made a step.

    Before its first step a run cannot save, and there would be nothing to win by stopping it.
    """

    def __init__(self, hosts: list[str], options: Options, metrics: Path) -> None:
        self.count = 0
        self._hosts, self._options, self._over = hosts, options, threading.Event()
        self._metrics, self._size = metrics, _size(metrics)
        if hosts:
            threading.Thread(target=self._look, daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _look(self) -> None:
        back: list[str] = []
        while not back:
            if self._over.wait(self._options.look_again):
                return
            with Crew(self._hosts, self._options.ssh_options) as crew:
                back = crew.hosts
        while _size(self._metrics) == self._size:
            if self._over.wait(POLL_SECONDS):
                return
        print(f"{', '.join(back)} answers again: saving, to go on with it", file=sys.stderr)
        self.count = 1


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _resume(config: Config | None, first: str | None) -> str | None:
    """A restart continues from the run's own latest checkpoint; before there is one, as the first start did."""
    assert config is not None
    return "auto" if holds_any(config.run.out) else first


def _ranks(hosts: Hosts) -> int:
    return sum(map(len, hosts.values()))


def _environment(launcher: str, file: Path) -> Mapping[str, str]:
    """Of the deepspeed command on this host; the ranks get what is in the file."""
    appended = f"{os.environ.get('PDSH_SSH_ARGS_APPEND', '')} {SSH_OF_PDSH}".strip()
    environment = {
        **launch_environment.for_the_launcher(os.environ),
        **SAFE_PATH,
        launch_environment.FILE_VARIABLE: str(file),
        "PDSH_SSH_ARGS_APPEND": appended,
    }
    if launcher == "openmpi" and (tool := shutil.which("ompi_info")):
        # MPICH's mpirun, which the environment's own folder may hold, would come first.
        environment["PATH"] = f"{Path(tool).parent}{os.pathsep}{environment['PATH']}"
    return environment
