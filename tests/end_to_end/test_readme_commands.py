"""Every command of README runs, in README's order, on a corpus of seconds: what stands there is what a user may type.

Training is stopped as users stop it: SIGTERM to `launch.sh`, then Ctrl-C at a terminal; the third command ends by itself.
"""

from __future__ import annotations

import fcntl
import json
import lzma
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from data_prep.tokenizer import Tokenizer
from tests.end_to_end.conftest import PATIENCE_SECONDS, REPOSITORY, free_port
from tests.end_to_end.exported import differences

BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# This suite is what `test` runs; started from within itself it would never end.
NOT_RUN = "./launch.sh test"
# What the test has less of than the user: text, time, memory and devices.
SMALLER = {
    "./launch.sh quickstart": "./launch.sh quickstart --steps 20",
    "./launch.sh": str(REPOSITORY / "launch.sh"),
    "--vocab-size 32000": "--vocab-size 300",
    "--workers 8": "--workers 2",
    "xlm-roberta-base": "tiny-xlm-roberta",
    "pipeline/configs": str(REPOSITORY / "pipeline" / "configs"),
}
SMALLER_TRAINING = [
    "batch.mono=8",
    "batch.pairs=8",
    "batch.micro_steps=2",
    "run.log_every=1",
    f"deepspeed={REPOSITORY / 'ds_configs' / 'zero2_fp32.json'}",
]


def readme_commands() -> list[str]:
    """The commands in README's blocks, in order."""
    lines = "".join(BLOCK.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))).splitlines()
    return [line for line in lines if line.startswith(("./launch.sh ", "python -m "))]


COMMANDS = readme_commands()
TRAINING = [command for command in COMMANDS if command.startswith("./launch.sh train")]


@dataclass
class Workspace:
    """A user's folder: the files that README's commands name."""

    folder: Path
    environment: dict[str, str]
    port: int

    @property
    def run(self) -> Path:
        """Where README's training writes."""
        return self.folder / "runs" / "base"

    def words(self, command: str) -> list[str]:
        """The command as it is run here."""
        for written, here in SMALLER.items():
            command = re.sub(rf"{re.escape(written)}(?![\w-])", here, command)
        return ["bash", "-c", command] if set(">*") & set(command) else shlex.split(command)

    def start(self, command: list[str], terminal: int | None = None) -> subprocess.Popen[str]:
        """Start a command in a session of its own, with a terminal if one is given (its slave's descriptor)."""

        def take_terminal() -> None:
            if terminal is not None:
                fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdin=terminal if terminal is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=take_terminal,
        )

    def logged_steps(self) -> list[int]:
        """Optimizer steps in the run's metrics, in the order of the lines."""
        file = self.run / "metrics.jsonl"
        lines = map(json.loads, file.read_text(encoding="utf-8").splitlines()) if file.exists() else []
        return [line["step"] for line in lines if line["kind"] == "train"]


