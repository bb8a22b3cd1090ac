"""What libraries say is hidden unless it is asked for; errors, and this project's own warnings, never are."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from data_prep.quiet import prints_hidden, quiet

NOISY = """
import logging, os, sys, types, warnings
import typer
from data_prep.standard_output import DataCommand, put

app = typer.Typer(add_completion=False)

def noise(module):
    own = types.ModuleType(module)
    exec("import warnings\\ndef warn(text, kind): warnings.warn(text, kind)", own.__dict__)
    return own.warn

@app.command(cls=DataCommand)
def command() -> None:
    library = logging.getLogger("library")
    library.setLevel(logging.INFO)
    library.addHandler(logging.StreamHandler(sys.stdout))
    for level in ("info", "warning", "error"):
        getattr(library, level)(f"logged {level}")
    noise("torch.nn")("of a library", UserWarning)
    noise("torch.nn")("CUDA initialization: the driver is too old", UserWarning)
    noise("pipeline.x")("of our own", UserWarning)
    noise("pipeline.x")("soon changed", FutureWarning)
    put("data", os.environ.get("XLM_ALIGN_VERBOSE", ""))

app()
"""
SHOWN = ["logged error", "warning: CUDA initialization: the driver is too old", "warning: of our own"]
HIDDEN = ["logged info", "logged warning", "of a library", "soon changed"]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("XLM_ALIGN_VERBOSE", "PYTHONWARNINGS")}
    command = [sys.executable, "-c", NOISY, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**clean, **environment})


def test_a_command_shows_errors_and_what_a_user_can_act_on_alone() -> None:
    done = run()
    assert done.stdout == "data \n" and done.stderr.splitlines() == SHOWN


def test_a_verbose_command_and_its_children_show_all_and_data_stays_alone() -> None:
    done = run("--verbose")
    assert done.stdout == "data 1\n"
    for text in [*HIDDEN, "logged error", "driver is too old", "of our own"]:
        assert text in done.stderr
    assert run(XLM_ALIGN_VERBOSE="1").stderr == done.stderr.replace("data 1", "data ")


def test_warnings_asked_of_python_itself_are_shown() -> None:
    done = run(PYTHONWARNINGS="always")
    assert "of a library" in done.stderr and "soon changed" in done.stderr


def test_nothing_stays_changed_when_the_block_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLM_ALIGN_VERBOSE", raising=False)

    def state() -> tuple[object, ...]:
        return logging.root.manager.disable, list(warnings.filters), warnings.showwarning, dict(os.environ)

    before = state()
    for verbose in (False, True):
        with quiet(verbose), quiet():
            assert state() != before
        assert state() == before


def test_what_a_library_prints_is_shown_where_the_call_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def call(error: Exception | None) -> None:
        with prints_hidden():
            print("progress")
            print("bar", file=sys.stderr)
            if error:
                raise error

    call(None)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ValueError, match="broken"):
        call(ValueError("broken"))
    assert capsys.readouterr() == ("", "progress\nbar\n")


def test_every_command_takes_verbose() -> None:
    import typer

    from data_prep.cli import app as data_prep
    from pipeline.cli import app as pipeline

    def commands(of: typer.Typer) -> list[str]:
        group = typer.main.get_command(of)
        found: list[str] = []

        def walk(command: object, name: str) -> None:
            inner = getattr(command, "commands", None)
            if inner is None:
                options = [option for parameter in command.params for option in parameter.opts]  # type: ignore[attr-defined]
                assert "--verbose" in options, name
                found.append(name)
            for each, child in (inner or {}).items():
                walk(child, each)

        walk(group, "")
        return found

    assert {"align", "dry-run", "export"} <= set(commands(pipeline)) and {"mono", "train"} <= set(commands(data_prep))


@pytest.mark.parametrize("imported", ["deepspeed", "transformers", "pipeline.train"])
def test_importing_says_nothing(imported: str, tmp_path: Path) -> None:
    code = f"from data_prep.quiet import quiet\nwith quiet():\n    import {imported}\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    assert (done.stdout, done.stderr) == ("", "")
