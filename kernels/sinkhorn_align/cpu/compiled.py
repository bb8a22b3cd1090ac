"""C source compiled once a machine into a cache folder, and loaded from there only where nobody else can have put it.

Knows compilers, the cache and what makes its files trustworthy; nothing of what is computed.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import stat
import subprocess
import tempfile
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-std=gnu11", "-shared", "-fPIC")
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
DIGEST_BYTES = 32
"""A SHA-256 at the end of the file, which loaders do not read: a damaged one would end the process, then or later."""


def load(source: Path) -> ctypes.CDLL:
    """The library of a C file, compiled by $CC (default: cc) where it is not in the cache, or not whole there.

    Raises:
        ValueError: it cannot be compiled, or others can write where it would lie.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    folder = cache_folder()
    path = folder / f"{source.stem}-{_fingerprint(compiler, source)}.so"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _check_own(folder)
        if not is_whole(path):
            compile_into(compiler, source, path)
    except OSError as error:
        raise ValueError(
            f"align: backend 'native' cannot be compiled by {compiler[0]} into {folder} ({error.strerror}); install a C "
            "compiler or set CC, set SINKHORN_ALIGN_CACHE to a writable folder, or use backend='torch'"
        ) from None
    return ctypes.CDLL(str(path))


def cache_folder() -> Path:
    """This user's own, below $SINKHORN_ALIGN_CACHE or sinkhorn_align in the user's cache; variables may be empty."""
    caches = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be taken for none, says XDG's definition: it would be wherever one happens to be.
    cache = Path(caches) if os.path.isabs(caches) else Path.home() / ".cache"
    chosen = os.environ.get("SINKHORN_ALIGN_CACHE") or cache / "sinkhorn_align"
    return Path(chosen) / f"user-{os.geteuid()}"


def is_whole(path: Path) -> bool:
    """Whether there is a file that this user alone can have written, with the content that it was written with."""
    try:
        found, content = path.lstat(), path.read_bytes()
    except FileNotFoundError:
        return False
    own = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & OTHERS_WRITE
    return own and hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:]


def compile_into(compiler: list[str], source: Path, path: Path) -> None:
    """Into a file of its own first, then renamed, so that ranks that start together do not read each other's half."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        command = [*compiler, *FLAGS, str(source), "-o", str(built), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            first = next(iter(done.stderr.splitlines()), f"exit code {done.returncode}")
            raise ValueError(f"align: `{shlex.join(command)}` failed: {first}; use backend='torch'")
        content = built.read_bytes()
        with built.open("ab") as file:
            os.fchmod(file.fileno(), 0o700)
            file.write(hashlib.sha256(content).digest())
            file.flush()
            os.fsync(file.fileno())  # or a crash of the machine leaves the name of a file without its content
        os.replace(built, path)


def _check_own(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & OTHERS_WRITE:
        raise ValueError(
            f"align: {folder}: others can write there, and what it holds would be run; delete it, set SINKHORN_ALIGN_CACHE "
            "to a folder of your own, or use backend='torch'"
        )


def _fingerprint(compiler: list[str], source: Path) -> str:
    """Of all that the compiled code depends on; a cache folder may be shared by machines with other processors."""
    cpu = platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        cpu += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256("\0".join([cpu, *compiler, *FLAGS]).encode() + source.read_bytes()).hexdigest()[:16]
