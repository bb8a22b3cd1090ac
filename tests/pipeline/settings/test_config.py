"""A config is read strictly, mistakes are told in one line that names the field, and the resolved config reads back equal."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.settings.deepspeed_json import load_deepspeed_json, refusals_told
from pipeline.settings.schema import Config, load_config
from tests.conftest import ROOT

MINIMAL = "data: {path: data}\nrun: {out: run}\ndeepspeed: zero1_fp32.json\n"
Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Read the minimal config plus these lines, with overrides."""

    def load_text(more: str = "", *overrides: str, base: str = MINIMAL) -> Config:
        path = tmp_path / "config.yaml"
        path.write_text(base + more, encoding="utf-8")
        return load_config(path, overrides)

    return load_text


def test_defaults_are_the_released_recipe(load: Load) -> None:
    config = load()
    assert (config.model.layers, config.model.hidden, config.model.heads, config.model.dropout) == (12, 768, 12, 0.0)
    assert (config.optimizer.lr, config.optimizer.betas, config.optimizer.eps) == (2e-4, [0.9, 0.98], 1e-6)
    assert (config.optimizer.weight_decay, config.optimizer.clip) == (0.01, 1.0)
    assert (config.optimizer.warmup_steps, config.run.steps) == (10_000, 200_000)
    assert (config.batch.mono, config.batch.pairs) == (2048, 2048)
    assert (config.data.block_tokens, config.data.side_tokens, config.data.alpha) == (512, 254, 0.7)
    dwa = config.objectives.dwa
    assert dwa is not None and (dwa.alignment_layer, dwa.sinkhorn_iterations, dwa.filter_rounds) == (10, 2, 2)
    assert (dwa.cost, dwa.discount) == ("clip", 0.9)


