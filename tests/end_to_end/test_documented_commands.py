"""README's commands and those of docs/, typed at a terminal in a folder outside the clone, in the order of the pages.

What stands there is what a user may type. README's pretraining is stopped as users stop it: SIGTERM to `launch.sh`, then Ctrl-C
at the terminal; the third command ends by itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.end_to_end import documented
from tests.end_to_end.conftest import PATIENCE_SECONDS, REPOSITORY, free_port
from tests.end_to_end.documented import Workspace
from tests.end_to_end.exported import differences
from tests.loopback_hub import serving
from tests.terminal import at_terminal

COMMANDS = documented.runnable()
TRAINING = [command for command in COMMANDS if "train xlm_align_base" in command]


@pytest.fixture(scope="module")
def workspace(corpus: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A folder with all files that the pages name, a hub with the model that they name, and the environment entered."""
    if not (REPOSITORY / ".venv" / ".installed-runtime").exists():
        pytest.skip("launch.sh would install into .venv first: run `./launch.sh setup`")
    shared = ROOT.parent / "shared"
    real = shared if (shared / "data" / "multi30k").is_dir() else None
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in documented.environment(REPOSITORY / ".venv" / "bin").items():
            patch.setenv(name, value)
        documented.make_files(folder, corpus.data.parent / "sample", real)  # type: ignore[attr-defined]
        documented.make_model(folder)
        port = free_port()
        with serving() as hub:
            hub.add("FacebookAI/xlm-roberta-base", folder / "xlm-roberta-base")
            patch.setenv("HF_ENDPOINT", hub.endpoint)
            patch.setenv("HF_HOME", str(folder / "home"))
            yield Workspace(folder, port)
    for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
        buffer.unlink()


def start(workspace: Workspace, words: list[str], terminal: int | None = None) -> subprocess.Popen[str]:
    """Start a command in a session of its own, with a terminal if one is given (its slave's descriptor)."""

    def take_terminal() -> None:
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    return subprocess.Popen(
        words,
        cwd=workspace.folder,
        stdin=terminal if terminal is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=take_terminal,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a command that must succeed; its output."""
    try:
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, output
    return output


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


def check_sigterm(workspace: Workspace, command: str) -> None:
    words = workspace.words(f"exec {command}", "run.steps=100000")
    process = start(workspace, words)
    stop_after_two_steps(workspace, process, process.terminate)


def check_ctrl_c_at_a_terminal(workspace: Workspace, command: str) -> None:
    saved = workspace.logged_steps()[-1]
    screen, terminal = pty.openpty()
    process = start(workspace, workspace.words(command, "run.steps=100000"), terminal)
    output = stop_after_two_steps(workspace, process, lambda: os.write(screen, b"\x03") and None)
    assert f"/runs/base/checkpoints/step_{saved:08d}" in output and "continues from" in output
    steps = workspace.logged_steps()
    assert steps == list(range(1, steps[-1] + 1)), "every step once, in order"


def check_runs_to_its_end(workspace: Workspace, command: str) -> None:
    last = workspace.logged_steps()[-1] + 2
    output = finish(start(workspace, workspace.words(command, f"run.steps={last}")))
    assert workspace.logged_steps()[-1] == last
    assert "done" in output


def check_typed(workspace: Workspace, command: str) -> None:
    """Type a command at a terminal; see that it succeeds and leaves what it promises."""
    shorter = any(f" train {recipe} " in command for recipe in ("adapt", "xlm_t_base"))
    more = ["run.steps=3", "run.save_every=3"] if shorter else []
    if " adapt " in command and " train " not in command:
        command += " --steps 2"
    typed = at_terminal(workspace.words(command, *more), workspace.folder, "terminal")
    assert typed.code == 0, typed.screen
    assert "Traceback" not in typed.screen
    if " align " in command and command.endswith("> links.pharaoh"):
        _check_links(workspace, command)
    if command.endswith("export runs/base hf/base"):
        lines = (workspace.folder / "text.de").read_text(encoding="utf-8").splitlines()[:50]
        assert max(differences(workspace.run, workspace.folder / "hf" / "base", lines)) < 1e-5
    if " evaluate " in command and "--json aer.json" in command:
        scores = json.loads((workspace.folder / "aer.json").read_text(encoding="utf-8"))
        assert len(scores[-1]["layers"]) == 13, "the embeddings and every layer"


def _check_links(workspace: Workspace, command: str) -> None:
    given = "pairs.txt" if "pairs.txt" in command else "text.en"
    source, links = (
        (workspace.folder / name).read_text(encoding="utf-8").splitlines() for name in (given, "links.pharaoh")
    )
    assert len(links) == len(source)
    assert all(re.fullmatch(r"(\d+-\d+( \d+-\d+)*)?", line) for line in links)
    assert any(links)
    (workspace.folder / "links.pharaoh").unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_command(workspace: Workspace, command: str) -> None:
    checks = dict(zip(TRAINING, (check_sigterm, check_ctrl_c_at_a_terminal, check_runs_to_its_end), strict=True))
    if command.startswith("python -m data_prep merge"):
        for language in ("de", "en"):
            part = f"cc100/part-{language}.txt.xz"  # README's `data` holds another de.txt.xz, which merge would refuse
            shutil.copyfile(workspace.folder / "cc100" / f"{language}.txt.xz", workspace.folder / part)
            mono = f"python -m data_prep mono {part} --lang {language} --tokenizer xlmr --out data-{language}"
            assert at_terminal(["bash", "-c", mono], workspace.folder, "terminal").code == 0
    if command.startswith("python -m pipeline score"):
        gold = "gold/en-de/test"
        align = f"python -m pipeline align hf/base {gold}.en {gold}.de > links.pharaoh"
        assert at_terminal(["bash", "-c", align], workspace.folder, "terminal").code == 0
    if " export " in command:  # two pages export into one folder
        shutil.rmtree(workspace.folder / command.split()[-1], ignore_errors=True)
    checks.get(command, check_typed)(workspace, command)


def test_every_command_of_the_pages_is_typed_or_has_a_reason() -> None:
    every = {command for page in documented.PAGES for command in documented.commands(page)}
    left_out = {command: [part for part in documented.NOT_RUN if part in command] for command in every - set(COMMANDS)}
    assert all(left_out.values())
    assert set(documented.NOT_RUN) <= {part for parts in left_out.values() for part in parts}, (
        "a reason without a command"
    )
    assert len(TRAINING) == 3, "each of them is stopped in its own way"
    assert len(COMMANDS) > 35


def test_quickstart_leaves_a_summary_and_a_picture(workspace: Workspace) -> None:
    summary = json.loads((workspace.folder / "quickstart" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 20
    assert summary["aer_before"] >= 0.4, "an untrained encoder does not align"
    assert set(summary["losses_last"]) == {"mlm_loss", "tlm_loss", "dwa_loss"}
    assert summary["tokens_per_second"] > 0
    for path in summary["paths"].values():
        assert (workspace.folder / path).exists(), path
    assert (workspace.folder / summary["paths"]["picture"]).read_bytes().startswith(b"\x89PNG")
