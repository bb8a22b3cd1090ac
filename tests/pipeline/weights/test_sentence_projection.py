"""The sentence projection goes with its model wherever that goes: run, export, export of an export, fairseq's file, hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from pipeline.checkpoints.checkpoint import read_info
from pipeline.checkpoints.manifest import write_info
from pipeline.finetune.start import read_start
from pipeline.weights.export import WRITTEN
from pipeline.weights.hub import SENTENCE_PROJECTION, local_folder
from pipeline.weights.loading import load
from pipeline.weights.pretrained import read_pretrained
from pipeline.weights.sentence_projection import TENSOR, ProjectedVectors
from tests.pipeline.conftest import Done
from tests.pipeline.run_kit import CHECKPOINT, make_fairseq, make_run
from tests.pipeline.weights.conftest import Hub

Use = Callable[..., Done]
WIDTH, LAYER = 16, 2
CONTRAST = {"weight": 1.0, "layer": LAYER, "pooling": "mean", "projection": True}


def weight() -> torch.Tensor:
    return torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(4))


def trained(hf_dir: Path, place: Path, contrast: dict[str, Any] | None = CONTRAST) -> Path:
    """A run that has trained a sentence projection."""
    run = make_run(hf_dir, place, more={f"heads.{TENSOR}": weight()})
    info = read_info(run / CHECKPOINT)
    info.config["objectives"]["contrast"] = contrast
    write_info(run / CHECKPOINT, info)
    return run


@pytest.fixture
def exported(use: Use, hf_dir: Path, tmp_path: Path) -> Path:
    done = use("export", trained(hf_dir, tmp_path), tmp_path / "hf")
    assert done.code == 0, done.err
    return tmp_path / "hf"


def test_an_export_holds_it_beside_the_weights(exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == WRITTEN
    with safe_open(exported / SENTENCE_PROJECTION, "pt") as file:
        assert file.metadata() == {"format": "pt", "layer": "2", "pooling": "mean"}
        assert file.keys() == ["weight"]
        assert torch.equal(file.get_tensor("weight"), weight())
    assert not any("projection" in name for name in load_file(exported / "model.safetensors"))
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert f"| sentence projection | `{SENTENCE_PROJECTION}`" in card and "mean of all tokens, layer 2" in card
    AutoModel.from_pretrained(exported)


def test_it_is_the_same_from_everywhere(use: Use, exported: Path, tmp_path: Path) -> None:
    assert use("export", exported, tmp_path / "again").code == 0
    assert use("export", exported, tmp_path / "again", "--force").code == 0
    for place in (tmp_path / "run", tmp_path / "run" / CHECKPOINT, exported, tmp_path / "again"):
        projection = load(place).projection
        assert projection is not None and projection.takes == ProjectedVectors(LAYER, "mean")
        assert torch.equal(projection.weight_DD, weight())
        assert torch.equal(read_pretrained(place, 0.0)[1][TENSOR], weight())
    assert read_start(exported).sizes.layers == 3


def test_evaluate_projects_by_it(use: Use, exported: Path, tmp_path: Path) -> None:
    for language in ("en", "de"):
        (tmp_path / f"x.{language}").write_text("the fox\nmy box\njudge\n", encoding="utf-8")
    wanted = ("--retrieval", tmp_path / "x.de", "--protocol", "projected", "--json", tmp_path / "s.json")
    done = use("evaluate", exported, *wanted)
    assert done.code == 0, done.err
    assert "layer 2, mean over all tokens, projected" in done.out
    (entry,) = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert (entry["layer"], entry["from_pivot"]) == (2, 1.0)


def test_infoxlm_s_file_is_exported_with_it(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(hf_dir, tmp_path / "hf")
    state = load_file(hf_dir / "model.safetensors")
    state["roberta.embeddings.token_type_embeddings.weight"].zero_()
    save_file(state, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    file = make_fairseq(tmp_path / "hf", tmp_path) / "model.pt"
    content = torch.load(file, weights_only=False)
    content["model"] = {f"model_fast.{name}": tensor for name, tensor in content["model"].items()}
    content["model"] |= {"proj_matrix_fast": weight()[None], "queue": torch.ones(2, WIDTH)}
    content["args"].xlco_layer = 1
    torch.save(content, file)
    done = use("export", file, tmp_path / "out")
    assert done.code == 0, done.err
    assert "is InfoXLM's; model_fast and its projection are taken, left out are queue" in done.err
    projection = load(tmp_path / "out").projection
    assert projection is not None and projection.takes == ProjectedVectors(1, "first")
    assert torch.equal(projection.weight_DD, weight().T)


def test_a_model_of_the_hub_comes_with_it(hub: Hub, exported: Path) -> None:
    hub.server.add("lab/contrast", exported)
    assert (local_folder(Path("lab/contrast")) / SENTENCE_PROJECTION).read_bytes() == (
        exported / SENTENCE_PROJECTION
    ).read_bytes()
    assert load(Path("lab/contrast")).projection is not None
    assert load(Path("lab/tiny")).projection is None


def test_a_projection_of_unknown_vectors_is_refused(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    run = trained(hf_dir, tmp_path, None)
    done = use("export", run, tmp_path / "hf")
    assert done.code == 1 and "has a sentence projection, but no objectives.contrast in its config" in done.error


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"weight": torch.ones(2, 3)}, {"layer": "2", "pooling": "mean"}, "is \\[2, 3\\], the model's width is 16"),
        ({"bias": torch.ones(2, 3)}, {"layer": "2", "pooling": "mean"}, "cannot be read"),
        ({"weight": torch.ones(16, 16)}, {"layer": "4", "pooling": "mean"}, "the layer '4', the model 3 layers"),
        ({"weight": torch.ones(16, 16)}, {"pooling": "mean"}, "the layer None, the model 3 layers"),
        ({"weight": torch.ones(16, 16)}, {"layer": "1", "pooling": "max"}, "the pooling 'max', neither first nor mean"),
    ],
)
def test_a_file_of_another_model_is_refused_in_one_line(
    exported: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str], message: str
) -> None:
    save_file(tensors, exported / SENTENCE_PROJECTION, metadata=metadata)
    with pytest.raises(ValueError, match=message) as caught:
        load(exported)
    assert "\n" not in str(caught.value) and SENTENCE_PROJECTION in str(caught.value)


def test_a_damaged_file_is_refused(exported: Path) -> None:
    (exported / SENTENCE_PROJECTION).write_bytes(b"x" * 30)
    with pytest.raises(ValueError, match=f"{SENTENCE_PROJECTION}: cannot be read"):
        load(exported)
