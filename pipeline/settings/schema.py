"""Everything that a training run depends on, as one schema; the printed resolved config of a run can be fed back.

YAML file, then `key=value` overrides; an unknown key, a wrong type or an impossible value is a ValueError of one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from data_prep.sections import (
    NotNegative,
    PathField,
    Positive,
    Section,
    Single,
    Whole,
    checked,
    dump_yaml,
    parse_yaml,
    read_yaml,
    shown,
)
from data_prep.tokenizers.hub import hub_name, place_of
from pipeline import shipped
from pipeline.settings.align_options import Encoding, Method
from pipeline.settings.objectives import Objectives, ReplacedTokensTerm
from pipeline.settings.text_to_text import WRITING, Decoder
from pipeline.settings.text_to_text_views import STREAMS, NoiseOptions, SpanOptions, TranslationOptions, options_of


class Weights(Section):
    """Shares of languages in place of n(l)^alpha, up to a factor; a stream with any needs one for each language."""

    mono: dict[str, Annotated[float, Field(ge=0)]] = Field({}, description="weight by language; 0 leaves one out")
    pairs: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, description="weight by pair, as {de-en: 2, en-fr: 1}; for sentence contrast too"
    )


class BlendStage(Section):
    """Another blend of languages from a step on; what is not set stays as it was."""

    from_step: Positive = Field(description="first optimizer step of the stage")
    alpha: float | None = Field(None, ge=0, le=1, description="data.alpha from here on")
    weights: Weights | None = Field(None, description="data.weights from here on; {}: alpha again")


class Data(Section):
    path: PathField = Field(description="DATA_DIR: token files and manifest made by `python -m data_prep`")
    alpha: float = Field(0.7, ge=0, le=1, description="language sampling p(l) ∝ n(l)^alpha; XLM-R is known for 0.3")
    weights: Weights = Field(Weights(), description="explicit shares of languages in place of alpha, by stream")
    schedule: list[BlendStage] = Field([], description="other alpha or weights from later steps on, in their order")
    block_tokens: Whole = Field(512, ge=8, description="longest monolingual block, special tokens included")
    side_tokens: Positive = Field(
        254, description="longest side of a pair; longer ones are cut, and counted at the start"
    )

    @field_validator("schedule")
    @classmethod
    def _in_order(cls, schedule: list[BlendStage]) -> list[BlendStage]:
        steps = [stage.from_step for stage in schedule]
        if steps != sorted(set(steps)):
            raise ValueError("from_step must rise from stage to stage")
        return schedule


class Model(Section):
    init: PathField | None = Field(
        None,
        description="Hugging Face folder, a hub's model as ORG/NAME[@REVISION], fairseq's model.pt (or its folder), or a run's "
        "folder or checkpoint, to start from; null: from scratch",
    )
    layers: Positive = Field(12, description="transformer layers (from scratch; a loaded model has its own sizes)")
    hidden: Positive = Field(768, description="hidden width")
    heads: Positive = Field(12, description="attention heads")
    feed_forward: Positive = Field(3072, description="inner width of the feed-forward network")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout everywhere; the released recipe has none, and attention on a GPU is several times slower with it",
    )
    positions: Literal["absolute", "gated_relative"] = Field(
        "absolute",
        description="gated_relative: beside learned positions XLM-E's gated relative position bias, which neither Hugging "
        "Face's nor fairseq's models have (from scratch; a loaded model has its own)",
    )
    init_std: Single = Field(
        0.02, gt=0, description="standard deviation of new weights; narrow models want a larger one"
    )
    keep_layers: Positive | None = Field(
        None, description="layers of model.init to begin with, the lowest ones; null: all of them"
    )
    freeze: Literal["encoder"] | None = Field(
        None, description="encoder: it stays as it began, and the decoder alone is trained"
    )
    decoder: Decoder | None = Field(
        None, description="a decoder behind the encoder, which sc, tsc, tpsc, dae and mt train; null: none"
    )

    @field_validator("init", mode="before")
    @classmethod
    def _named(cls, init: Any) -> Any:
        return place_of(init) if isinstance(init, str) else init

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Model:
        if self.init is None and self.hidden % self.heads:
            raise ValueError(f"hidden = {self.hidden} is not a multiple of heads = {self.heads}")
        return self

    @model_validator(mode="after")
    def _begins_with_something(self) -> Model:
        if self.keep_layers is not None and self.init is None:
            raise ValueError(
                f"keep_layers = {self.keep_layers}: there is no model.init whose layers were kept; give layers"
            )
        if self.freeze and self.init is None:
            raise ValueError(
                "freeze = encoder: it would stay random; give the model that it is to be in model.init, or freeze: null"
            )
        return self

    @model_validator(mode="after")
    def _decoder_learns_its_words(self) -> Model:
        if self.freeze and self.decoder is None:
            raise ValueError("freeze = encoder: there is no decoder to train; give model.decoder, or freeze: null")
        if self.freeze and self.decoder is not None and self.decoder.embeddings == "tied":
            raise ValueError(
                "freeze = encoder: the decoder's words are the encoder's; give decoder.embeddings: own, or freeze: null"
            )
        if self.freeze and self.decoder is not None and self.decoder.tag == "source":
            raise ValueError(
                "freeze = encoder: tags at the source would stay random; give decoder.tag: target, or freeze: null"
            )
        return self


class Batch(Section):
    """The global batch of one optimizer step, whatever the number of ranks."""

    mono: Positive = Field(2048, description="monolingual blocks per optimizer step")
    pairs: Positive = Field(2048, description="pairs per optimizer step")
    contrast: Positive = Field(
        2048,
        description="samples of sentence contrast per optimizer step: pairs, or two pairs each where they are mixed",
    )
    micro_steps: Positive = Field(1, description="micro-steps (gradient accumulation) per optimizer step")


class Optimizer(Section):
    """AdamW with linear warm-up; defaults are the released recipe's."""

    lr: Single = Field(2e-4, gt=0, description="peak learning rate")
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(
        [0.9, 0.98], min_length=2, max_length=2, description="Adam's β"
    )
    eps: Single = Field(1e-6, ge=1e-30, description="Adam's ε")
    weight_decay: Single = Field(0.01, ge=0, description="decoupled weight decay, on every parameter")
    clip: Single = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    warmup_steps: NotNegative = Field(10_000, description="steps of linear warm-up")
    heads_lr: Single | None = Field(None, gt=0, description="peak learning rate of the heads' own parameters; null: lr")
    heads_first_steps: NotNegative = Field(
        0,
        description="steps in which the heads learn alone: for new heads on a pretrained encoder, which they would harm",
    )
    schedule: Literal["polynomial", "inverse_sqrt", "warmup_stable_decay"] = Field(
        "polynomial",
        description="after the warm-up: polynomial, down to 0 at the last step; inverse_sqrt, as 1/√step; warmup_stable_decay, "
        "the peak rate until decay_steps before the last step, then down to 0",
    )
    decay_steps: NotNegative = Field(
        0, description="steps of warmup_stable_decay's decay; 0: none, for a run to go on from"
    )
    decay_power: Single = Field(1.0, gt=0, description="power of the decay to 0: 1 is a straight line, 0.5 falls late")
    adam: Literal["torch", "deepspeed"] = Field(
        "torch",
        description="torch: PyTorch's fused AdamW; deepspeed: DeepSpeed's, on GPUs, which nvcc compiles at the first start; "
        "what is offloaded has DeepSpeed's of the host whatever is said here",
    )

    @model_validator(mode="after")
    def _decays_by_its_schedule(self) -> Optimizer:
        if self.decay_steps and self.schedule != "warmup_stable_decay":
            raise ValueError(
                f"decay_steps = {self.decay_steps}: schedule = {self.schedule} has none; give warmup_stable_decay, or 0"
            )
        return self


