"""A run that loses a rank or a host goes on with what answers, and ends as if nothing had happened."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cluster.attempt import Attempt
from pipeline.cluster.supervise import micro_steps
from pipeline.settings.schema import load_config

survive = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("survive.py"))))
DETECTED_SECONDS = 60
STEPS, BROKEN_AT = 80, 15


@pytest.fixture(scope="module")
def straight(cluster: Any) -> dict[int, list[float]]:
    losses = survive.straight_run(cluster, STEPS)
    assert list(losses) == list(range(1, STEPS + 1))
    return losses


@pytest.mark.root
@pytest.mark.launch
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("rank", "SIGKILL"),
        ("crash", "node1 is lost"),
        pytest.param("mpiexec", "exit code 137 (SIGKILL)", marks=pytest.mark.mpi),
    ],
)
def test_a_broken_run_ends_with_the_straight_run_s_losses(
    fault: str, reason: str, cluster: Any, straight: dict[int, list[float]]
) -> None:
    found = survive.survive(cluster, fault, BROKEN_AT, f"broken_{fault}", straight)
    assert found.code == 0
    assert reason in found.reason
    assert found.detected_seconds < DETECTED_SECONDS and found.clean_seconds < DETECTED_SECONDS
    assert found.restarts[0].startswith("restart 1 of 3 on node0")
    if fault == "crash":
        assert "without node1" in found.restarts[0]
        assert found.restarts[1] == "node1 answers again: saving, to go on with it"
        assert found.restarts[2] == "restart 1 of 3 on node0, node1"
    assert found.largest_difference <= 1e-5
    assert not cluster.left_running()


@pytest.mark.parametrize(
    ("exits", "gone", "told"),
    [
        ({"node1": 255}, {}, "the launcher on node1 has died, the host answers"),
        ({"node0": 1, "node1": 255}, {"node1": "no answer"}, "node1 is lost (its ssh connection ended)"),
        ({"node0": 255, "node1": 255}, {"node1": "no answer"}, "node1 is lost (its ssh connection ended)"),
        ({"node0": 1, "node1": 247}, {}, "node1 ended first, with exit code 247 (SIGKILL)"),
        ({}, {}, ""),
    ],
)
def test_an_ended_ssh_is_a_dead_launcher_where_the_host_answers(
    exits: dict[str, int], gone: dict[str, str], told: str
) -> None:
    attempt: Any = SimpleNamespace(_exits=exits, crew=SimpleNamespace(gone=gone))
    assert Attempt._first_to_fail(attempt) == told


@pytest.mark.parametrize(
    ("mono", "pairs", "planned", "steps", "ranks", "expected"),
    [
        (48, 192, 2, 1, 1, 2),
        (2048, 2048, 64, 2, 32, 4),
        (2048, 2048, 64, 2, 56, None),
        (48, 96, 4, 1, 3, 2),
        (16, 16, 16, 1, 1, 16),
    ],
)
def test_fewer_ranks_take_more_micro_steps_of_the_same_batch(
    mono: int, pairs: int, planned: int, steps: int, ranks: int, expected: int | None, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data: {path: d}\nrun: {out: r}\ndeepspeed: z.json\n")
    config = load_config(file, [f"batch.mono={mono}", f"batch.pairs={pairs}", f"batch.micro_steps={steps}"])
    assert micro_steps(config, planned, ranks) == expected
