"""The recipes of the repository train as they stand, but for their size, each on its own objectives."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.checkpoints import checkpoint
from pipeline.objectives import catalog
from pipeline.settings.schema import load_config
from pipeline.weights.consolidate import full_state
from pipeline.weights.export import export
from pipeline.weights.hugging_face import build_encoder
from pipeline.weights.opening import open_weights

WORKER = Path(__file__).with_name("recipe_worker.py")
worker = SimpleNamespace(**runpy.run_path(str(WORKER)))
INFOXLM = {"mlm_loss", "tlm_loss", "contrast_loss"}
LOSSES = {
    "mlm": {"mlm_loss"},
    "mlm_tlm": {"mlm_loss", "tlm_loss"},
    "infoxlm_base": INFOXLM,
    "infoxlm_large": INFOXLM,
    "xlm_e_base": {f"{name}_{part}loss" for name in ("mrtd", "trtd") for part in ("", "generator_", "discriminator_")},
}
XLM_ALIGN = {"mlm_loss", "tlm_loss", "dwa_loss"}

pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def runs(corpus: Any, launcher: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs."""
    out = tmp_path_factory.mktemp("recipes")
    done = launcher.step_worker(WORKER, "--config", corpus.config, "--out", out)
    assert done.code == 0, done.output
    return out


@pytest.mark.parametrize("recipe", worker.RECIPES)
def test_a_recipe_trains_on_its_objectives(
    runs: Path, recipe: str, read_metrics: Callable[[Path, str], dict[int, dict[str, Any]]]
) -> None:
    lines = read_metrics(runs / recipe, "train")
    assert list(lines) == list(range(1, worker.STEPS + 1))
    last = lines[worker.STEPS]
    assert {key for key in last if key.endswith("_loss")} == LOSSES.get(recipe, XLM_ALIGN)
    assert last["loss_scale"] == 128 and last["skipped_steps"] == 0
    released = load_config(worker.REPOSITORY / "pipeline" / "configs" / f"{recipe}.yaml").optimizer
    assert last["lr"] == pytest.approx(2 * released.lr / released.warmup_steps)


def test_all_objectives_train_together_and_alike_at_every_stage(
    runs: Path, read_metrics: Callable[[Path, str], dict[int, dict[str, Any]]]
) -> None:
    by_stage = [read_metrics(runs / f"everything_zero{stage}", "train") for stage in worker.STAGES]
    of_none = {f"{name}_loss" for name in catalog.ENTRIES} - by_stage[0][worker.STEPS].keys()
    assert not of_none
    for lines in by_stage[1:]:
        for step, line in by_stage[0].items():
            for key in (f"{name}_loss" for name in catalog.ENTRIES):
                assert lines[step][key] == pytest.approx(line[key], rel=1e-5), (step, key)


def test_heads_learn_alone_first(runs: Path) -> None:
    states = []
    for folder in sorted((runs / "heads_first" / "checkpoints").glob("step_*")):
        states.append(full_state(folder, checkpoint.read_info(folder)))
    first, second, third = states
    for name in first:
        own = name.startswith("heads.") and name != "heads.masked_lm.weight"  # that one is the word embedding
        assert torch.equal(first[name], second[name]) or own, name
    assert not torch.equal(first["heads.word_alignment.query.weight"], second["heads.word_alignment.query.weight"])
    assert not torch.equal(second["encoder.word.weight"], third["encoder.word.weight"])
    assert not torch.equal(second["encoder.layers.0.up.weight"], third["encoder.layers.0.up.weight"])


def test_a_model_with_relative_positions_is_opened_as_it_is_and_not_exported(runs: Path, tmp_path: Path) -> None:
    opened = open_weights(runs / "relative")
    encoder = build_encoder(opened.sizes, opened.state(), opened.place)
    assert opened.sizes.gated_relative and encoder.distances.table.weight.any()
    with pytest.raises(ValueError, match=r"relative: has a gated relative position bias"):
        export(runs / "relative", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
    exported = export(runs / "xlm_e_base", tmp_path / "exported")
    assert exported.known.sizes == open_weights(tmp_path / "exported").sizes, "the discriminator is a model as any"