class Validation(Section):
    every: NotNegative = Field(1000, description="optimizer steps between validations; 0: none")
    data: PathField | None = Field(None, description="DATA_DIR of held-out text, for the loss per language")
    samples: Positive = Field(256, description="blocks and pairs per language, from the head of its first shard")
    batch: Positive = Field(16, description="blocks or pairs per forward and rank")
    gold: list[PathField] = Field(
        [],
        description="gold alignment folders (test.<src>, test.<trg>, alignv2.txt), or folders of them, for AER by layer",
    )
    gold_pairs: Positive = Field(200, description="pairs of each gold folder that are aligned during training")
    retrieval: list[PathField] = Field(
        [],
        description="line-aligned files in PUD's or Tatoeba's layout, as `evaluate --retrieval` takes, for retrieval",
    )
    retrieval_sentences: Positive = Field(200, description="sentences of each pair of files that are encoded")
    shown_pairs: NotNegative = Field(
        4, description="gold pairs whose links are kept at every validation, for `report`; 0: none"
    )


class Wandb(Section):
    """Weights & Biases, which gets the same figures as metrics.jsonl; needs the package wandb."""

    project: str = Field(description="project that the run is shown in")
    name: str | None = Field(None, description="name of the run; null: W&B chooses one")
    entity: str | None = Field(None, description="user or team; null: the one that is logged in")
    tags: list[str] = Field([], description="labels of the run")
    mode: Literal["online", "offline", "disabled"] | None = Field(
        None, description="offline: into the run's folder, for `wandb sync`; null: WANDB_MODE, else online"
    )


