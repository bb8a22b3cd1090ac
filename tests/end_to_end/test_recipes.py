"""The recipes of the repository train as they stand, but for their size, each on its own objectives."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_prep.token_files.manifest import Manifest
from pipeline.checkpoints import checkpoint
from pipeline.generate.generator import Generator
from pipeline.generate.model import load_text_model
from pipeline.generate.search import Search
from pipeline.objectives import catalog
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings.added_words import words_of
from pipeline.settings.schema import load_config
from pipeline.training.build import build_model, notes_on_heads
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
    "mt6_small": {"sc_loss", "tsc_loss"},
    "deltalm_base": {"sc_loss", "tsc_loss"},
    "xlm_t_base": {"mt_loss"},
    "xlm_e_base": {f"{name}_{part}loss" for name in ("mrtd", "trtd") for part in ("", "generator_", "discriminator_")},
}
SKIPPED = {"xlm_e_base": 2}
"""Steps, in fp16: a loss that weighs 50 is beyond its range at the first scale, which falls then."""
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
    skipped = SKIPPED.get(recipe, 0)
    assert (last["loss_scale"], last["skipped_steps"]) == (2**15 if skipped else 2**16, skipped)
    released = load_config(worker.REPOSITORY / "pipeline" / "configs" / f"{recipe}.yaml").optimizer
    assert last["lr"] == pytest.approx((worker.STEPS - skipped) * released.lr / released.warmup_steps)


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


@pytest.mark.parametrize("stage", worker.STAGES)
def test_a_frozen_encoder_stays_what_it_was_to_the_bit(
    runs: Path, stage: int, read_metrics: Callable[[Path, str], dict[int, dict[str, Any]]]
) -> None:
    place = runs / f"frozen_zero{stage}"
    before, after = open_weights(runs / "mlm").state(), open_weights(place).state()
    encoder = [name for name in after if name.startswith("roberta.")]
    assert after and all(int(name.split(".")[3]) < 10 for name in encoder if ".layer." in name), "ten layers are kept"
    known = len(before["roberta.embeddings.word_embeddings.weight"])
    for name in encoder:
        assert torch.equal(after[name][:known], before[name]), name
    assert not torch.equal(after["decoder.word.weight"][:known], before["roberta.embeddings.word_embeddings.weight"])
    of_both, of_this = (read_metrics(runs / f"frozen_zero{number}", "train") for number in (0, stage))
    for step, line in of_both.items():
        for key in ("dae_loss", "mt_loss"):
            assert of_this[step][key] == pytest.approx(line[key], rel=1e-5), (step, key)


@pytest.mark.parametrize("recipe", ["xlm_t_base", "deltalm_base"])
def test_a_model_with_a_decoder_is_exported_whole_and_opened_again(runs: Path, recipe: str, tmp_path: Path) -> None:
    export(runs / recipe, tmp_path / "hf")
    of_run, of_folder = open_weights(runs / recipe), open_weights(tmp_path / "hf")
    assert (of_folder.words, of_folder.sizes.vocab_size) == (of_run.words, of_run.sizes.vocab_size)
    before, after = of_run.state(), of_folder.state()
    for name, tensor in before.items():
        if name != "decoder.head.weight":  # the word embedding
            assert torch.equal(after[name.removeprefix("roberta.")], tensor), name
    model = load_text_model(tmp_path / "hf")
    assert model.tokenizer.convert_tokens_to_ids(of_run.words[-1]) == of_run.sizes.vocab_size - 1
    language = model.record.languages[0]
    (written,) = Generator(model, Search(beam=2, max_tokens=4), language).generate(["a b"])
    assert written.hypotheses[0].tokens > 0
    exported = export(runs / recipe, tmp_path / "encoder", encoder_only=True)
    assert exported.known.sizes.vocab_size == of_run.sizes.vocab_size - len(of_run.words)
    assert "decoder" not in (tmp_path / "encoder" / "config.json").read_text(encoding="utf-8")


def test_a_run_begins_with_the_decoder_of_another(runs: Path) -> None:
    path = worker.REPOSITORY / "pipeline" / "configs" / "xlm_t_base.yaml"
    place = runs / "xlm_t_base"
    manifest = Manifest.load(checkpoint.data_of(open_weights(place).info))
    overrides = [*worker.SMALL, f"data.path={manifest.data_dir}", "run.out=run", f"model.init={place}"]

    def begun(*more: str) -> PretrainingModel:
        config = load_config(path, [*overrides, *more])
        return build_model(config, catalog.build_objectives(config), words_of(config, manifest))[0]

    assert not notes_on_heads(load_config(path, overrides), begun(), head_is_pretrained=True)
    other = f"model.init={runs / 'mlm'}"
    notes = notes_on_heads(load_config(path, [*overrides, other]), begun(other), head_is_pretrained=True)
    assert [note.partition(" has no decoder: ")[2] for note in notes] == [
        "it starts as the encoder's 6 lowest layer(s), its cross-attention from random weights"
    ]

    state = open_weights(place).state()
    for name, tensor in begun().heads["decoder"].state_dict().items():
        assert torch.equal(tensor, state[f"decoder.{name}"]), name
    # Words go by their names: there are more of them before.
    tags = [begun(f"model.decoder.sentinels={count}").encoder.word.weight[-1] for count in (0, 7)]
    assert torch.equal(*tags)
    with pytest.raises(ValueError, match=r"model.decoder: that of model.init = .* has other sizes \(layers.5"):
        begun("model.decoder.layers=5")
    with pytest.raises(ValueError, match=r"model.keep_layers = 13: model.init = .* has 12 layers"):
        begun("model.keep_layers=13")


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
