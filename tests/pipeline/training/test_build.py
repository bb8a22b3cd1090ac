"""The parts of a run follow the config, and what cannot work is refused before anything expensive starts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel

from data_prep.token_files.manifest import Manifest
from pipeline.data.blend import Stage
from pipeline.data.of_config import blend_stages
from pipeline.data.packing import pack
from pipeline.data.streams import BatchPlan
from pipeline.objectives.catalog import build_objectives
from pipeline.settings.added_words import AddedWords
from pipeline.settings.deepspeed_json import OWNED_KEYS
from pipeline.settings.objectives import Term, term_weights
from pipeline.settings.schema import Config, Optimizer
from pipeline.training.build import (
    build_data,
    build_model,
    deepspeed_settings,
    lr_factor,
    notes_on_heads,
    notes_on_order,
    parameter_groups,
)
from tests.conftest import ROOT

VOCAB_SIZE = 64
TINY: dict[str, Any] = {
    "data": {"path": "data", "block_tokens": 32, "side_tokens": 14},
    "model": {"layers": 2, "hidden": 16, "heads": 2, "feed_forward": 32},
    "objectives": {"dwa": {"alignment_layer": 1}},
    "batch": {"mono": 8, "pairs": 4},
    "run": {"out": "run", "steps": 100},
    "deepspeed": "none.json",
}
PLAN = BatchPlan({"mono": 8, "pairs": 4}, world_size=2, micro_steps=2)


def make_config(**sections: Any) -> Config:
    """The tiny config with these fields of its sections replaced."""
    merged = {
        name: {**TINY.get(name, {}), **value} if isinstance(value, dict) else value for name, value in sections.items()
    }
    return Config.model_validate({**TINY, **merged})


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """DeepSpeed settings from this JSON on this device."""

    def make(content: dict[str, Any], device: str = "cpu", **optimizer: Any) -> dict[str, Any]:
        path = tmp_path / "deepspeed.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return deepspeed_settings(make_config(deepspeed=path, optimizer=optimizer), PLAN, device)

    return make


def save_hugging_face(folder: Path, kind: type = XLMRobertaForMaskedLM, **sizes: int) -> Path:
    """A tiny random Hugging Face model of two layers that takes 32 tokens."""
    config = XLMRobertaConfig(
        **{
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 34,
            "type_vocab_size": 1,
            **sizes,
        }
    )
    kind(config).save_pretrained(folder)
    return folder


def test_objectives_are_those_that_the_config_switches_on() -> None:
    everything = build_objectives(make_config())
    assert [(o.name, o.streams) for o in everything] == [("mlm", ["mono"]), ("tlm", ["pairs"]), ("dwa", ["pairs"])]
    only_pairs = build_objectives(make_config(objectives={"mlm": None}))
    assert [o.name for o in only_pairs] == ["tlm", "dwa"]


def test_a_run_without_objectives_is_refused() -> None:
    with pytest.raises(ValueError, match="are all null; switch"):
        build_objectives(make_config(objectives={"mlm": None, "tlm": None, "dwa": None}))


def test_only_streams_that_are_read_are_opened(make_manifest: Callable[..., Manifest]) -> None:
    manifest = make_manifest(mono={"en": [[[10] * 50]]})
    config = make_config(objectives={"tlm": None, "dwa": None})
    data = build_data(config, build_objectives(config), manifest)
    assert list(data.streams) == ["mono"] and data.streams["mono"].limit == 32
    with pytest.raises(ValueError, match="holds no pairs data"):
        build_data(make_config(), build_objectives(make_config()), manifest)


def test_a_schedule_in_steps_becomes_stages_in_samples() -> None:
    data = {
        "path": "data",
        "alpha": 0.7,
        "weights": {"pairs": {"de-en": 2.0, "en-fr": 1.0}},
        "schedule": [{"from_step": 10, "alpha": 0.3}, {"from_step": 20, "weights": {"mono": {"en": 1.0}}}],
    }
    content = {"data": data, "batch": {"mono": 8, "pairs": 16}, "run": {"out": "run"}, "deepspeed": "x.json"}
    config = Config.model_validate(content)
    assert blend_stages(config, "mono") == [Stage(0, 0.7), Stage(80, 0.3), Stage(160, 0.3, {"en": 1.0})]
    weights = {"de-en": 2.0, "en-fr": 1.0}
    assert blend_stages(config, "pairs") == [Stage(0, 0.7, weights), Stage(160, 0.3, weights), Stage(320, 0.3)]


def test_a_model_from_scratch_has_the_sizes_of_the_config_and_depends_on_the_seed() -> None:
    models = []
    for seed in (1, 1, 2):
        config = make_config(run={"seed": seed})
        model, head_is_pretrained = build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))
        models.append(model)
    sizes = models[0].encoder.config
    assert (sizes.layers, sizes.hidden, sizes.heads, sizes.feed_forward, sizes.vocab_size) == (2, 16, 2, 32, VOCAB_SIZE)
    assert sizes.positions - 2 == 32 and not head_is_pretrained
    first, again, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_positions_hold_the_longest_block_and_the_longest_pair() -> None:
    config = make_config(data={"block_tokens": 20, "side_tokens": 30})
    model, _ = build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))
    assert model.encoder.config.positions - 2 == 30 + 30 + 3


@pytest.mark.parametrize(("kind", "has_head"), [(XLMRobertaForMaskedLM, True), (XLMRobertaModel, False)])
def test_a_model_from_hugging_face_has_its_sizes_and_weights(tmp_path: Path, kind: type, has_head: bool) -> None:
    config = make_config(model={"init": save_hugging_face(tmp_path, kind)})
    model, head_is_pretrained = build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))
    loaded = kind.from_pretrained(tmp_path)
    theirs = loaded.roberta if has_head else loaded
    assert model.encoder.config.hidden == 24 and head_is_pretrained == has_head
    assert torch.equal(model.encoder.word.weight, theirs.embeddings.word_embeddings.weight)
    if has_head:
        assert torch.equal(model.heads["masked_lm"].dense.weight, loaded.lm_head.dense.weight)
        assert model.heads["masked_lm"].weight is model.encoder.word.weight


@pytest.mark.parametrize("embeddings", ["tied", "disentangled", "own"])
@pytest.mark.parametrize(("kind", "has_head"), [(XLMRobertaForMaskedLM, True), (XLMRobertaModel, False)])
def test_beside_a_model_from_hugging_face_the_generator_begins_as_its_lowest_layers(
    tmp_path: Path, kind: type, has_head: bool, embeddings: str
) -> None:
    term = {"generator_layers": 1, "embeddings": embeddings}
    terms = {"mlm": None, "tlm": None, "dwa": None, "mrtd": term, "trtd": term}
    config = make_config(model={"init": save_hugging_face(tmp_path, kind)}, objectives=terms)
    model, head_is_pretrained = build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))
    expected, packed = kind.from_pretrained(tmp_path).state_dict(), pack([[0, 5, 6, 7, 2]])
    generator = model.heads["generator"]
    assert torch.equal(generator.encoder(packed), model.encoder(packed, 1))
    prefix = "roberta." if has_head else ""
    assert torch.equal(generator.encoder.word.weight, expected[f"{prefix}embeddings.word_embeddings.weight"])
    assert head_is_pretrained is has_head
    if has_head:
        assert torch.equal(generator.head.dense.weight, expected["lm_head.dense.weight"])
    *about_head, about_generator = notes_on_heads(config, model, head_is_pretrained)
    assert about_generator.endswith("has no generator: it starts as the encoder's 1 lowest layer(s)")
    assert len(about_head) == (0 if has_head else 1)


def test_relative_positions_beside_a_model_without_are_refused(tmp_path: Path) -> None:
    config = make_config(model={"init": save_hugging_face(tmp_path), "positions": "gated_relative"})
    with pytest.raises(ValueError, match=r"model\.positions = gated_relative: model\.init = .* was trained without it"):
        build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))


def test_an_alignment_layer_beyond_the_model_is_refused(tmp_path: Path) -> None:
    for model in ({}, {"init": save_hugging_face(tmp_path)}):
        config = make_config(model=model, objectives={"dwa": {"alignment_layer": 3}})
        with pytest.raises(ValueError, match=r"alignment_layer = 3: the model has 2 layers; choose 0 to 2"):
            build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))


def test_a_model_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    config = make_config(model={"init": save_hugging_face(tmp_path)})
    with pytest.raises(ValueError, match=r"vocabulary of 64, the token files in data\.path = data have 65"):
        build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE + 1))


def test_a_model_with_too_few_positions_is_refused(tmp_path: Path) -> None:
    config = make_config(model={"init": save_hugging_face(tmp_path, max_position_embeddings=33)})
    with pytest.raises(ValueError, match=r"31 positions, data\.block_tokens and data\.side_tokens need 32"):
        build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    config = make_config(model={"init": tmp_path})
    with pytest.raises(
        ValueError, match=r"model\.init: .*holds no model \(neither config\.json.*give a Hugging Face model"
    ):
        build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))


def test_deepspeed_gets_the_batch_the_optimizer_and_the_json(make_settings: Callable[..., dict[str, Any]]) -> None:
    settings = make_settings({"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}, lr=3e-4, clip=0.5)
    assert settings["zero_optimization"] == {"stage": 2} and settings["bf16"] == {"enabled": True}
    assert settings["train_micro_batch_size_per_gpu"] == 3 and settings["gradient_accumulation_steps"] == 2
    assert settings["train_batch_size"] == 12 and settings["gradient_clipping"] == 0.5
    params = settings["optimizer"]["params"]
    assert params["lr"] == 3e-4 and params["betas"] == [0.9, 0.98] and params["weight_decay"] == 0.01


@pytest.mark.parametrize(
    ("device", "adam", "offload", "expected"),
    [
        ("cpu", "torch", "none", True),
        ("cuda", "torch", "none", True),
        ("cuda", "deepspeed", "none", False),
        ("cuda", "torch", "cpu", False),
    ],
)
def test_adam_is_pytorchs_unless_deepspeeds_is_asked_for_or_offload_needs_it(
    make_settings: Callable[..., dict[str, Any]], device: str, adam: str, offload: str, expected: bool
) -> None:
    zero = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": offload}}}
    settings = make_settings(zero, device, adam=adam)
    assert settings["optimizer"]["params"]["torch_adam"] is expected
    assert settings["optimizer"]["params"].get("fused", False) is expected


def test_fp16_on_the_cpu_is_refused(make_settings: Callable[..., dict[str, Any]]) -> None:
    fp16 = {"zero_optimization": {"stage": 1}, "fp16": {"enabled": True}}
    with pytest.raises(ValueError, match=r"deepspeed\.json: fp16 needs a GPU"):
        make_settings(fp16, "cpu")
    assert make_settings(fp16, "cuda")["fp16"] == {"enabled": True}


@pytest.mark.parametrize("content", [{"zero_optimization": {"stage": 0}}, {}])
def test_fp16_at_stage_0_is_refused(make_settings: Callable[..., dict[str, Any]], content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fp16 needs ZeRO stage 1 or higher"):
        make_settings({**content, "fp16": {"enabled": True}}, "cuda")
    make_settings({**content, "fp16": {"enabled": False}}, "cuda")


@pytest.mark.parametrize("key", OWNED_KEYS)
def test_a_deepspeed_key_that_the_config_sets_is_refused(
    make_settings: Callable[..., dict[str, Any]], key: str
) -> None:
    with pytest.raises(ValueError, match=rf"{key} is set here and by {OWNED_KEYS[key]} of the run's config"):
        make_settings({key: 1})


@pytest.mark.parametrize("path", sorted(ROOT.glob("ds_configs/*.json")), ids=lambda path: path.stem)
def test_every_deepspeed_file_of_the_repository_is_what_its_name_says(path: Path) -> None:
    stage, *offload, precision = path.stem.split("_")
    config = make_config(deepspeed=path)
    if path.stem == "zero0_fp16":
        pytest.fail("fp16 does not train at stage 0")
    settings = deepspeed_settings(config, PLAN, "cuda")
    assert settings["zero_optimization"]["stage"] == int(stage.removeprefix("zero"))
    enabled = [name for name in ("fp16", "bf16") if settings.get(name, {}).get("enabled")]
    assert enabled == ([] if precision == "fp32" else [precision])
    offloaded = {name for name in settings["zero_optimization"] if name.startswith("offload")}
    assert offloaded == ({"offload_optimizer", *(["offload_param"] if stage == "zero3" else [])} if offload else set())
    if precision == "bf16":
        assert settings["bf16"]["check_grad_overflow"], "its default moved once"
    if precision == "fp16":
        assert settings["fp16"]["initial_scale_power"] == 16, "the loss is divided by the tokens before it is scaled"
    if stage == "zero3":
        assert settings["zero_optimization"]["log_trace_cache_warnings"]


@pytest.mark.parametrize(
    ("stage", "micro_steps", "objective", "told"),
    [(3, 1, "dwa", True), (3, 2, "dwa", False), (2, 1, "dwa", False), (3, 1, "mlm", False)],
)
def test_zero3_that_cannot_look_ahead_says_so(stage: int, micro_steps: int, objective: str, told: bool) -> None:
    objectives = [one for one in build_objectives(make_config()) if one.name == objective]
    notes = notes_on_order({"zero_optimization": {"stage": stage}}, micro_steps, objectives)
    assert [note.partition(":")[0] for note in notes] == ["batch.micro_steps = 1"] * told


@pytest.mark.parametrize(
    ("stage", "offload", "refused"), [(0, False, True), (1, False, True), (1, True, False), (2, False, False)]
)
def test_sums_in_fp32_that_cannot_be_exported_are_refused(
    make_settings: Callable[..., dict[str, Any]], stage: int, offload: bool, refused: bool
) -> None:
    zero = {"stage": stage, "offload_optimizer": {"device": "cpu" if offload else "none"}}
    given = {"zero_optimization": zero, "bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}
    if refused:
        with pytest.raises(ValueError, match=r"grad_accum_dtype = fp32 needs ZeRO stage 2 or 3 in bf16"):
            make_settings(given, "cuda")
    else:
        assert make_settings(given, "cuda")["data_types"] == {"grad_accum_dtype": "fp32"}


def test_what_needs_a_gpu_is_refused_on_the_cpu(make_settings: Callable[..., dict[str, Any]]) -> None:
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    with pytest.raises(ValueError, match="offload needs a GPU"):
        make_settings({"zero_optimization": zero}, "cpu")
    with pytest.raises(ValueError, match=r"optimizer\.adam = deepspeed: it needs a GPU"):
        make_settings({}, "cpu", adam="deepspeed")
    make_settings({"zero_optimization": zero}, "cuda")
    make_settings({"zero_optimization": {"offload_optimizer": {"device": "none"}}}, "cpu")


def test_the_learning_rate_warms_up_linearly_and_decays_to_zero() -> None:
    factor = lr_factor(Optimizer(warmup_steps=4), steps=12)
    assert [factor(step) for step in range(13)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]
    )
    assert factor(100) == 0.0


def test_the_decay_follows_its_power() -> None:
    factor = lr_factor(Optimizer(warmup_steps=0, decay_power=2.0), steps=10)
    assert [factor(0), factor(5), factor(9)] == pytest.approx([1.0, 0.25, 0.01])


def test_a_run_shorter_than_its_warmup_only_warms_up() -> None:
    factor = lr_factor(Optimizer(warmup_steps=10), steps=5)
    assert [factor(step) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_weights_of_terms_rise_over_their_own_warmup() -> None:
    terms = {"mlm": Term(), "tlm": Term(weight=0.5), "dwa": Term(weight=2.0, warmup_steps=4)}
    assert term_weights(terms, 0) == {"mlm": 1.0, "tlm": 0.5, "dwa": 0.0}
    assert term_weights(terms, 1)["dwa"] == 0.5
    assert term_weights(terms, 3)["dwa"] == 1.5
    assert term_weights(terms, 4)["dwa"] == term_weights(terms, 1000)["dwa"] == 2.0


def test_the_encoder_warms_up_after_the_heads() -> None:
    config = make_config()
    model, _ = build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))
    optimizer = Optimizer(lr=1e-3, heads_lr=2e-3, warmup_steps=2, heads_first_steps=3)
    (encoder, encoder_factor), (heads, heads_factor) = parameter_groups(model, optimizer, steps=12)
    assert [encoder_factor(step) for step in range(5)] == pytest.approx([0, 0, 0, 0.5 * 0.9, 0.8])
    assert [heads_factor(step) for step in (0, 1, 3)] == pytest.approx([2 * 0.5, 2 * 1.0, 2 * 0.9])
    assert sorted(map(id, [*heads, *encoder])) == sorted(map(id, model.parameters()))
    assert id(model.encoder.word.weight) in set(map(id, encoder))
    assert len(heads) == 4 + 5  # two projections of the pointer; the masked-LM head without the weight that is tied


def test_heads_with_a_rate_of_their_own_leave_the_encoder_s_as_it_is() -> None:
    config = make_config()
    model, _ = build_model(config, build_objectives(config), AddedWords(VOCAB_SIZE))
    optimizer = Optimizer(lr=1e-3, heads_lr=5e-3, warmup_steps=2)
    (_, encoder_factor), (_, heads_factor) = parameter_groups(model, optimizer, steps=12)
    alone = lr_factor(optimizer, 12)
    for step in range(12):
        assert (encoder_factor(step), heads_factor(step)) == pytest.approx((alone(step), 5 * alone(step)))


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ({"schedule": "polynomial"}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ({"schedule": "polynomial", "decay_power": 2.0}, [0.5, 1, 1, 0.75**2, 0.5**2, 0.25**2]),
        ({"schedule": "inverse_sqrt"}, [0.5, 1, (2 / 3) ** 0.5, (2 / 4) ** 0.5, (2 / 5) ** 0.5, (2 / 6) ** 0.5]),
        ({"schedule": "warmup_stable_decay", "decay_steps": 2}, [0.5, 1, 1, 1, 1, 0.5]),
        ({"schedule": "warmup_stable_decay"}, [0.5, 1, 1, 1, 1, 1]),
        ({"schedule": "warmup_stable_decay", "decay_steps": 99}, [0.5, 1, 1, 0.75, 0.5, 0.25]),
    ],
)
def test_the_rate_follows_its_schedule(settings: dict[str, Any], factors: list[float]) -> None:
    factor = lr_factor(Optimizer(warmup_steps=2, **settings), steps=6)
    assert [factor(step) for step in range(6)] == pytest.approx(factors)
    assert lr_factor(Optimizer(warmup_steps=0, schedule="inverse_sqrt"), steps=6)(0) == 1
