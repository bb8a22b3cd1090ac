"""`export --push`: what goes to the hub, and what is said where it does not get there (`tests.loopback_hub`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.tokenizers.hub import fetch
from pipeline.run_folder import METRICS
from pipeline.weights.loading import load_masked_lm
from tests.loopback_hub import READ_TOKEN, TOKEN
from tests.pipeline.conftest import Done
from tests.pipeline.run_kit import STEP, make_run
from tests.pipeline.weights.conftest import NAME, Hub

Use = Callable[..., Done]
TARGET = "lab/aligner"
IN_PLAIN_TRANSFORMERS = """
import sys
from transformers import AutoModelForMaskedLM, AutoTokenizer
for place in sys.argv[1:]:
    tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModelForMaskedLM.from_pretrained(place).eval()
    print(model(**tokenizer("the quick brown fox", return_tensors="pt")).logits.double().sum().item())
"""


@pytest.fixture
def run(hf_dir: Path, tmp_path: Path) -> Path:
    """A run with a checkpoint and validations before, at and after it."""
    run = make_run(hf_dir, tmp_path)
    lines: list[dict[str, Any]] = [
        {"kind": "validation", "step": step, "aer_by_layer/en-de": [0.5, 0.2 + step / 1000, 0.4], "aer/en-de": 0.4}
        | {"retrieval_by_layer/de-en": [0.1, 0.7, 0.9], "mlm_loss/de": 3.0}
        for step in (0, STEP - 2, STEP + 2)
    ]
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return run


def in_transformers(hub: Hub, home: Path, *places: object) -> list[str]:
    """What plain Transformers makes of models, in a process that has nothing of ours."""
    environment = {**os.environ, "HF_ENDPOINT": hub.server.endpoint, "HF_HOME": str(home)}
    command = [sys.executable, "-c", IN_PLAIN_TRANSFORMERS, *map(str, places)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=home.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_what_is_pushed_is_the_export_and_loads_in_plain_transformers(
    hub: Hub, run: Path, use: Use, tmp_path: Path
) -> None:
    hub.set(token=TOKEN)
    done = use("export", run, "hf", "--push", TARGET)
    assert done.code == 0, done.err
    model = hub.server.models[TARGET]
    assert f"{TARGET}: {hub.server.endpoint}/{TARGET}/commit/{model.refs['main']}" in done.out
    pushed = model.commits[model.refs["main"]]
    written = {path.name: path.read_bytes() for path in (tmp_path / "hf").iterdir()}
    assert {name: content for name, content in pushed.items() if name != ".gitattributes"} == written
    assert not model.private
    hub.set()
    assert use("align", TARGET, "pairs").out == use("align", run, "pairs").out
    pushed_gives, folder_gives = in_transformers(hub, tmp_path / "home", TARGET, tmp_path / "hf")
    assert pushed_gives == folder_gives


def test_the_card_tells_what_was_trained_on_what_and_how_it_was_measured(
    hub: Hub, run: Path, use: Use, tmp_path: Path
) -> None:
    hub.set(token=TOKEN)
    assert use("export", run, "hf", "--push", TARGET, "--private").code == 0
    assert hub.server.models[TARGET].private
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert f'AutoModel.from_pretrained("{TARGET}")' in card
    assert f"python -m pipeline align {TARGET} text.en text.de" in card
    assert (
        f"validation of its training at step {STEP - 2}, on at most 200 pairs of each gold alignment and 200 sentences"
        in card
    )
    assert "| AER, en-de | 1 | 20.5 |" in card
    assert "| sentence retrieval, de-en | 2 | 90.0 |" in card
    assert "masked tokens of monolingual blocks, weight 1" in card or "masked" in card
    assert "None is given here." in card
    assert "base_model" not in card and "| began with | random weights |" in card


def test_the_card_names_the_commit_of_the_hub_that_training_began_with(
    hub: Hub, hf_dir: Path, use: Use, tmp_path: Path
) -> None:
    commit = "0123456789" * 4
    run = make_run(hf_dir, tmp_path, init=f"{NAME}@{commit}")
    assert use("export", run, "hf").code == 0
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert f"| began with | `{NAME}` of the hub, commit `{commit}` |" in card
    assert yaml.safe_load(card.split("---")[1])["base_model"] == NAME


def test_a_model_of_the_hub_is_exported_with_its_origin(hub: Hub, use: Use, tmp_path: Path) -> None:
    assert use("export", NAME, "hf").code == 0
    card = (tmp_path / "hf" / "README.md").read_text(encoding="utf-8")
    assert f"taken as it was from the model {NAME} of the hub, commit {hub.server.models[NAME].refs['main']}." in card
    fetch.cache_clear()
    ours, theirs = load_masked_lm(tmp_path / "hf")[0], load_masked_lm(Path(NAME))[0]
    assert all((a == b).all() for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


REFUSALS = {
    "no token": (
        ["--push", TARGET],
        {},
        "--push lab/aligner: there is no token; give one that may write by `hf auth login`",
    ),
    "bad token": (["--push", TARGET], {"token": "hf_wrong"}, "--push lab/aligner: the token is refused (401"),
    "reads only": (
        ["--push", TARGET],
        {"token": READ_TOKEN},
        "--push lab/aligner: the token of alice may only read; give",
    ),
    "of others": (
        ["--push", "bob/x"],
        {"token": TOKEN},
        "--push bob/x: the token of alice writes to alice, lab alone; give",
    ),
    "no name": (["--push", "aligner"], {"token": TOKEN}, "--push aligner: write the model's name on the hub, ORG/NAME"),
    "a revision": (
        ["--push", "lab/a@v1"],
        {"token": TOKEN},
        "--push lab/a@v1: write the model's name on the hub, ORG/NAME",
    ),
    "offline": (
        ["--push", TARGET],
        {"token": TOKEN, "offline": True},
        "--push lab/aligner: HF_HUB_OFFLINE is set; export without --push, and upload it later by `hf upload lab/aligner",
    ),
    "no network": (
        ["--push", TARGET],
        {"token": TOKEN, "endpoint": "http://127.0.0.1:9"},
        "--push lab/aligner: http://127.0.0.1:9 cannot be reached (",
    ),
    "public": (
        ["--push", NAME, "--private"],
        {"token": TOKEN},
        "--push lab/tiny: is a public model already, which --private",
    ),
    "private alone": (
        ["--private"],
        {},
        "--private: is of --push; give the model's name on the hub by --push ORG/NAME",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_pushed_is_not_exported(hub: Hub, run: Path, use: Use, tmp_path: Path, case: str) -> None:
    options, settings, message = REFUSALS[case]
    hub.set(**settings)  # type: ignore[arg-type]
    done = use("export", run, "hf", *options)
    assert done.error.startswith(f"error: {message}"), done.error
    assert not (tmp_path / "hf").exists()
    assert list(hub.server.models) == [NAME], "nothing was made"


@pytest.mark.parametrize("where", ["/repos/create", "/preupload/", "/objects/", "/commit/"])
def test_an_upload_that_fails_leaves_the_export_and_says_how_to_go_on(
    hub: Hub, run: Path, use: Use, tmp_path: Path, where: str
) -> None:
    hub.set(token=TOKEN)
    hub.server.refused = where
    done = use("export", run, "hf", "--push", TARGET)
    assert done.error.startswith(f"error: --push {TARGET}: not uploaded (403"), done.error
    assert done.error.endswith(f"the export is whole in hf, and uploaded by `hf upload {TARGET} hf .`")
    hub.server.refused = ""
    assert use("align", "hf", "pairs").code == 0
    assert use("export", run, "hf", "--force", "--push", TARGET).code == 0, "what was begun is gone on with"
