"""Checks of the hosts one by one: reachable, alike, as large as their slots claim, and in reach of the run's files.

Each check returns what was found where all is well, and reports what is not to the findings.
"""

from __future__ import annotations

import secrets
import shutil
import socket
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline import shipped
from pipeline.checkpoints.checkpoint import folder_of
from pipeline.cluster import environment as launch_environment
from pipeline.cluster.preflight.config import files_of, needed_disk, shards_of
from pipeline.cluster.preflight.findings import Findings
from pipeline.host.agent import Agent

REPOSITORY = shipped.PACKAGE.parent
PACKAGES = ["torch", "deepspeed", "numpy", "xlm-align"]
CLOCK_SECONDS = 5
HERE = f"here ({socket.gethostname()})"  # in place of a host's name; no host of a hostfile is called so
SHARED_MEMORY = 70 << 20  # what DeepSpeed's communication on CPUs takes of /dev/shm for a rank


def launcher(on: Findings) -> str:
    launcher = on.job.launcher
    tool = {"pdsh": "pdsh", "openmpi": "ompi_info", "slurm": "srun"}.get(launcher, "mpirun")
    mends = {"pdsh": "apt-get install pdsh", "mpich": "pip install mpich", "openmpi": "apt-get install openmpi-bin"}
    if not shutil.which(tool):
        on.fail(HERE, f"{tool} is not installed", f"{mends.get(launcher, 'install it')}, or choose another --launcher")
    return launcher


def environment_files(on: Findings) -> str:
    files = launch_environment.user_files(on.job.environment)
    for path in files:
        for problem in launch_environment.read_file(path)[1]:
            what, _, mend = problem.rpartition("; ")
            on.fail(HERE, what, mend)
    return ", ".join(map(str, files)) or "none"


def ssh(on: Findings) -> str:
    for host, reason in on.crew.gone.items():
        on.fail(host, *explain_ssh(host, reason))
    return f"{len(on.crew.hosts)} answer"


def clocks(on: Findings) -> str:
    began = time.time()
    answers = on.ask("clock")
    ended = time.time()
    skews = {host: max(began - answer["time"], answer["time"] - ended, 0.0) for host, answer in answers.items()}
    for host, skew in skews.items():
        if skew > CLOCK_SECONDS:
            on.fail(host, f"its clock is {skew:.0f} s off", "start a time service there (chrony, systemd-timesyncd)")
    return f"within {max([*skews.values(), 0.0]) + ended - began:.1f} s"


def versions(on: Findings) -> str:
    config = on.job.config
    question: dict[str, Any] = {
        "folder": str(Path.cwd()),
        "repository": str(REPOSITORY),
        "packages": PACKAGES,
        "files": files_of(on.job.config_file, config),
        "shards": shards_of(config),
        "out": str(config.run.out.absolute()) if config else str(Path.cwd()),
    }
    on.here = Agent().facts(**question)
    on.facts = on.ask("facts", **question)
    names = ["python", *PACKAGES]
    for host, facts in on.facts.items():
        if facts["executable"] != on.here["executable"]:
            what = f"no {sys.executable} there (found {facts['executable']})"
            on.fail(host, what, "run ./launch.sh setup there, in the same folder")
            continue
        theirs, ours = ({"python": f["python"], **f["packages"]} for f in (facts, on.here))
        for name in names:
            if theirs[name] != ours[name]:
                what = f"{name} {theirs[name] or 'is missing'}, here {ours[name]}"
                on.fail(host, what, "run ./launch.sh setup there, from the same commit")
        if not facts["folder"]:
            on.fail(host, f"no folder {Path.cwd()}", "start from a folder that all hosts have")
    return ", ".join(f"{name} {({'python': on.here['python']} | on.here['packages'])[name]}" for name in names[:3])


def code(on: Findings) -> str:
    for host, facts in on.facts.items():
        if facts["sources"] is None:
            on.fail(host, f"no code in {REPOSITORY}", "clone the repository there, at the same path")
        elif facts["commit"] != on.here["commit"]:
            mend = f"git checkout {(on.here['commit'] or 'the same commit')[:12]} there"
            on.fail(
                host,
                f"commit {(facts['commit'] or 'none')[:12]}, here {(on.here['commit'] or 'none')[:12]}",
                mend,
            )
        elif facts["sources"] != on.here["sources"]:
            on.fail(
                host, "code differs from this host's, same commit", "git status on both; commit, or copy the change"
            )
    return f"commit {(on.here['commit'] or 'none')[:12]}, sources {(on.here['sources'] or '')[:8]}"