@pytest.fixture(scope="module")
def workspace(corpus: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Files with README's names, out of the generated corpus."""
    if not (REPOSITORY / ".venv" / ".installed-runtime").exists():
        pytest.skip("launch.sh would install into .venv first: run `./launch.sh setup`")
    sample = corpus.data.parent / "sample"  # type: ignore[attr-defined]
    folder = tmp_path_factory.mktemp("readme")
    for name, language in (("en", "qaa"), ("de", "qab")):
        pairs = (sample / "parallel" / f"train.qaa-qab.{language}").read_bytes()
        (folder / f"corpus.{name}").write_bytes(pairs)
        (folder / f"text.{name}").write_bytes(pairs)
        gold = folder / "gold" / "en-de"
        gold.mkdir(parents=True, exist_ok=True)
        (gold / f"test.{name}").write_bytes((sample / "gold" / "qaa-qab" / f"test.{language}").read_bytes())
    (folder / "de.txt.xz").write_bytes(lzma.compress((folder / "text.de").read_bytes()))
    (folder / "gold" / "en-de" / "alignv2.txt").write_bytes((sample / "gold" / "qaa-qab" / "alignv2.txt").read_bytes())
    (folder / "udpos").mkdir()
    for name in ("train-en", "dev-en", "test-en", "test-de"):
        sentences = (folder / f"text.{name[-2:]}").read_text(encoding="utf-8").splitlines()[:20]
        tags = [
            [f"{word}\t{'DET' if at % 2 == 0 else 'NOUN'}\n" for at, word in enumerate(line.split())]
            for line in sentences
        ]
        (folder / "udpos" / f"{name}.tsv").write_text("\n".join(map("".join, tags)), encoding="utf-8")
    (folder / "ds_configs").symlink_to(REPOSITORY / "ds_configs")
    (folder / "hosts").write_text("localhost slots=2\n", encoding="utf-8")

    train = [sys.executable, "-m", "data_prep", "tokenizer", "train", "text.en", "text.de", "--vocab-size", "300"]
    subprocess.run([*train, "--out", "first"], cwd=folder, check=True, capture_output=True)
    model = folder / "first" / "sentencepiece.bpe.model"
    (folder / "sentencepiece.bpe.model").write_bytes(model.read_bytes())
    tiny = XLMRobertaConfig(
        vocab_size=Tokenizer.load(folder / "first").vocab_size,
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    XLMRobertaForMaskedLM(tiny).save_pretrained(folder / "tiny-xlm-roberta")

    tools = REPOSITORY / ".venv" / "bin"
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}
    port = free_port()
    yield Workspace(folder, {**environment, "OMP_NUM_THREADS": "1"}, port)
    for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
        buffer.unlink()


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a command that must succeed; its output."""
    try:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output
    return output


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in (*TRAINING, NOT_RUN)][:-5])
def test_readme_command_before_training(workspace: Workspace, command: str) -> None:
    finish(workspace.start(workspace.words(command)))


def training_words(workspace: Workspace, command: str, *more: str) -> list[str]:
    launcher = ["--master_port", str(workspace.port)]
    # The hosts file names this machine only, which need not run an ssh server.
    local = ["--master_addr=127.0.0.1", "--no_ssh_check"]
    launcher += local if "--hostfile" in command else ["--num_accelerators", "2"]
    return [*workspace.words(command), *launcher, *SMALLER_TRAINING, *more]


def stop_after_two_steps(workspace: Workspace, process: subprocess.Popen[str], stop: Callable[[], None]) -> str:
    """Let training make two steps, stop it, and see that it saved and left no process behind."""
    before, end = len(workspace.logged_steps()), time.monotonic() + PATIENCE_SECONDS
    while len(workspace.logged_steps()) < before + 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no step was made"
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 3, "the launcher and two ranks were expected"
    stop()
    output = finish(process)
    assert "the ranks save after this step" in output
    assert f"stopped at step {workspace.logged_steps()[-1]}: saved" in output
    assert not [child for child in started if child.is_running()]
    return output


def test_training_saves_and_ends_on_sigterm(workspace: Workspace) -> None:
    process = workspace.start(training_words(workspace, TRAINING[0], "run.steps=100000"))
    stop_after_two_steps(workspace, process, process.terminate)


def test_resumed_training_saves_and_ends_on_ctrl_c_at_a_terminal(workspace: Workspace) -> None:
    saved = workspace.logged_steps()[-1]
    screen, terminal = pty.openpty()
    process = workspace.start(training_words(workspace, TRAINING[1], "run.steps=100000"), terminal)
    output = stop_after_two_steps(workspace, process, lambda: os.write(screen, b"\x03") and None)
    assert f"continues from runs/base/checkpoints/step_{saved:08d}" in output
    steps = workspace.logged_steps()
    assert steps == list(range(1, steps[-1] + 1)), "every step once, in order"


def test_training_with_a_hostfile_runs_to_its_end(workspace: Workspace) -> None:
    last = workspace.logged_steps()[-1] + 2
    output = finish(workspace.start(training_words(workspace, TRAINING[2], f"run.steps={last}")))
    assert workspace.logged_steps()[-1] == last
    assert "done" in output


@pytest.mark.parametrize("command", COMMANDS[-5:])
def test_readme_command_after_training(workspace: Workspace, command: str) -> None:
    finish(workspace.start(workspace.words(command)))
    if " export " in command:
        lines = (workspace.folder / "text.de").read_text(encoding="utf-8").splitlines()[:50]
        assert max(differences(workspace.run, workspace.folder / "hf" / "base", lines)) < 1e-5
    if " align " in command:
        source, links = ((workspace.folder / name).read_text().splitlines() for name in ("text.en", "links.pharaoh"))
        assert len(links) == len(source)
        assert all(re.fullmatch(r"(\d+-\d+( \d+-\d+)*)?", line) for line in links)
    if " evaluate " in command:
        (scores,) = json.loads((workspace.folder / "aer.json").read_text(encoding="utf-8"))
        assert len(scores["layers"]) == 13, "the embeddings and every layer"
    if " finetune " in command:
        results = json.loads((workspace.folder / "pos" / "results.json").read_text(encoding="utf-8"))
        assert set(results["summary"]) == {"de", "en", "mean"}


def test_no_readme_command_is_left_out() -> None:
    assert len(TRAINING) == 3, "each of them has a test of its own"
    after = [command.split()[3] for command in COMMANDS[-5:]]
    assert after == ["report", "export", "align", "evaluate", "finetune"]
    assert NOT_RUN in COMMANDS


def test_quickstart_leaves_a_summary_and_a_picture(workspace: Workspace) -> None:
    summary = json.loads((workspace.folder / "quickstart" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 20
    assert summary["aer_before"] >= 0.4, "an untrained encoder does not align"
    assert set(summary["losses_last"]) == {"mlm_loss", "tlm_loss", "dwa_loss"}
    assert summary["tokens_per_second"] > 0
    for path in summary["paths"].values():
        assert (workspace.folder / path).exists(), path
    assert (workspace.folder / summary["paths"]["picture"]).read_bytes().startswith(b"\x89PNG")