@pytest.mark.parametrize(
    ("more", "key", "nearest"),
    [
        ("optimizer: {learning_rat: 1}", "optimizer.learning_rat", None),
        ("optimizer: {warmup_step: 1}", "optimizer.warmup_step", "optimizer.warmup_steps"),
        (
            "objectives: {dwa: {alignement_layer: 3}}",
            "objectives.dwa.alignement_layer",
            "objectives.dwa.alignment_layer",
        ),
        ("optimiser: {lr: 1.0}", "optimiser", "optimizer"),
        ("model: {block_tokens: 64}", "model.block_tokens", "data.block_tokens"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_one_named(
    load: Load, more: str, key: str, nearest: str | None
) -> None:
    with pytest.raises(ValueError, match="unknown key") as caught:
        load(more)
    message = str(caught.value)
    assert f"unknown key {key}" in message and "\n" not in message
    if nearest is not None:
        assert message.endswith(f"did you mean {nearest}?")


@pytest.mark.parametrize(("text", "value"), [("2e-4", 2e-4), ("1E-3", 1e-3), ("3.e-5", 3e-5), (".5e0", 0.5), ("1", 1)])
def test_numbers_are_read_as_they_are_meant(load: Load, text: str, value: float) -> None:
    assert load(f"optimizer: {{lr: {text}}}").optimizer.lr == value
    assert load("", f"optimizer.lr={text}").optimizer.lr == value


def test_overrides_win_over_the_file_and_the_last_one_wins(load: Load) -> None:
    config = load("optimizer: {lr: 1.0e-3, clip: 0.5}", "optimizer.lr=1e-5", "run.steps=5", "run.steps=7")
    assert (config.optimizer.lr, config.optimizer.clip, config.run.steps) == (1e-5, 0.5, 7)


def test_a_model_of_the_hub_keeps_its_name_in_a_recorded_config(load: Load) -> None:
    name = Path("FacebookAI/xlm-roberta-base@main")
    assert load(f"model: {{init: {name}}}\n").absolute().model.init == name
    assert (
        load("model: {init: ./FacebookAI/xlm-roberta-base}\n").model.init
        == Path.cwd() / "FacebookAI" / "xlm-roberta-base"
    )


def test_a_recorded_config_means_the_same_from_another_folder(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf" / "base").mkdir(parents=True)
    config = load("model: {init: hf/base}\nvalidation: {data: ../valid, gold: [gold/de-en, /gold/x], retrieval: []}\n")
    recorded = config.absolute()
    path = tmp_path / "recorded.yaml"
    path.write_text(recorded.dump(), encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    kept = load_config(path)
    assert kept == recorded == kept.absolute()
    assert (kept.data.path, kept.run.out) == (tmp_path / "data", tmp_path / "run")
    assert kept.model.init == tmp_path / "hf" / "base" and kept.deepspeed == ROOT / "ds_configs" / "zero1_fp32.json"
    assert kept.validation.gold == [tmp_path / "gold" / "de-en", Path("/gold/x")]
    assert kept.optimizer == config.optimizer


def test_an_override_may_set_paths_lists_and_null(load: Load) -> None:
    config = load(
        "", "model.init=models/x", "optimizer.betas=[0.8, 0.9]", "objectives.dwa=null", "validation.gold=[a, b]"
    )
    assert config.model.init == Path("models/x") and config.optimizer.betas == [0.8, 0.9]
    assert config.objectives.dwa is None and list(config.objectives.active()) == ["mlm", "tlm"]
    assert config.validation.gold == [Path("a"), Path("b")]


@pytest.mark.parametrize("override", ["optimizer.lr", "=3", "run.steps.more=3", "optimizer.betas=[0.9"])
def test_an_override_that_cannot_be_is_refused(load: Load, override: str) -> None:
    with pytest.raises(ValueError, match="override") as caught:
        load("run: {out: run, steps: 3}", override, base="data: {path: d}\ndeepspeed: x.json\n")
    assert repr(override) in str(caught.value)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("run.steps=0", "run.steps = 0"),
        ("run.steps=1.5", "run.steps = 1.5"),
        ("run.steps=yes", "run.steps = 'yes'"),
        ("run.seed=-1", "run.seed = -1"),
        ("optimizer.lr=fast", "optimizer.lr = 'fast'"),
        ("data.alpha=1.2", "data.alpha = 1.2"),
        ("data.weights={words: {en: 1}}", "data.weights.words"),
        ("data.weights={mono: {en: -1}}", "data.weights.mono.en = -1"),
        ("data.schedule=[{from_step: 0}]", "data.schedule.0.from_step = 0"),
        ("data.schedule=[{from_step: 9}, {from_step: 9}]", "from_step must rise"),
        ("objectives.mt={directions: [en]}", "objectives.mt.directions: 'en': write two languages"),
        ("objectives.mt={directions: [en-en]}", "'en-en': write two languages"),
        ("objectives.mt={directions: [en-zh-Hans]}", "'en-zh-Hans': write two languages"),
        ("objectives.mt={directions: [en-de, en-de]}", "the same direction twice"),
        ("data.schedule=[{from_step: 5, alpha: 2}]", "data.schedule.0.alpha = 2"),
        ("data.schedule=[{alpha: 0.5}]", "data.schedule.0.from_step: field required"),
        ("objectives.dwa.cost=log", "objectives.dwa.cost = 'log'"),
        ("optimizer.betas=[0.9]", "optimizer.betas = [0.9]"),
        ("model.dropout=1.0", "model.dropout = 1.0"),
        ("run.seed=9223372036854775808", "run.seed = 9223372036854775808: input should be less than"),
        ("run.steps=99999999999999999999", "run.steps = 99999999999999999999"),
        ("optimizer.lr=.inf", "optimizer.lr = inf: input should be a finite number"),
        ("data.weights={mono: {en: .nan}}", "data.weights.mono.en = nan"),
        ("optimizer.betas=[1.5, 0.9]", "optimizer.betas.0 = 1.5"),
        ("model.heads=5", "model: hidden = 768 is not a multiple of heads = 5"),
        ("objectives.dwa.similarity=cosine", "objectives.dwa: alignment settings: similarity is 'cosine'"),
        ("objectives={mlm: null, tlm: null, dwa: null}", "mt are all null; switch at least one on"),
        ("run=3", "run = 3: must be a mapping of keys to values"),
        ("objectives.mt={}", "objectives.mt = {…}: writes with a decoder; give model.decoder"),
        ("model.decoder={}", "model.decoder = {…}: nothing trains it; switch one of sc, tsc, tpsc, dae, mt on"),
        ("model.decoder={layers: 0}", "model.decoder.layers = 0"),
        (
            "model={init: hf, decoder: {}, freeze: encoder}",
            "model: freeze = encoder: the decoder's words are the encoder's",
        ),
        ("model={init: hf, freeze: encoder}", "model: freeze = encoder: there is no decoder to train"),
        (
            "model={init: hf, decoder: {embeddings: own, tag: source}, freeze: encoder}",
            "tags at the source would stay random",
        ),
        ("model={decoder: {embeddings: own}, freeze: encoder}", "model: freeze = encoder: it would stay random"),
        ("model.keep_layers=4", "model: keep_layers = 4: there is no model.init"),
        ("optimizer.decay_steps=5", "optimizer: decay_steps = 5: schedule = polynomial has none"),
        ("optimizer.schedule=cosine", "optimizer.schedule = 'cosine'"),
    ],
)
def test_an_impossible_value_is_refused_with_its_field(load: Load, override: str, field: str) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        load("", override)
    assert field in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("objectives.sc={span: 1}", "model.decoder={}"),
            "model.decoder.sentinels = 100: objectives.sc needs 256, one more than the most spans of data.block_tokens = 512",
        ),
        (
            ("objectives.tpsc={density: 0.3}", "model.decoder={sentinels: 20}"),
            "model.decoder.sentinels = 20: objectives.tpsc needs 52, one more than the most spans of data.side_tokens = 254",
        ),
        (
            ("objectives={mlm: null, tlm: null, mt: {}, mrtd: {embeddings: disentangled}}", "model.decoder={}"),
            "objectives.mrtd.embeddings = disentangled: the encoder's table then is the generator's",
        ),
        (
            ("objectives.mt={}", "model={init: hf, freeze: encoder, decoder: {embeddings: own}}"),
            "model.freeze = encoder: objectives.mlm would train it",
        ),
    ],
)
def test_settings_of_text_to_text_fit_each_other(load: Load, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        load("", *overrides)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_several_mistakes_are_counted(load: Load) -> None:
    with pytest.raises(ValueError, match=r"\(and 1 more\)"):
        load("", "run.steps=0", "run.seed=-1")


def test_a_missing_field_is_named(load: Load) -> None:
    with pytest.raises(ValueError, match=r"data\.path: field required"):
        load(base="data: {}\nrun: {out: run}\ndeepspeed: x.json\n")


@pytest.mark.parametrize("text", ["", "- a list", "only words", "a: [1", "a: b: c"])
def test_a_file_that_is_no_config_is_refused_in_one_line(load: Load, text: str) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        load(base=text)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no such config, neither as a file nor by name; shipped are adapt, benchmark"
    ):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8"):
        load_config(tmp_path / "bytes.yaml")