def slots(on: Findings) -> str:
    kind = "cores" if on.job.on_cpu else "GPUs"
    for host, facts in on.facts.items():
        slots, has = on.job.hosts[host], facts["cores"] if on.job.on_cpu else facts["devices"] or 0
        if on.job.on_cpu and facts["devices"] and not on.here["devices"]:
            on.fail(
                host, f"it has {facts['devices']} GPUs, this host none", "export DS_ACCELERATOR=cuda, or start there"
            )
        elif max(slots) >= has:
            on.fail(
                host,
                f"slot {max(slots)} of slots 0 to {max(slots)}: it has {has} {kind}",
                f"write slots={has} or fewer",
            )
    counts = Counter(map(len, on.job.hosts.values()))
    return ", ".join(f"{hosts} × {slots} of its {kind}" for slots, hosts in counts.items())


def config_files(on: Findings) -> str:
    for host, facts in on.facts.items():
        for path, digest in facts["files"].items():
            if digest is None:
                on.fail(host, f"cannot read {path}", "put it at the same path there")
            elif digest != on.here["files"][path]:
                on.fail(host, f"{path} differs from this host's", "copy it there")
    return f"{len(on.here['files'])} files, the data's manifest among them"


def data(on: Findings) -> str:
    for host, facts in on.facts.items():
        problems = {path: problem for path, problem in facts["shards"].items() if problem}
        for path, problem in list(problems.items())[:1]:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            on.fail(host, f"{path}: {problem}{more}", "mount or copy the whole data folder there")
    return f"{len(on.here['shards'])} shard files looked at"


def shared_folder(on: Findings) -> str:
    """All hosts must read and write the one folder of checkpoints: leave a token there, and have each answer it."""
    assert on.job.config is not None
    folder = folder_of(on.job.config.run.out.absolute())
    place, token = folder / f".check-{secrets.token_hex(4)}", secrets.token_hex(16)
    try:
        place.mkdir(parents=True)
        (place / "token").write_text(token)
        answers = on.ask(
            "exchange", {host: {"name": f"{host}.host"} for host in on.facts}, folder=str(place), token=token
        )
        for host, answer in answers.items():
            if not answer["written"]:
                on.fail(
                    host,
                    f"{folder} is not writable ({answer.get('reason', 'Permission denied')})",
                    "mount it writable",
                )
            elif not answer["shared"] or not (place / f"{host}.host").exists():
                on.fail(
                    host,
                    f"{folder} there is another folder than here",
                    "put run.out on a file system that all hosts share",
                )
    except OSError as error:
        on.fail(HERE, f"{folder} is not writable ({error.strerror})", "choose another run.out")
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return str(folder)


def disk(on: Findings) -> str:
    assert on.job.config is not None
    needed, free = needed_disk(on.job.config), on.here["free_disk"]
    if free < needed:
        what = f"{free / 1e9:.1f} GB free for {needed / 1e9:.1f} GB of checkpoints"
        on.fail(HERE, what, "make room, or lower run.keep")
    for host, facts in on.facts.items():
        wanted = SHARED_MEMORY * len(on.job.hosts[host])
        if on.job.on_cpu and facts["free_shared_memory"] < wanted:
            what = f"{facts['free_shared_memory'] >> 20} MB free in /dev/shm, {wanted >> 20} are needed"
            on.fail(host, what, "remove what ended runs left there, or enlarge it")
    return f"{free / 1e9:.1f} GB free, checkpoints take {needed / 1e9:.1f} GB"


def explain_ssh(host: str, reason: str) -> tuple[str, str]:
    """What ssh's last words mean, and what to do."""
    known = {
        "Could not resolve": (
            f"{host} is no known host",
            "correct its name in the hostfile, or add it to /etc/hosts or DNS",
        ),
        "Permission denied": ("ssh: permission denied", f"ssh-copy-id {host}, so that it needs no password"),
        "Host key verification failed": ("ssh does not know its host key", f"ssh-keyscan {host} >> ~/.ssh/known_hosts"),
        "Connection refused": ("ssh: connection refused", f"start sshd on {host}, or give its --ssh_port"),
        "timed out": ("ssh: no answer", f"is {host} on, and does its firewall let port 22 in?"),
        "No route to host": ("ssh: no route to it", f"is {host} on, and on this network?"),
        "not found": ("no python3 there", "install Python and run ./launch.sh setup there"),
    }
    return next(
        (line for words, line in known.items() if words in reason), (f"ssh: {reason}", f"try: ssh {host} hostname")
    )