class Aligner(Section):
    """How words are aligned with the model, in validation and by whoever uses it; recorded with every checkpoint."""

    layer: NotNegative | None = Field(
        None, description="layer; null: the best by validation.gold, else the layer that words are labelled by"
    )
    method: Method | None = Field(
        None, description="null: ot-filter, as words are labelled, or argmax where no word alignment is trained"
    )
    encoding: Encoding | None = Field(
        None, description="null: what the method is known for, joint of ot-filter and ot, else separate"
    )


class Run(Section):
    out: PathField = Field(description="folder of the run: config, metrics, checkpoints")
    steps: Positive = Field(200_000, description="optimizer steps")
    seed: NotNegative = Field(1, description="decides initial weights, order, masks")
    log_every: Positive = Field(10, description="steps between lines of metrics")
    save_every: Positive = Field(1000, description="steps between checkpoints; the last step is always saved")
    keep: Positive = Field(2, description="how many of the latest checkpoints stay")
    keep_every: NotNegative = Field(0, description="steps between checkpoints that stay for good; 0: none do")
    time_limit_minutes: float | None = Field(
        None, gt=0, description="save and end before so long after the start of the process; null: no limit"
    )
    non_finite_steps: Positive = Field(
        3, description="steps in a row with a non-finite loss or gradient, none of them applied, that end the run"
    )
    timeout_minutes: Positive = Field(
        30, le=1_000_000, description="longest wait for another rank before the run stops"
    )
    wandb: Wandb | None = Field(None, description="Weights & Biases as well, as {project: NAME}; null: without")