def test_the_resolved_config_reads_back_equal(load: Load) -> None:
    config = load(
        "validation: {gold: [gold/ß-de, gold/zh]}",
        "optimizer.lr=3e-7",
        "objectives.mlm=null",
        "objectives.dwa.cost=exp",
        "objectives.dwa.similarity=cosine",
        "objectives.dwa.temperature=0.1",
        "model.init=models/x",
    )
    assert load(base=config.dump()) == config.absolute()


def test_a_folder_whose_name_looks_like_a_number_survives_the_resolved_config(load: Load) -> None:
    config = load("", "run.out='1e5'")
    assert load(base=config.dump()) == config.absolute()


def test_alignment_settings_are_those_of_the_config(load: Load) -> None:
    dwa = load("objectives: {dwa: {cost: exp, similarity: cosine, temperature: 0.1, filter_rounds: 3}}").objectives.dwa
    assert dwa is not None
    settings = dwa.alignment_settings()
    assert (settings.cost, settings.similarity, settings.temperature, settings.filter_rounds) == (
        "exp",
        "cosine",
        0.1,
        3,
    )


def test_filtering_can_be_left_out_and_no_less(load: Load) -> None:
    dwa = load("objectives: {dwa: {filter_rounds: 0}}").objectives.dwa
    assert dwa is not None and dwa.alignment_settings().filter_rounds == 0
    with pytest.raises(ValueError, match=r"objectives\.dwa\.filter_rounds = -1"):
        load("objectives: {dwa: {filter_rounds: -1}}")


