"""Hosts train as one machine does, whatever starts them; a signal saves; data_prep's hosts write one process's bytes."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoints import checkpoint

pytestmark = [pytest.mark.root, pytest.mark.launch]
ZERO3 = f"deepspeed={Path(__file__).resolve().parents[2] / 'ds_configs' / 'zero3_fp32.json'}"
TOLERANCE = 1e-5
ENVIRONMENT = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
TRAIN = Path(__file__).resolve().parents[2] / "pipeline" / "train.py"


@pytest.fixture(scope="module")
def one_rank(cluster: Any) -> dict[int, list[float]]:
    """Losses of one rank on one host."""
    words = (sys.executable, TRAIN, "--config", cluster.config, "run.out=one")
    done = cluster.start("node2", *words, **ENVIRONMENT)
    assert done.wait() == 0, done.output
    return cluster.losses(cluster.folder / "one")


def check_same(found: dict[int, list[float]], expected: dict[int, list[float]], output: str) -> None:
    assert list(found) == list(expected) == list(range(1, 13)), output
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, abs=TOLERANCE, rel=0), f"step {step}"


def test_two_hosts_of_pdsh_under_zero_2_train_as_one(cluster: Any, one_rank: dict[int, list[float]]) -> None:
    (cluster.folder / ".deepspeed_env").write_text("CARRIED_BY_USER=1\n")
    try:
        done = cluster.train("node0", "--hostfile", cluster.hosts(2), "run.out=two")
        assert done.wait() == 0, done.output
        assert (cluster.folder / ".deepspeed_env").read_text() == "CARRIED_BY_USER=1\n"
    finally:
        (cluster.folder / ".deepspeed_env").unlink()
    assert "2 ranks meet at 10.99.7.10:29500 over eth0 with gloo" in done.output
    assert not list((cluster.folder / "two" / "launch").iterdir()), "what may be secret goes with the job"
    check_same(cluster.losses(cluster.folder / "two"), one_rank, done.output)
    assert not cluster.left_running()
    assert not list(Path("/dev/shm").glob("deepspeed_allreduce_buffer_*_29500_*"))


def test_three_hosts_of_mpich_under_zero_3_train_as_one(cluster: Any, one_rank: dict[int, list[float]]) -> None:
    # One of many runs of this returned 0 after 6 steps, as where a signal ends mpiexec: then the job is to go on.
    mpich = ("--hostfile", cluster.hosts(3), "--launcher", "mpich", "--keep-going", 1)
    done = cluster.train("node0", *mpich, "run.out=three", ZERO3)
    assert done.wait() == 0, done.output
    check_same(cluster.losses(cluster.folder / "three"), one_rank, done.output)
    assert not cluster.left_running()


def test_hosts_started_by_hand_train_as_one(cluster: Any, one_rank: dict[int, list[float]]) -> None:
    by_hand = ("--hostfile", cluster.hosts(2), "--no_ssh", "--master_addr", "node0", "run.out=by_hand", ZERO3)
    started = [cluster.train(f"node{k}", *by_hand, "--node_rank", k) for k in range(2)]
    for host in started:
        assert host.wait() == 0, host.output
    check_same(cluster.losses(cluster.folder / "by_hand"), one_rank, started[0].output)


def test_ctrl_c_saves_on_all_hosts_and_ends_with_0(cluster: Any) -> None:
    run = cluster.folder / "stopped"
    job = cluster.train(
        "node0", "--hostfile", cluster.hosts(2), f"run.out={run}", "run.steps=100000", "run.save_every=100000"
    )
    job.wait_for(lambda: (run / "metrics.jsonl").exists() and len(cluster.losses(run)) > 2)
    job.signal(signal.SIGINT)
    assert job.wait() == 0, job.output
    last = max(cluster.losses(run))
    assert f"stopped at step {last}: saved; continue with --resume auto" in job.output
    info = checkpoint.read_info(checkpoint.folder_of(run) / checkpoint.tag_of(last))
    assert info.world_size == 2
    assert not cluster.left_running()


@pytest.mark.mpi
def test_data_prep_on_three_hosts_writes_the_bytes_of_one_process(cluster: Any) -> None:
    corpus = ("mono", "sample/mono/qab.txt", "--lang", "qab", "--tokenizer", "tokenizer", "--shard-bytes", "5000")
    machines = cluster.hostfile(*(f"{node}:1" for node in cluster.box.nodes))
    mpiexec = Path(sys.executable).with_name("mpiexec")
    hosts = cluster.start(
        "node0", mpiexec, "-f", machines, "-n", 3, sys.executable, "-m", "data_prep", *corpus, "--out", "of_three"
    )
    assert hosts.wait() == 0, hosts.output
    alone = cluster.start("node0", sys.executable, "-m", "data_prep", *corpus, "--out", "of_one")
    assert alone.wait() == 0, alone.output

    def contents(folder: Path) -> dict[str, bytes]:
        return {
            str(p.relative_to(folder)): p.read_bytes()
            for p in folder.rglob("*")
            if p.is_file() and "locks" not in p.parts
        }

    assert contents(cluster.folder / "of_three") == contents(cluster.folder / "of_one")
    assert len(list((cluster.folder / "of_one").rglob("*.bin"))) > 10


def test_slurm_s_and_open_mpi_s_variables_become_the_ranks() -> None:
    from pipeline.host import rendezvous

    for variables in (
        {
            "OMPI_COMM_WORLD_RANK": "3",
            "OMPI_COMM_WORLD_SIZE": "4",
            "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        },
        {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"},
    ):
        environment = dict(variables)
        rendezvous.adopt(environment)
        assert [environment[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["3", "4", "1"]
    batch_script = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}
    rendezvous.adopt(environment := dict(batch_script))
    assert environment == batch_script
