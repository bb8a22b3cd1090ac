"""The launching host's hands on another host: a program that is sent over ssh and answers one JSON line per request.

It reports facts, tries connections, starts the ranks of an all-reduce, and signals a job's processes; and it ends them
itself when the launching host falls silent, so that nothing is left behind on a host that was cut off. Standard library
only: the host may have no environment yet, and to say so is part of the work. What the answers mean is judged elsewhere.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import importlib.metadata
import json
import os
import platform
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pipeline.host import rendezvous

JOB = "XLM_ALIGN_JOB"  # the variable by which the processes of a job are known, on every host
SILENCE_SECONDS = 25  # without a word from the launching host for so long, a job is ended
CONNECT_SECONDS = 4
SOURCES = ("pipeline", "data_prep", "kernels", "ds_configs")
SOURCE_SUFFIXES = (".py", ".json", ".yaml")


class Agent:
    """Answers requests {"do": verb, …}: every public method is a verb, and what it returns is the answer."""

    def __init__(self) -> None:
        self.job = ""
        self.parents: dict[int, int] = {}  # of the ranks, when they were first seen
        self.listeners: list[socket.socket] = []

    def serve(self) -> None:
        """Read requests until standard input ends, or is silent for too long while a job runs."""
        try:
            self._answer_requests()
        finally:
            if self.job:
                self.kill()

    def _answer_requests(self) -> None:
        waiting = b""
        while True:
            ready, _, _ = select.select([0], [], [], SILENCE_SECONDS if self.job else None)
            block = os.read(0, 1 << 16) if ready else b""
            if not block:
                break
            *lines, waiting = (waiting + block).split(b"\n")
            for line in lines:
                request = json.loads(line)
                try:
                    answer = getattr(self, request.pop("do"))(**request)
                except OSError as error:
                    answer = {"error": f"{error.strerror or error}"}
                print(json.dumps(answer), flush=True)

    def facts(
        self, folder: str, repository: str, packages: list[str], files: list[str], shards: dict[str, int], out: str
    ) -> dict[str, Any]:
        """What a host must have in common with the others, and what it has of its own."""
        return {
            "time": time.time(),
            "hostname": socket.gethostname(),
            "python": platform.python_version(),
            "executable": sys.executable,
            "folder": os.path.isdir(folder),
            "packages": {name: _version(name) for name in packages},
            "commit": _commit(repository),
            "sources": _hash_of_sources(repository),
            "files": {path: _hash_of_file(path) for path in files},
            "shards": {path: _problem_of(path, size) for path, size in shards.items()},
            "devices": count_gpus(),
            "cores": len(os.sched_getaffinity(0)),
            "free_disk": free_bytes(out),
            "free_shared_memory": free_bytes("/dev/shm"),
            "interfaces": {name: rendezvous.address_of(name) for name in rendezvous.interfaces()},
        }

    def clock(self) -> dict[str, float]:
        return {"time": time.time()}

    def exchange(self, folder: str, token: str, name: str) -> dict[str, Any]:
        """Read the launching host's file in a shared folder and leave one of our own beside it."""
        try:
            shared = Path(folder, "token").read_text() == token
        except OSError:
            shared = False
        if not os.path.isdir(folder):  # elsewhere on this host: at least say whether it could be written
            return {"shared": False, "written": os.access(_nearest(folder), os.W_OK)}
        try:
            Path(folder, name).write_text(name)
        except OSError as error:
            return {"shared": shared, "written": False, "reason": error.strerror}
        return {"shared": shared, "written": True}

    def route(self, host: str) -> dict[str, Any]:
        """The interface and own address with which this host reaches another, or itself."""
        interface, address = rendezvous.interface_towards(host)
        return {"interface": interface, "address": address}

    def listen(self, address: str, ports: list[int]) -> dict[str, Any]:
        """Accept connections at these ports; port 0 is any free one. Answers with those that were got."""
        bound = []
        for port in ports:
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listeners.append(listener)
            try:
                listener.bind((address, port))
            except OSError as error:
                return {"error": error.strerror, "port": port}
            listener.listen(1024)
            bound.append(listener.getsockname()[1])
        return {"ports": bound}

    def hush(self) -> dict[str, Any]:
        """Close what `listen` opened."""
        while self.listeners:
            self.listeners.pop().close()
        return {}

    def reach(self, targets: list[tuple[str, str, int]]) -> dict[str, Any]:
        """Connect to (name, address, port) each, all at a time; answers with those that failed and why."""
        failures: dict[str, str] = {}

        def connect(name: str, address: str, port: int) -> None:
            try:
                socket.create_connection((address, port), CONNECT_SECONDS).close()
            except OSError as error:
                failures[f"{name}:{port}"] = error.strerror or "no answer"

        threads = [threading.Thread(target=connect, args=target, daemon=True) for target in targets]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * CONNECT_SECONDS)
        return {"failures": failures}

    def reduce(self, script: str, ranks: list[dict[str, str]], seconds: int) -> dict[str, Any]:
        """Run a Python script once for each rank with its variables; answers with outputs and what went wrong."""
        began = time.monotonic()
        started = [
            subprocess.Popen(
                [sys.executable, "-c", script], env={**os.environ, **variables},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for variables in ranks
        ]  # fmt: skip
        outputs, errors = [], []
        for process in started:
            try:
                output, error = process.communicate(timeout=max(0.1, seconds - (time.monotonic() - began)))
            except subprocess.TimeoutExpired:
                process.kill()
                output, error = process.communicate()
                errors.append(f"no answer in {seconds} s")
            outputs.append(output)
            if process.returncode > 0:
                errors.append((error.strip().splitlines() or [f"exit code {process.returncode}"])[-1])
        return {"outputs": outputs, "errors": errors}

    def guard(self, job: str) -> dict[str, Any]:
        """From now on, silence or the end of the connection ends the processes of this job."""
        self.job, self.parents = job, {}
        return {}

    def beat(self) -> dict[str, Any]:
        """How many ranks run here, and how many of them have another parent than at first: their launcher has died."""
        parents = {rank: _parent(rank) for rank in self._ranks(self._processes())}
        self.parents = parents | self.parents
        return {"ranks": len(parents), "orphans": sum(self.parents[rank] != parent for rank, parent in parents.items())}

    def stop(self) -> dict[str, Any]:
        """SIGTERM to the job's ranks on this host: they agree on a step, save and end."""
        ranks = self._ranks(self._processes())
        for process in ranks:
            _signal(process, signal.SIGTERM)
        return {"ranks": len(ranks)}

    def kill(self) -> dict[str, Any]:
        """SIGKILL to all processes of the job on this host, until there are none; what they leave in /dev/shm goes too."""
        deadline = time.monotonic() + CONNECT_SECONDS
        killed: set[int] = set()
        while (found := set(self._processes())) and time.monotonic() < deadline:
            killed |= found
            for process in found:
                _signal(process, signal.SIGKILL)
            time.sleep(0.05)
        return {"killed": len(killed), "left": len(self._processes())}

    def sweep(self, port: int) -> dict[str, Any]:
        """Remove the shared memory that DeepSpeed leaves for a job whose ranks could not clean up: 66 MB each."""
        for buffer in glob.glob(f"/dev/shm/deepspeed_allreduce_buffer_*_{port}_*"):
            os.unlink(buffer)
        return {}

    def _processes(self) -> dict[int, dict[str, str]]:
        """Process id → environment of the job's processes that have not ended."""
        found = {}
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == os.getpid():
                continue
            try:
                variables = Path("/proc", name, "environ").read_bytes().decode(errors="replace").split("\0")
                environment = dict(variable.partition("=")[::2] for variable in variables)
                if environment.get(JOB) == self.job and self.job:
                    found[int(name)] = environment
            except OSError:  # it has ended meanwhile, or is another user's
                continue
        return found

    def _ranks(self, processes: dict[int, dict[str, str]]) -> list[int]:
        """The ranks among a job's processes: those that run train.py for a launcher, their own children left out."""
        training = set()
        for process, environment in processes.items():
            rendezvous.adopt(environment)
            try:
                words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                trains = any(word.endswith(b"pipeline/train.py") for word in words[:4])
            except OSError:
                continue
            if trains and "RANK" in environment:
                training.add(process)
        return [process for process in training if _parent(process) not in training]


def _signal(process: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(repository: str) -> str | None:
    git = ["git", "-c", f"safe.directory={repository}", "-C", repository, "rev-parse", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _hash_of_sources(repository: str) -> str | None:
    """One hash of all code and settings: it also tells apart what was changed and not committed."""
    digest = hashlib.sha256()
    paths = [Path(repository, "launch.sh")]
    for folder in SOURCES:
        paths += [path for path in sorted(Path(repository, folder).rglob("*")) if path.suffix in SOURCE_SUFFIXES]
    for path in paths:
        try:
            digest.update(f"{path.relative_to(repository)}\0".encode() + path.read_bytes() + b"\0")
        except OSError:
            return None
    return digest.hexdigest()


def _hash_of_file(path: str) -> str | None:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def _problem_of(path: str, size: int) -> str | None:
    """Why a file of this size cannot be read; None where it can."""
    try:
        with open(path, "rb") as file:
            file.read(1)
            found = os.fstat(file.fileno()).st_size
    except OSError as error:
        return str(error.strerror).lower()
    return None if found == size else f"{found} bytes, {size} expected"


def count_gpus() -> int | None:
    """GPUs that this host's processes may use; None where the NVIDIA driver is not there."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([device for device in visible.split(",") if device.strip()])
    if not (tool := shutil.which("nvidia-smi")):
        return None
    try:
        listing = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False).stdout
    except subprocess.TimeoutExpired:
        return None
    return sum(line.startswith("GPU ") for line in listing.splitlines())


def _nearest(path: str) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def free_bytes(path: str) -> int:
    return shutil.disk_usage(_nearest(path)).free


def main() -> None:
    # A connection that ends may bring these before the job's processes are ended.
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    Agent().serve()
