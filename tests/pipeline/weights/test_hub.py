"""Models of the hub wherever a model is named: the real client against a hub on loopback (`tests.loopback_hub`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.hub import HubName, fetch, hub_name, parse_name, place_of
from pipeline.align.aligner import Aligner
from pipeline.finetune.start import read_start
from pipeline.settings.schema import Config
from pipeline.training.beginning import began_with
from pipeline.training.start_check import check_model
from pipeline.weights.hub import pinned
from pipeline.weights.pretrained import dropouts_of, read_pretrained, read_sizes
from tests.loopback_hub import TOKEN, Model
from tests.pipeline.conftest import Done
from tests.pipeline.transformers_kit import write_folder
from tests.pipeline.weights.conftest import NAME, Hub

Use = Callable[..., Done]


NAMES = {
    "FacebookAI/xlm-roberta-base": ("FacebookAI/xlm-roberta-base", None),
    "a/b@v1.0": ("a/b", "v1.0"),
    "a/b@refs/pr/3": ("a/b", "refs/pr/3"),
}
PATHS = [
    "model",
    "/a/b",
    "../b",
    "a/b/c",
    "a/model.pt",
    "a/b@",
    "a@b/c",
    "a/b--c",
    "a/b..c",
    "a/.b",
    "~/b",
    "a/b c",
    ".",
]


@pytest.mark.parametrize("text", NAMES)
def test_a_name_of_the_hub_is_an_owner_and_a_model_with_or_without_a_revision(text: str) -> None:
    name = parse_name(text)
    assert name is not None
    assert (name.repo, name.revision) == NAMES[text]
    assert str(name) == text


@pytest.mark.parametrize("text", PATHS)
def test_what_looks_like_a_path_is_never_asked_of_the_hub(text: str) -> None:
    assert hub_name(place_of(text)) is None


def test_what_was_written_as_a_path_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name(place_of("./lab/tiny")) is None
    assert hub_name(place_of("lab/tiny/")) is None
    assert hub_name(place_of("lab/tiny")) is not None
    (tmp_path / "lab" / "tiny").mkdir(parents=True)
    assert hub_name(place_of("lab/tiny")) is None, "a folder goes before the hub"
    assert place_of("./lab/tiny") == Path("lab/tiny")


def test_a_model_of_the_hub_aligns_as_its_folder_does(hub: Hub, use: Use, hf_dir: Path) -> None:
    wanted = use("align", hf_dir, "pairs")
    done = use("align", NAME, "pairs")
    assert (done.code, done.out) == (0, wanted.out)
    commit = hub.server.models[NAME].refs["main"]
    assert f"note: {NAME}: commit {commit} of {hub.server.endpoint}" in done.err
    tagged = use("align", f"{NAME}@{commit}", "pairs")
    assert (tagged.code, tagged.out) == (0, wanted.out)


def test_after_the_first_time_nothing_but_the_commit_is_asked_and_without_a_network_not_even_that(
    hub: Hub, use: Use
) -> None:
    wanted = use("align", NAME, "pairs").out
    commit = hub.server.models[NAME].refs["main"]
    hub.set()
    assert use("align", NAME, "pairs").out == wanted
    assert not [line for line in hub.server.asked if "resolve" in line or "objects" in line]
    for settings, reason in (
        ({"offline": True}, "HF_HUB_OFFLINE is set"),
        ({"endpoint": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
    ):
        hub.set(**settings)
        done = use("align", NAME, "pairs")
        assert (done.code, done.out) == (0, wanted)
        assert f"note: {NAME}: {reason}" in done.err
        assert f"taken from the cache, commit {commit}" in done.err
        assert hub.server.asked == []
    hub.set()
    assert use("align", f"{NAME}@{commit}", "pairs").out == wanted
    assert hub.server.asked == [], "a commit does not change"


def test_a_moved_branch_is_taken_and_an_older_commit_too(hub: Hub, hf_dir: Path) -> None:
    first = hub.server.models[NAME].refs["main"]
    assert pinned(Path(NAME)) == Path(f"{NAME}@{first}")
    second = hub.server.models[NAME].commit({"README.md": b"more"})
    assert pinned(Path(NAME)) == Path(f"{NAME}@{first}"), "a process sees one commit"
    fetch.cache_clear()
    assert pinned(Path(NAME)) == Path(f"{NAME}@{second}")
    assert pinned(Path(f"{NAME}@{first}")) == Path(f"{NAME}@{first}")
    assert pinned(hf_dir) == hf_dir


def test_an_interrupted_download_goes_on_with_the_files_that_lack(hub: Hub) -> None:
    pinned(Path(NAME))
    snapshot = hub.cache / "models--lab--tiny" / "snapshots" / hub.server.models[NAME].refs["main"]
    weights = snapshot / "model.safetensors"
    blob, whole = weights.resolve(), weights.read_bytes()
    weights.unlink()
    blob.unlink()
    hub.set(offline=True)
    with pytest.raises(ValueError, match="nor whole in the cache"):
        pinned(Path(NAME))
    hub.set()
    pinned(Path(NAME))
    assert weights.read_bytes() == whole
    fetched = [line for line in hub.server.asked if line.startswith("GET") and "/api/" not in line]
    assert fetched == [f"GET /objects/{blob.name}"]


def test_only_what_a_model_needs_is_fetched(hub: Hub, hf_dir: Path) -> None:
    model = hub.server.models[NAME]
    model.commit({"pytorch_model.bin": b"x", "onnx/model.safetensors": b"x", "tf_model.h5": b"x", "train.py": b"x"})
    aligner = Aligner.load(NAME)
    assert aligner.align([("the fox", "der fuchs")]) == Aligner.load(hf_dir).align([("the fox", "der fuchs")])
    snapshot = hub.cache / "models--lab--tiny" / "snapshots" / model.refs["main"]
    assert sorted(path.name for path in snapshot.iterdir()) == sorted(path.name for path in hf_dir.iterdir())


def test_pickled_weights_are_taken_where_there_are_no_others(hub: Hub, hf_dir: Path, tmp_path: Path, use: Use) -> None:
    old = shutil.copytree(hf_dir, tmp_path / "old")
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    hub.server.add("lab/old", old)
    assert use("align", "lab/old", "pairs").out == use("align", hf_dir, "pairs").out


def test_another_encoder_of_the_hub_aligns_as_its_folder_does(hub: Hub, use: Use, tmp_path: Path) -> None:
    folder = write_folder("BERT", tmp_path / "bert")
    hub.server.add("lab/bert", folder)
    wanted, done = use("align", folder, "pairs"), use("align", "lab/bert", "pairs")
    assert wanted.code == 0 and (done.code, done.out) == (0, wanted.out)


def test_training_begins_with_it(hub: Hub, hf_dir: Path) -> None:
    assert read_sizes(Path(NAME), 0.0) == read_sizes(hf_dir, 0.0)
    assert not [line for line in hub.server.asked if "objects" in line and "safetensors" in line]
    sizes, state, _ = read_pretrained(Path(NAME), 0.0)
    wanted_sizes, wanted, _ = read_pretrained(hf_dir, 0.0)
    assert sizes == wanted_sizes and state.keys() == wanted.keys()
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    assert dropouts_of(Path(NAME)) == dropouts_of(hf_dir)


REFUSALS = {
    "no model": (
        "lab/none",
        {},
        "lab/none: no such folder, nor a model of {endpoint} that you may read; give a Hugging Face",
    ),
    "private": ("lab/private", {}, "lab/private: no such folder, nor a model of {endpoint} that you may read"),
    "gated": (
        "lab/gated",
        {},
        "lab/gated: is read by those who have agreed to its terms; agree at {endpoint}/lab/gated",
    ),
    "no revision": (f"{NAME}@v9", {}, f"{NAME}@v9: the model has no revision v9; give a branch, a tag or a commit of"),
    "bad token": (
        NAME,
        {"token": "hf_wrong"},
        f"{NAME}: {{endpoint}} answers 401: you may not read it; see to your token",
    ),
    "offline": (
        NAME,
        {"offline": True},
        f"{NAME}: no such folder, nor whole in the cache {{cache}}, and HF_HUB_OFFLINE is set",
    ),
    "no network": (
        NAME,
        {"endpoint": "http://127.0.0.1:9"},
        f"{NAME}: no such folder, nor whole in the cache {{cache}}, and http://127.0.0.1:9 cannot be reached (",
    ),
    "no config": (
        "lab/noconfig",
        {},
        "lab/noconfig: has no config.json (it has README.md, model.safetensors); give a model of",
    ),
    "no weights": (
        "lab/noweights",
        {},
        "lab/noweights: has neither model.safetensors nor pytorch_model.bin (it has config.json)",
    ),
    "no room": ("lab/huge", {}, "lab/huge: takes 4,000,000,000,000,000 bytes in {cache}, and the disk has "),
    "a path": ("./lab/tiny", {}, "{tmp}/lab/tiny: no such folder; give a Hugging Face model folder"),
    "a word": ("tiny", {}, "tiny: no such folder; give a Hugging Face model folder, a run folder"),
}

NOT_WHOLE = {
    "lab/noconfig": {"README.md": b"", "model.safetensors": b"x"},
    "lab/noweights": {"config.json": b"{}"},
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_keeps_a_model_from_coming_is_one_line(
    hub: Hub, hf_dir: Path, tmp_path: Path, use: Use, case: str
) -> None:
    hub.server.add("lab/private", hf_dir, private=True)
    hub.server.add("lab/gated", hf_dir, gated=True)
    hub.server.add("lab/huge", hf_dir, claimed_size=10**15)
    for name, files in NOT_WHOLE.items():
        hub.server.models[name] = Model()
        hub.server.models[name].commit(files)
    place, settings, message = REFUSALS[case]
    hub.set(**settings)
    done = use("align", place, "pairs")
    wanted = message.format(endpoint=hub.server.endpoint, cache=hub.cache, tmp=tmp_path)
    assert done.error.startswith(f"error: {wanted}"), done.error
    assert (done.code, done.out) == (1, "")


def test_a_hub_that_is_down_is_said_and_the_cache_is_taken(hub: Hub, use: Use) -> None:
    hub.server.down = True
    assert f"{hub.server.endpoint} answers 503" in use("align", NAME, "pairs").error
    hub.server.down = False
    use("align", NAME, "pairs")
    hub.server.down = True
    hub.set()
    done = use("align", NAME, "pairs")
    assert done.code == 0
    assert "answers 503; taken from the cache" in done.err


def test_those_who_may_read_a_model_do(hub: Hub, hf_dir: Path, use: Use) -> None:
    hub.server.add("lab/private", hf_dir, private=True)
    hub.server.add("lab/gated", hf_dir, gated=True)
    hub.set(token=TOKEN)
    for name in ("lab/private", "lab/gated"):
        assert use("align", name, "pairs").code == 0


def test_evaluate_takes_it_and_records_nothing_in_the_cache(hub: Hub, use: Use, gold_dir: Path, hf_dir: Path) -> None:
    assert use("evaluate", NAME, "--gold", gold_dir).out == use("evaluate", hf_dir, "--gold", gold_dir).out
    done = use("evaluate", NAME, "--gold", gold_dir, "--record")
    assert done.error.startswith(
        f"error: --record: {NAME}: no such folder, and a model of the hub takes no record here"
    )


def test_a_process_of_its_own_finds_the_hub_by_the_librarys_settings(hub: Hub, tmp_path: Path, hf_dir: Path) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.server.endpoint, "HF_HOME": str(tmp_path / "home")}
    for tool in (["data_prep", "tokenizer", "import", NAME, "--out", "imported"], ["pipeline", "align", NAME, "pairs"]):
        done = subprocess.run(
            [sys.executable, "-m", *tool], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, "standard output is for links alone"
    assert json.loads((tmp_path / "imported" / "tokenizer_meta.json").read_text())


def config_of(init: str, out: Path) -> Config:
    return Config.model_validate(
        {"data": {"path": "data"}, "model": {"init": init}, "run": {"out": str(out)}, "deepspeed": "zero1_fp32.json"}
    )


def test_a_training_that_cannot_have_its_model_ends_before_its_ranks_start(hub: Hub, tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, "0" * 64, 64, {}, {}, [], "1" * 64)
    with pytest.raises(ValueError, match=r"^model\.init: lab/none: no such folder, nor a model of http"):
        check_model(config_of("lab/none", tmp_path), manifest)
    with pytest.raises(ValueError, match=r"alignment_layer = 10: the model has 3 layers"):
        check_model(config_of(NAME, tmp_path), manifest)


def test_a_run_that_goes_on_keeps_the_commit_that_it_began_with(tmp_path: Path) -> None:
    commit = "0123456789" * 4
    run = tmp_path / "run"
    (run / "checkpoints" / "step_00000003").mkdir(parents=True)
    (run / "config.yaml").write_text(config_of(f"{NAME}@{commit}", run).dump(), encoding="utf-8")
    config, name = config_of(NAME, run), HubName(NAME)
    began = HubName(NAME, commit)
    assert began_with(config, name, "auto") == began
    for place in (run, run / "checkpoints" / "step_00000003"):
        assert began_with(config_of(NAME, tmp_path / "other"), HubName(NAME, "main"), str(place)) == began
    assert began_with(config, name, None) == name
    assert began_with(config, HubName("lab/other"), "auto") == HubName("lab/other")
    assert began_with(config, HubName(NAME, "f" * 40), "auto") == HubName(NAME, "f" * 40), "as it was given"


def test_show_and_finetuning_take_it(hub: Hub, use: Use, hf_dir: Path, tmp_path: Path) -> None:
    pages = []
    for model in (NAME, hf_dir):
        done = use("show", model, "the fox", "der fuchs", "--out", "pair.html")
        assert done.code == 0, done.err
        pages.append((tmp_path / "pair.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    start, wanted = read_start(Path(NAME)), read_start(hf_dir)
    assert start.sizes == wanted.sizes
    assert all(torch.equal(start.state[name], tensor) for name, tensor in wanted.state.items())
    assert start.tokenizer.get_vocab() == wanted.tokenizer.get_vocab()
