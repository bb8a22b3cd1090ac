"""A dry run says what training would do: its counts are those of real models, batches and saved tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_prep.token_files.manifest import Manifest
from pipeline.data.batch import MicroBatch, View
from pipeline.data.streams import BatchPlan, Sequences
from pipeline.data.views.collate import collate
from pipeline.estimate.dry_run import DEVICES, DryRun, cpu_flops, dry_run, table
from pipeline.estimate.filling import FILLED, FRAMEWORK, fewest_micro_steps
from pipeline.estimate.memory import StepWork, activation_bytes, memory_per_rank
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.objectives.catalog import build_objectives, costs, streams
from pipeline.objectives.masked_lm import MaskedLM
from pipeline.objectives.pretraining_model import PretrainingModel
from pipeline.settings.added_words import AddedWords, words_of
from pipeline.settings.objectives import Term
from pipeline.settings.schema import Config, load_config
from pipeline.settings.sizes import count_parameters
from pipeline.training import replicated
from pipeline.training.build import build_data, build_model
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "pipeline" / "configs").glob("*.yaml"))
GB = 1e9


def estimate(config: Config, **changes: Any) -> DryRun:
    given = {"device": "h100", "gpus": 2, "utilisation": 0.5, "pair_tokens": 63}
    return dry_run(config, **{**given, **changes})


def recipe(name: str, *overrides: str) -> Config:
    nowhere = ["data.path=nowhere", "model.init=null", "model.keep_layers=null", "model.freeze=null"]
    config = load_config(ROOT / "pipeline" / "configs" / f"{name}.yaml", [*nowhere, *overrides])
    return config.model_copy(update={"deepspeed": ROOT / config.deepspeed})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_of_the_repository_has_a_dry_run(path: Path) -> None:
    result = estimate(recipe(path.stem))
    assert result.parameters["total"] > 0 and result.flops_per_step > 0 and result.memory[result.stage]["total"] > 0
    assert (result.days is None) == (result.precision == "fp32")


@pytest.mark.parametrize("path", [*CONFIGS, *sorted(ROOT.glob("ds_configs/*.json"))], ids=lambda path: path.stem)
def test_a_file_name_that_a_config_names_exists(path: Path) -> None:
    config = recipe(path.stem) if path.suffix == ".yaml" else recipe("xlm_align_base", f"deepspeed={path}")
    assert config.deepspeed.is_file()
    if config.model.hidden == 768:
        estimate(config)


def test_what_a_validation_encodes_or_lacks_is_noted(gold_dir: Path, tmp_path: Path) -> None:
    for name in ("pud.en", "pud.de"):
        (tmp_path / name).write_text("a\nb\n", encoding="utf-8")
    asked = [f"validation.gold=[{gold_dir}]", f"validation.retrieval=[{tmp_path}]"]
    expected = "each rank encodes 3 gold pairs and 2 sentences with their translations, all layers"
    assert expected in estimate(recipe("mlm", *asked)).notes[-1]
    assert "nowhere: no such file or folder" in estimate(recipe("mlm", "validation.retrieval=[nowhere]")).notes[-1]


def test_parameters_are_those_of_xlmr() -> None:
    base, large = (estimate(recipe(f"xlm_align_{size}")).parameters for size in ("base", "large"))
    head = 768 * 768 + 3 * 768 + 250_002
    pointer = 2 * (768 * 768 + 768)
    # XLM-R base as transformers counts it, without the pooler.
    assert base["total"] - pointer - head == 277_453_056
    assert base["layers"] == 12 * 7_087_872
    assert large["layers"] == 24 * 12_596_224
    assert sum(count for name, count in base.items() if name != "total") == base["total"]


def test_objectives_that_are_off_need_nothing() -> None:
    mlm, both, align = (estimate(recipe(name)) for name in ("mlm", "mlm_tlm", "xlm_align_base"))
    assert set(mlm.tokens_per_step) == {"mono"} and set(both.tokens_per_step) == {"mono", "pairs"}
    assert mlm.flops_per_step < both.flops_per_step < align.flops_per_step
    assert mlm.parameters["heads"] == both.parameters["heads"] < align.parameters["heads"]


def test_days_are_operations_over_peak_and_utilisation() -> None:
    result = estimate(recipe("mlm"), gpus=8, device="a100", utilisation=0.25)
    assert result.tokens_per_step["mono"] == 2048 * 512
    assert result.days == pytest.approx(result.flops_per_step * 200_000 / (8 * 312e12 * 0.25) / 86_400)
    assert result.as_json()["tokens"] == 2048 * 512 * 200_000


def test_days_on_a_cpu_are_of_a_peak_that_is_measured_and_a_share_that_is_assumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.estimate.dry_run.cpu_flops", lambda: 80e9)
    one, two = (estimate(recipe("quickstart"), device="cpu", gpus=ranks, utilisation=0.25) for ranks in (1, 2))
    assert one.days == pytest.approx(one.flops_per_step * one.steps / (80e9 * 0.25) / 86_400)
    assert two.days == pytest.approx(one.days), "ranks share the machine"
    (note,) = (note for note in one.notes if note.startswith("days: "))
    assert "80 GFLOP/s in a product of matrices, measured just now" in note and "25% of it is assumed" in note


def test_a_measured_peak_is_that_of_a_product() -> None:
    assert 1e8 < cpu_flops(width=256, seconds=0.05) < 1e15


@pytest.fixture
def tiny(make_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Config:
    """A config over token files."""
    rng = np.random.default_rng(0)

    def words(longest: int) -> list[int]:
        return rng.integers(4, 60, rng.integers(3, longest)).tolist()

    mono = {"en": [[words(20) for _ in range(120)]]}
    manifest = make_manifest(mono=mono, pairs={"de-en": [[(words(14), words(14)) for _ in range(40)]]})
    monkeypatch.setattr(Manifest, "load", lambda path: manifest)
    (tmp_path / "zero2.json").write_text('{"zero_optimization": {"stage": 2}}', encoding="utf-8")
    return Config.model_validate(
        {
            "data": {"path": tmp_path, "block_tokens": 64, "side_tokens": 30},
            "model": {"layers": 2, "hidden": 16, "heads": 2, "feed_forward": 32},
            "objectives": {"dwa": {"alignment_layer": 1}},
            "batch": {"mono": 8, "pairs": 16, "micro_steps": 2},
            "run": {"out": "run", "steps": 10},
            "deepspeed": tmp_path / "zero2.json",
        }
    )


def with_contrast(config: Config, **changes: Any) -> Config:
    """The same with sentence contrast."""
    content = config.model_dump()
    content["objectives"]["contrast"] = {"layer": 1, "queue": 48, "in_batch": True, **changes}
    content["batch"]["contrast"] = 12
    return Config.model_validate(content)


CONTRASTS: list[dict[str, Any]] = [
    {"mixing": "released"},
    {"mixing": "none", "both_directions": True, "projection": False, "queue": 0},
    {"mixing": "paper", "queue": 0, "momentum": None},
]


@pytest.mark.parametrize("contrast", [None, *CONTRASTS])
def test_tokens_and_operations_are_those_of_the_first_step(tiny: Config, contrast: dict[str, Any] | None) -> None:
    tiny = tiny if contrast is None else with_contrast(tiny, **contrast)
    objectives = build_objectives(tiny)
    manifest = Manifest.load(tiny.data.path)
    model, _ = build_model(tiny, objectives, AddedWords(manifest.vocab_size))
    plan = BatchPlan({"mono": 8, "pairs": 16, "contrast": 12}, 1, 1)
    batch = build_data(tiny, objectives, manifest).micro_batch(plan, 0, 0, 0)
    result = estimate(tiny)
    assert sum(result.tokens_per_step.values()) == batch.tokens
    assert result.flops_per_step == pytest.approx(model.flops(batch))
    assert result.parameters["total"] == sum(p.numel() for p in model.parameters())
    assert not [text for text in result.notes if "vocabulary" in text]


@pytest.mark.parametrize("embeddings", ["tied", "disentangled", "own"])
def test_replaced_tokens_are_counted_as_they_are_trained(tiny: Config, embeddings: str) -> None:
    term = {"generator_layers": 1, "embeddings": embeddings}
    content = tiny.model_dump() | {"objectives": {"mlm": None, "tlm": None, "dwa": None, "mrtd": term, "trtd": term}}
    config = Config.model_validate(content)
    objectives, manifest = build_objectives(config), Manifest.load(config.data.path)
    model, _ = build_model(config, objectives, AddedWords(manifest.vocab_size))
    batch = build_data(config, objectives, manifest).micro_batch(BatchPlan({"mono": 8, "pairs": 16}, 1, 1), 0, 0, 0)
    result = estimate(config)
    assert result.parameters["total"] == sum(p.numel() for p in model.parameters())
    assert result.flops_per_step == pytest.approx(model.flops(batch), rel=0.02), "its blanks are drawn by other numbers"
    assert result.encoder_passes == 2 and result.layers == 2
    generator = sum(p.numel() for p in model.heads["generator"].parameters())
    assert result.drawing_parameters == 2 * generator


@pytest.mark.parametrize(
    ("terms", "decoder", "within"),
    [
        ({"mt": {}}, {"layers": 1}, 1e-9),
        ({"mt": {}}, {"layers": 1, "layout": "interleaved", "embeddings": "own"}, 1e-9),
        ({"sc": {}, "tsc": {"density": 0.2}, "tpsc": {"groups": 1}}, {"layers": 2}, 0.1),
        ({"dae": {}}, {"layers": 1}, 0.4),  # of short sentences, whose attention is less
    ],
)
def test_text_to_text_is_counted_as_it_is_trained(
    tiny: Config, terms: dict[str, Any], decoder: dict[str, Any], within: float
) -> None:
    content = tiny.model_dump()
    content["objectives"] = dict.fromkeys(("mlm", "tlm", "dwa")) | terms
    content["model"]["decoder"] = decoder
    config = Config.model_validate(content)
    objectives, manifest = build_objectives(config), Manifest.load(config.data.path)
    model, _ = build_model(config, objectives, words_of(config, manifest))
    plan = BatchPlan({name: getattr(config.batch, name) for name in streams(config.objectives)}, 1, 1)
    batch = build_data(config, objectives, manifest).micro_batch(plan, 0, 0, 0)
    result = estimate(config)
    assert result.parameters["total"] == sum(p.numel() for p in model.parameters())
    assert result.flops_per_step == pytest.approx(model.flops(batch), rel=within)
    assert result.encoder_passes == len(terms)


def test_activations_are_kept_of_every_pass() -> None:
    sizes, base = EncoderConfig(layers=12), recipe("xlm_e_base").objectives
    for objectives, layers in ((base, 4 + 12), (base.model_copy(update={"mlm": Term()}), 4 + 12 + 12)):
        assert 12 * costs(objectives, "mono", sizes, 1.0, 1).backward_share == pytest.approx(layers)
    alone, beside = (estimate(recipe("xlm_e_base", *more)) for more in ((), ("objectives.mlm={}", "objectives.tlm={}")))
    parts = [result.memory[1]["activations"] for result in (alone, beside)]
    assert parts[1] / parts[0] == pytest.approx(28 / 16)
    assert beside.encoder_passes == alone.encoder_passes + 1


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_what_is_held_beside_what_is_trained_is_the_twins_bytes(tiny: Config, contrast: dict[str, Any]) -> None:
    without = estimate(tiny).memory[2]
    tiny = with_contrast(tiny, **contrast)
    model, _ = build_model(tiny, build_objectives(tiny), AddedWords(Manifest.load(tiny.data.path).vocab_size))
    memory = estimate(tiny).memory[2]
    assert memory.get("replicated", 0) == replicated.bytes_of(model.twins)
    assert memory["similarities"] > 0 and "replicated" not in without and "similarities" not in without


def test_relative_positions_are_counted() -> None:
    kinds = "absolute", "gated_relative"
    plain, relative, dropping, both = (
        estimate(recipe("mlm", f"model.positions={kind}", f"model.dropout={dropout}"))
        for dropout in (0, 0.1)
        for kind in kinds
    )
    sizes = EncoderConfig(1000, gated_relative=True)
    counted = count_parameters(sizes, 0)["total"]
    assert counted == sum(parameter.numel() for parameter in Encoder(sizes).parameters())
    assert relative.parameters["total"] - plain.parameters["total"] == 32 * 12 + 12 * (2 * 65 + 12)
    blocks = 2048 // (2 * 8)  # of a micro-step and rank
    assert relative.memory[1]["activations"] == plain.memory[1]["activations"], (
        "half precision without dropout keeps none"
    )
    more = both.memory[1]["activations"] - dropping.memory[1]["activations"]
    assert more == pytest.approx(4 * 2 * 12 * 12 * blocks * 512**2)


@pytest.mark.parametrize("lengths", [[128] * 8, list(range(40, 128, 8))], ids=["equal", "ragged"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_are_what_autograd_keeps_of_the_layers(lengths: list[int], dtype: torch.dtype) -> None:
    ids = [[0, *np.random.default_rng(0).integers(4, 99, n - 2), 2] for n in lengths]
    count = np.arange(len(ids))
    sequences = Sequences(
        np.concatenate(ids), np.array(lengths), count.astype(np.int32), count.astype(np.uint64), count
    )
    batch = MicroBatch({"mono": collate(sequences, 1, AddedWords(100), [View("mono", "masked")])})
    kept = {}
    for layers in (1, 5):
        sizes = EncoderConfig(100, layers=layers, hidden=192, heads=3, feed_forward=768)
        model = PretrainingModel(Encoder(sizes), [MaskedLM("mlm", "mono")]).to(dtype)
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor, into: dict[int, int] = storages) -> torch.Tensor:
            into[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = model("losses", batch, {"mlm": {}})
        assert result["mlm"]["loss"].requires_grad
        kept[layers] = sum(size for address, size in storages.items() if address not in weights)
    four = EncoderConfig(100, layers=4, hidden=192, heads=3, feed_forward=768)
    assert kept[5] - kept[1] == pytest.approx(activation_bytes(four, batch.tokens, dtype.itemsize), rel=0.1)


def memory(stage: int, ranks: int = 8, micro_steps: int = 4, wide: bool = False, **zero: Any) -> dict[str, float]:
    work = StepWork(EncoderConfig(), int(1e9), 2, tokens=16_384, predicted=2400, ranks=ranks, micro_steps=micro_steps)
    settings: dict[str, Any] = {"fp16": {"enabled": True}, "zero_optimization": {"reduce_bucket_size": 0, **zero}}
    settings |= {"data_types": {"grad_accum_dtype": "fp32"}} if wide else {}
    return {name: size / GB for name, size in memory_per_rank(work, settings, stage).items()}


def test_each_stage_cuts_one_thing_more_into_the_ranks() -> None:
    one, two, three = memory(1), memory(2), memory(3, stage3_max_live_parameters=0)
    assert (one["optimizer"], two["optimizer"], three["optimizer"]) == (1.5, 1.5, 1.5)
    assert (one["gradients"], two["gradients"], three["gradients"]) == (2, 0.25, 0.25)
    assert (one["weights"], two["weights"], three["weights"]) == (2, 2, 0.25)
    assert one["host"] == two["host"] == three["host"] == 0
    assert memory(1, micro_steps=1)["gradients"] == 0.25


def test_gradients_that_are_summed_in_fp32_take_twice_as_much() -> None:
    for stage in (1, 2, 3):
        assert memory(stage, wide=True)["gradients"] == 2 * memory(stage)["gradients"]
    assert memory(0, wide=True) == memory(0)
    there = {"device": "cpu"}
    offloaded, before = memory(2, wide=True, offload_optimizer=there), memory(2, offload_optimizer=there)
    assert offloaded["gradients"] == before["gradients"] and offloaded["host"] == before["host"] + 0.25


def test_offloading_moves_bytes_to_the_host() -> None:
    there = {"device": "cpu"}
    two = memory(2, offload_optimizer=there)
    assert two["optimizer"] == two["update"] == 0 and two["gradients"] == 0.25 and two["host"] == 1.5 + 0.25 + 0.5
    three = memory(3, offload_optimizer=there, offload_param=there, stage3_max_live_parameters=0)
    assert three["weights"] == three["gradients"] == 0 and three["host"] == two["host"] + 0.25


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"device": "h1000"}, "--device h1000: not listed; choose one of"),
        ({"gpus": 0}, "--gpus 0"),
        ({"gpus": 7}, "batch.mono = 2048 cannot be cut into 7 ranks"),
        ({"utilisation": 0.0}, "--utilisation 0.0"),
        ({"pair_tokens": 2}, "--pair-tokens 2"),
        ({"device": "cpu"}, "fp16 needs a GPU"),
    ],
)
def test_what_training_would_refuse_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - looked at below
        estimate(recipe("mlm"), **changes)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_the_table_shows_every_device_and_stage() -> None:
    assert {"h100", "h200", "b200", "a100", "v100"} <= set(DEVICES)
    assert len(table(estimate(recipe("mlm"))).renderables) == 4, "two tables and two notes"


def test_the_command_prints_tables_or_json() -> None:
    command = [sys.executable, "-m", "pipeline", "dry-run", str(ROOT / "pipeline" / "configs" / "mlm.yaml")]
    options = ["--gpus", "4", "--device", "a100", "data.path=nowhere", "batch.micro_steps=16"]
    shown = subprocess.run([*command, *options], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "days on 4 × a100 at 40% of the peak" in shown and "ZeRO-1 ←" in shown and "XLM-R's vocabulary" in shown
    as_json = subprocess.run([*command, *options, "--json"], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(as_json.stdout)["gpus"] == 4
    wrong = subprocess.run([*command, "--device", "tpu"], capture_output=True, text=True, check=False, cwd=ROOT)
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: --device tpu: not listed")


def test_the_fewest_micro_steps_that_fit_fill_a_device() -> None:
    def of(device: str, micro_steps: int = 16) -> DryRun:
        return estimate(recipe("xlm_align_base", f"batch.micro_steps={micro_steps}"), device=device, gpus=8)

    small, large = of("v100").filling, of("h200").filling
    assert small is not None and large is not None and 1 <= large.micro_steps < small.micro_steps
    needed = {count: of("v100", count).memory[1]["total"] for count in (small.micro_steps, small.micro_steps // 2)}
    assert needed[small.micro_steps] + FRAMEWORK == small.needed <= FILLED * 32e9
    assert needed[small.micro_steps // 2] + FRAMEWORK > FILLED * 32e9
    on_cpu = recipe("xlm_align_base", "deepspeed=ds_configs/zero1_bf16.json")
    assert estimate(on_cpu, device="cpu").filling is None


def test_cuts_share_samples_evenly_and_none_may_fit() -> None:
    asked: list[int] = []

    def total(micro_steps: int) -> float:
        asked.append(micro_steps)
        return 96e9 / micro_steps

    found = fewest_micro_steps(total, [48, 96], 2, 32e9)
    assert asked == [1, 2, 3, 4] and found is not None
    assert str(found) == "batch.micro_steps=4: 25 of 32 GB"
    assert fewest_micro_steps(lambda _: 40e9, [48, 96], 2, 32e9) is None