class Config(Section):
    data: Data
    model: Model = Model()
    objectives: Objectives = Objectives()
    batch: Batch = Batch()
    optimizer: Optimizer = Optimizer()
    validation: Validation = Validation()
    aligner: Aligner = Aligner()
    run: Run
    deepspeed: PathField = Field(description="DeepSpeed JSON with the ZeRO stage and precision; see ds_configs/")

    @model_validator(mode="after")
    def _decoder_is_trained(self) -> Config:
        active = self.objectives.active()
        writing = [name for name in WRITING if name in active]
        if writing and self.model.decoder is None:
            raise ValueError(f"objectives.{writing[0]} = {{…}}: writes with a decoder; give model.decoder, as {{}}")
        if self.model.decoder is not None and not writing:
            raise ValueError(f"model.decoder = {{…}}: nothing trains it; switch one of {', '.join(WRITING)} on")
        for name, term in active.items():
            tied = self.model.decoder is not None and self.model.decoder.embeddings == "tied"
            if tied and isinstance(term, ReplacedTokensTerm) and term.embeddings == "disentangled":
                raise ValueError(
                    f"objectives.{name}.embeddings = disentangled: the encoder's table then is the generator's; give "
                    "model.decoder.embeddings: own, or take tied"
                )
        for name in active if self.model.freeze else ():
            if name not in WRITING:
                raise ValueError(
                    f"model.freeze = encoder: objectives.{name} would train it; switch it off, or give freeze: null"
                )
        return self

    @model_validator(mode="after")
    def _spans_have_sentinels(self) -> Config:
        for name, options in self.views_of_text_to_text().items():
            if not isinstance(options, SpanOptions):
                continue
            assert self.model.decoder is not None
            limit = "data.block_tokens" if STREAMS[name] == "mono" else "data.side_tokens"
            tokens = self.data.block_tokens if STREAMS[name] == "mono" else self.data.side_tokens
            needed, there = options.most_spans(STREAMS[name], tokens) + 1, self.model.decoder.sentinels
            if needed > there:
                raise ValueError(
                    f"model.decoder.sentinels = {there}: objectives.{name} needs {needed}, one more than the most spans of "
                    f"{limit} = {tokens}; give as many, longer spans or shorter texts"
                )
        return self

    def views_of_text_to_text(self) -> dict[str, SpanOptions | NoiseOptions | TranslationOptions]:
        """By objective what the views are told that a decoder learns from."""
        decoder, active = self.model.decoder, self.objectives.active()
        if decoder is None:
            return {}
        return {name: options_of(name, active[name], decoder) for name in WRITING if name in active}

    @model_validator(mode="after")
    def _queue_fits_the_batch(self) -> Config:
        if self.objectives.contrast is not None:
            self.objectives.contrast.check_batch(self.batch.contrast)
        return self

    def absolute(self) -> Config:
        """The same, with paths that mean the same from any folder; a hub's model keeps its name."""
        content = _absolute(self.model_dump())
        if self.model.init is not None and hub_name(self.model.init):
            content["model"]["init"] = self.model.init
        return Config.model_validate(content)

    def dump(self) -> str:
        """The resolved config as YAML that `load_config` reads back, from any folder."""
        return dump_yaml(self.absolute().model_dump(mode="json"))


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config (a file, or a shipped one by name) and apply overrides such as `optimizer.lr=1e-4`.

    Paths are relative to the caller. `deepspeed` alone is looked up relative to the config's own file, or as an override
    relative to the caller, and then among the shipped JSONs.
    """
    path = shipped.config_path(path)
    content = read_yaml(path, "config")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds no settings; see pipeline/configs/ for examples")
    for override in overrides:
        _apply(content, override)
    config = checked(Config, content, str(path))
    base = Path() if any(override.startswith("deepspeed=") for override in overrides) else path.parent
    return config.model_copy(update={"deepspeed": shipped.deepspeed_json(config.deepspeed, base)})


def _absolute(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _absolute(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_absolute(value) for value in content]
    return content.absolute() if isinstance(content, Path) else content


def _apply(content: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"override {override!r}: write key=value, for example optimizer.lr=1e-4")
    *sections, name = key.split(".")
    for section in sections:
        content = content.setdefault(section, {}) if isinstance(content, dict) else content
        if not isinstance(content, dict):
            raise ValueError(f"override {override!r}: {section} is not a section")
    try:
        content[name] = parse_yaml(text)
    except yaml.YAMLError:
        raise ValueError(f"override {shown(override)}: {shown(text)} is not a YAML value") from None
