"""The environment that a job's processes get on every host, written where DeepSpeed's launcher or the ranks look for it.

ssh and mpirun pass next to nothing on. The user's own `.deepspeed_env` files are read, and never written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

FILE_VARIABLE, FILE_NAME = "DS_ENV_FILE", ".deepspeed_env"
CARRIED = re.compile(
    r"PATH|PYTHONSAFEPATH|LD_LIBRARY_PATH|OMP_NUM_THREADS|HF_HOME|HF_ENDPOINT|HF_HUB_(CACHE|OFFLINE)|"
    r"(DS_ACCELERATOR|TORCH|NCCL|GLOO|TRITON|CUDA)(_\w+)?"
)
FOR_RANKS = re.compile("MLFLOW")
"""Beginnings of names that DeepSpeed carries, and that may be of a password or a token."""
OF_ONE_HOST = {"CUDA_VISIBLE_DEVICES"}
MPI_LAUNCHERS = {"openmpi", "mpich", "impi", "mvapich"}


def user_files(environment: Mapping[str, str]) -> list[Path]:
    """The environment files that DeepSpeed's launcher would read from here, in its order."""
    name = environment.get(FILE_VARIABLE, FILE_NAME)
    places = dict.fromkeys((Path.home() / name, Path.cwd() / name))  # one, where the name is an absolute path
    return [place for place in places if place.is_file()]


def read_file(path: Path) -> tuple[dict[str, str], list[str]]:
    """The variables of an environment file, and a line for each thing in it at which DeepSpeed's launcher stops."""
    variables, problems = {}, []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, equals, value = line.partition("=")
        if not line.strip():
            problems.append(f"{path}:{number}: a blank line, at which deepspeed stops; delete it")
        elif not equals or not re.fullmatch(r"\s*\w+\s*", name):
            problems.append(f"{path}:{number}: {line.strip()!r} is not NAME=value; delete or correct it")
        else:
            variables[name.strip()] = value.strip()
    return variables, problems


def carried(
    environment: Mapping[str, str], launcher: str, own: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Variables for the other hosts: from this process, over them those of the user's files, over them `own`.

    Returns those that the launcher may pass on, by command lines that every user of a host can read, and those for the ranks
    alone: all that the user's files name beyond libraries' settings, as they may be secrets.

    Raises:
        ValueError: a value that the launcher cannot pass on as it is.
    """
    variables = {name: value for name, value in environment.items() if _is_carried(name) and name not in OF_ONE_HOST}
    for path in user_files(environment):
        variables |= read_file(path)[0]
    public = {name: value for name, value in variables.items() if _is_carried(name) and not FOR_RANKS.match(name)}
    private = {name: value for name, value in variables.items() if name not in public}
    public |= own
    # A line each in DeepSpeed's file; where it goes through a shell, it is quoted. Not so mpirun, which would keep the quotes.
    forbidden = r"[^\w@%+=:,./-]" if launcher in MPI_LAUNCHERS else r"[\r\n]"
    for name, value in public.items():
        if found := re.search(forbidden, value):
            raise ValueError(
                f"{name}={value!r}: {launcher} cannot carry {found[0]!r} to other hosts; unset it, or set it in their shells"
            )
    return public, private


def for_the_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """Of this process's variables, what DeepSpeed's launcher may see: it writes some into command lines by their beginnings."""
    return {
        name: value for name, value in environment.items() if re.fullmatch(r"\w+", name) and not FOR_RANKS.match(name)
    }


def write_lines(path: Path, variables: Mapping[str, str]) -> None:
    """Write variables as DeepSpeed's launcher reads them; only the owner may read the file."""
    _write(path, "".join(f"{name}={value}\n" for name, value in variables.items()).encode())


def write_json(path: Path, variables: Mapping[str, str]) -> str:
    """Write variables as `start_rank.py` reads them; only the owner may read the file. Returns the SHA-256 of its content."""
    content = json.dumps(variables).encode()
    _write(path, content)
    return hashlib.sha256(content).hexdigest()


def _is_carried(name: str) -> bool:
    return bool(CARRIED.fullmatch(name) or FOR_RANKS.match(name))


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