@pytest.mark.parametrize(("content", "reason"), [("{", "not valid JSON"), ("[]", "is a JSON object")])
def test_a_deepspeed_file_that_is_none_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        load_deepspeed_json(path)
    with pytest.raises(ValueError, match="cannot read the DeepSpeed config"):
        load_deepspeed_json(tmp_path / "none.json")


def test_a_deepspeed_file_is_read_as_it_stands(tmp_path: Path) -> None:
    content = {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}}
    (tmp_path / "deepspeed.json").write_text(json.dumps(content), encoding="utf-8")
    assert load_deepspeed_json(tmp_path / "deepspeed.json") == content


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline" / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_of_the_repository_reads_and_names_a_deepspeed_file_that_exists(path: Path) -> None:
    config = load_config(path)
    assert load_deepspeed_json(config.deepspeed)


def test_the_base_config_is_the_released_recipe(load: Load) -> None:
    config, defaults = load_config(ROOT / "pipeline" / "configs" / "xlm_align_base.yaml"), load()
    assert (config.model, config.objectives, config.optimizer) == (
        defaults.model,
        defaults.objectives,
        defaults.optimizer,
    )
    assert (config.batch.mono, config.batch.pairs, config.run.steps) == (2048, 2048, 200_000)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage = 4: input should be less than or equal to 3"),
        ({"zero_optimization": {"stage": "2"}}, "zero_optimization.stage = '2'"),
        ({"zero_optimization": 3}, "zero_optimization = 3: must be a mapping"),
        ({"zero_optimisation": {"stage": 2}}, "unknown key zero_optimisation; did you mean zero_optimization?"),
        ({"zero_optimization": {"stages": 2}}, "unknown key zero_optimization.stages; did you mean"),
        ({"zero_optimization": {"reduce_bucket_size": "auto"}}, "zero_optimization.reduce_bucket_size = 'auto'"),
        ({"zero_optimization": {"offload_optimizer": {"device": "gpu"}}}, "offload_optimizer.device = 'gpu'"),
        ({"fp16": {"enabled": "yes"}}, "fp16.enabled = 'yes'"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, "both true"),
        ({"bfloat16": {"enabled": True}}, "write bf16"),
    ],
)
def test_a_wrong_value_in_the_deepspeed_file_is_named_with_file_and_field(
    content: dict, part: str, tmp_path: Path
) -> None:
    path = tmp_path / "zero.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"zero\.json") as caught:
        load_deepspeed_json(path)
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_what_deepspeed_alone_refuses_is_one_line_too(tmp_path: Path) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    expected = r"zero\.json: DeepSpeed refuses nonsense = 3: Extra inputs"
    with pytest.raises(ValueError, match=expected) as caught, refusals_told(tmp_path / "zero.json"):
        DeepSpeedZeroConfig(stage=1, nonsense=3)
    assert "\n" not in str(caught.value)


def test_a_key_twice_in_the_deepspeed_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text('{"bf16": {"enabled": true}, "bf16": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"zero\.json: not valid JSON: the key bf16 stands twice"):
        load_deepspeed_json(tmp_path / "zero.json")


def test_a_size_of_buckets_in_exponents_is_a_whole_number(tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"reduce_bucket_size": 5e8}}', encoding="utf-8")
    assert load_deepspeed_json(tmp_path / "zero.json")["zero_optimization"]["reduce_bucket_size"] == 5e8
