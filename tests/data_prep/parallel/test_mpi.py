"""Ranks of MPI: the same bytes as processes give, errors told once, and a rank that fails or dies ends the job."""

import lzma
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from data_prep.parallel.ranks import spread_evenly

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]
MPIEXEC = Path(sys.executable).with_name("mpiexec")
LIMIT_SECONDS = 30
PROGRESS = ("reading:", "encoding:")

pytestmark = pytest.mark.mpi

FAILING_RANK = """
import sys
import data_prep.run.job
from data_prep.cli import main
from data_prep.parallel.ranks import world

def fail(plan, wanted):
    raise {error}

if world().rank == {rank}:
    data_prep.run.job.ensure_text = fail
sys.exit(main(sys.argv[1:]))
"""


def mpi(ranks: int, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments under mpiexec."""
    command = [str(part) for part in (MPIEXEC, "-n", ranks, sys.executable, *arguments)]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=2 * LIMIT_SECONDS, check=False
    )


def errors(text: str) -> list[str]:
    """Lines of standard error that are no progress."""
    return [line for line in text.splitlines() if line and not line.startswith(PROGRESS)]


@pytest.fixture
def corpus(tmp_path: Path, documents_text: Callable[[int, int], bytes]) -> list[Path]:
    """Text of unequal size, plain and compressed."""
    paths = [tmp_path / name for name in ("a.txt", "b.txt.xz", "c.txt")]
    for seed, (path, count) in enumerate(zip(paths, (150, 300, 40), strict=True)):
        text = documents_text(count, seed)
        path.write_bytes(lzma.compress(text) if path.suffix == ".xz" else text)
    return paths


def test_ranks_and_processes_give_identical_folders(
    corpus: list[Path], pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    mix, french = tmp_path / "mix.yaml", tmp_path / "train.fr"
    french.write_bytes(pair_files[1].read_bytes())
    mix.write_text(
        f"corpora: [{{mono: fr, files: ['{tmp_path}/*.txt']}}, "
        f"{{pair: en-fr, source_files: ['{pair_files[0]}'], target_files: ['{french}']}}]\n"
        "mono_filters: {drop_duplicates: lines}\nshard_bytes: 2000\n"
    )

    def commands(folder: str) -> list[tuple[object, ...]]:
        options = ("--tokenizer", tokenizer_dir, "--out", tmp_path / folder)
        return [
            ("mono", *corpus, "--lang", "de", *options, "--shard-bytes", 2000),
            ("parallel", *pair_files, "--pair", "en-de", *options, "--shard-bytes", 2000),
            ("mix", mix, *options),
        ]

    for command in commands("processes"):
        assert run(*command)[0] == 0
    expected = files_under(tmp_path / "processes")
    assert sum(name.endswith(".bin") for name in expected) > 10
    for ranks, workers, launcher in ((1, 1, ()), (2, 2, ("-m", "mpi4py")), (3, 1, ())):
        for command in commands(f"ranks{ranks}"):
            done = mpi(ranks, *launcher, "-m", "data_prep", *command, "--workers", workers)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("written, 0 already present") == 1
            assert errors(done.stderr) == []
        assert files_under(tmp_path / f"ranks{ranks}") == expected


def test_every_rank_encodes_its_share(corpus: list[Path], tokenizer_dir: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.py"
    trace.write_text(
        "import os, sys\nimport data_prep.run.job as job\nfrom data_prep.cli import main\n"
        "from data_prep.parallel.ranks import world\n"
        "real = job.binarize\n"
        "def binarize(tokenizer, shard):\n"
        f"    with open({str(tmp_path)!r} + f'/rank{{world().rank}}', 'a') as file:\n"
        "        print(shard.plan.source.name, file=file)\n"
        "    return real(tokenizer, shard)\n"
        "job.binarize = binarize\nsys.exit(main(sys.argv[1:]))\n"
    )
    options = ("--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--shard-bytes", 2000)
    assert mpi(3, trace, "mono", *corpus, *options).returncode == 0
    names = [set((tmp_path / f"rank{rank}").read_text().split()) for rank in range(3)]
    assert all({"a.txt", "b.txt.xz"} <= encoded for encoded in names), "also an archive is shared out"


def test_a_users_error_is_told_once(corpus: list[Path], tokenizer_dir: Path, tmp_path: Path) -> None:
    options = ("--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    for arguments, code, part in (
        (("mono", tmp_path / "none.txt", *options), 1, "none.txt: no such file"),
        (("mono", corpus[0], *options, "--workers", 0), 1, "--workers 0"),
        (("mono", corpus[0], *options, "--nonsense"), 2, "--nonsense"),
    ):
        done = mpi(3, "-m", "data_prep", *arguments)
        assert done.returncode == code
        assert len(errors(done.stderr)) == 1
        assert part in done.stderr


@pytest.mark.parametrize(
    ("rank", "error", "told"),
    [
        (1, "ValueError('the reason')", ("error: rank 1 on ", ": the reason")),
        (2, "OSError(28, 'No space left on device')", ("error: rank 2 on ", "no space left on device; make room")),
        (1, "KeyError('a bug')", ("Traceback", "KeyError: 'a bug'")),
        (0, "ValueError('the reason')", ("error: the reason",)),
        (0, "KeyError('a bug')", ("Traceback", "KeyError: 'a bug'")),
    ],
)
def test_a_rank_that_fails_ends_the_job_with_its_reason(
    rank: int, error: str, told: tuple[str, ...], corpus: list[Path], tokenizer_dir: Path, tmp_path: Path
) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING_RANK.format(error=error, rank=rank))
    options = ("--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--shard-bytes", 2000)
    began = time.monotonic()
    done = mpi(3, script, "mono", *corpus, *options)
    assert time.monotonic() - began < LIMIT_SECONDS
    assert done.returncode == 1
    assert all(part in done.stderr for part in told), done.stderr
    assert done.stderr.count("Traceback") == ("Traceback" in told)
    assert not (tmp_path / "data" / "manifest.json").exists()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_rank_ends_the_job_and_its_repetition_completes_it(
    rank: int, tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files, documents_text: Callable
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(documents_text(6000, 5))
    command = ["mono", text, "--lang", "de", "--tokenizer", tokenizer_dir, "--shard-bytes", 4000]
    killed = tmp_path / "killed"
    job = [str(part) for part in (MPIEXEC, "-n", 3, sys.executable, "-m", "data_prep", *command, "--out", killed)]
    process = subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + LIMIT_SECONDS
        while len(list(killed.glob("mono/de/*.json"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        family = psutil.Process(process.pid).children(recursive=True)
        victims = [child for child in family if child.environ().get("PMI_RANK") == str(rank)]
        victims[0].send_signal(signal.SIGKILL)
        began = time.monotonic()
        told, _ = process.communicate(timeout=LIMIT_SECONDS)
        _, alive = psutil.wait_procs(family, timeout=LIMIT_SECONDS - (time.monotonic() - began))
    finally:
        process.kill()
    assert process.returncode != 0
    assert "Killed" in told
    assert not alive
    assert 5 <= len(list(killed.glob("mono/de/*.json"))) < 70
    assert not (killed / "manifest.json").exists()
    assert run(*command, "--out", killed, "--workers", 2)[0] == 0
    assert run(*command, "--out", tmp_path / "straight")[0] == 0
    assert files_under(killed) == files_under(tmp_path / "straight")


def test_ranks_without_an_mpi_library_are_refused_once(tmp_path: Path) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").touch()
    (tmp_path / "mpi4py" / "MPI.py").write_text("raise RuntimeError('cannot load MPI library\\nlong list')")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = mpi(3, "-m", "data_prep", "inspect", tmp_path, PYTHONPATH=path)
    assert done.returncode != 0
    assert errors(done.stderr) == ["error: 3 MPI ranks, but no MPI (cannot load MPI library); pip install mpi4py mpich"]


def test_ranks_of_another_mpi_library_are_refused_once() -> None:
    command = [sys.executable, "-m", "data_prep", "inspect", "data"]
    told = []
    for rank in "01":
        environment = os.environ | {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": rank}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        told += errors(done.stderr)
    assert len(told) == 1
    assert "start them with the mpiexec of that library" in told[0]


def test_one_process_does_not_need_mpi(tmp_path: Path) -> None:
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("raise RuntimeError('cannot load MPI library')")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    # a batch script of Slurm has SLURM_NTASKS and runs once
    environment = os.environ | {"PYTHONPATH": path, "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
    command = [sys.executable, "-m", "data_prep", "sample", "--out", str(tmp_path / "sample")]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def test_the_longest_is_dealt_first() -> None:
    assert spread_evenly([3, 9, 4, 4, 2], 2) == [[1, 4], [0, 2, 3]]
    assert spread_evenly([5], 3) == [[0], [], []]
    assert spread_evenly([], 2) == [[], []]
