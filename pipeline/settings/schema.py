"""Everything that a training run depends on, as one schema; the printed resolved config of a run can be fed back.

YAML file, then `key=value` overrides; an unknown key, a wrong type or an impossible value is a ValueError of one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
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
from pipeline.settings.fixed import FIXED as FIXED
from pipeline.settings.sentence_contrast import SentenceContrast
from sinkhorn_align import AlignmentSettings


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
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout everywhere; the released recipe has none")
    positions: Literal["absolute", "gated_relative"] = Field(
        "absolute",
        description="gated_relative: beside learned positions XLM-E's gated relative position bias, which neither Hugging "
        "Face's nor fairseq's models have (from scratch; a loaded model has its own)",
    )
    init_std: Single = Field(
        0.02, gt=0, description="standard deviation of new weights; narrow models want a larger one"
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


class Term(Section):
    """An objective of the loss."""

    weight: Single = Field(1.0, ge=0, description="factor of the objective's loss")
    warmup_steps: NotNegative = Field(0, description="steps over which the weight rises linearly from 0")


class WordAlignmentTerm(Term):
    alignment_layer: NotNegative = Field(10, description="layer whose hidden states are aligned to label words")
    cost: Literal["clip", "exp"] = Field("clip", description="clip: as released; exp: as published")
    similarity: Literal["dot", "cosine"] = Field("dot", description="cosine is for exp only")
    temperature: Single = Field(1.0, gt=0, description="μ of exp")
    sinkhorn_iterations: NotNegative = Field(2, description="Sinkhorn iterations")
    filter_rounds: NotNegative = Field(
        2,
        description="rounds of mutual argmax, the first one counted; 0: no filtering, each token has its heaviest partner",
    )
    discount: float = Field(0.9, gt=0, le=1, description="α of the further rounds")

    def alignment_settings(self) -> AlignmentSettings:
        return AlignmentSettings(**{own.name: getattr(self, own.name) for own in fields(AlignmentSettings)})

    @model_validator(mode="after")
    def _settings_go_together(self) -> WordAlignmentTerm:
        self.alignment_settings()
        return self


class TokenContrastTerm(Term):
    layer: Positive = Field(7, description="layer whose hidden states are contrasted")
    label_layer: NotNegative | None = Field(None, description="layer whose hidden states label partners; null: layer")
    temperature: Single = Field(0.05, gt=0, description="what cosines are divided by")
    mask_rate: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the tokens behind <mask> in what is contrasted; partners are found without",
    )

    @property
    def labelled_by(self) -> int:
        return self.layer if self.label_layer is None else self.label_layer


class ContrastTerm(SentenceContrast, Term):
    """Sentence contrast as a term of the loss."""


class ReplacedTokensTerm(Term):
    generator_layers: Positive = Field(
        4, description="layers of the generator, which has the encoder's widths", json_schema_extra=FIXED
    )
    embeddings: Literal["tied", "disentangled", "own"] = Field(
        "tied",
        description="words and positions in the generator: tied, by the encoder's tables; disentangled, by tables that the "
        "encoder's differ from and its loss does not move; own, by others",
        json_schema_extra=FIXED,
    )
    discriminator_weight: Single = Field(
        50.0,
        ge=0,
        description="λ of: the generator's mean loss of a blank + λ × the discriminator's mean loss of a token; as 15 % of the "
        "tokens are blanks, its summed loss is multiplied by 0.15 λ and, as the generator's, divided by the blanks",
    )


class Objectives(Section):
    """null switches one off."""

    mlm: Term | None = Field(Term(), description="masked tokens of monolingual blocks")
    tlm: Term | None = Field(Term(), description="masked tokens of pairs")
    dwa: WordAlignmentTerm | None = Field(WordAlignmentTerm(), description="denoising word alignment on pairs")
    token_contrast: TokenContrastTerm | None = Field(
        None, description="each token of a pair's sides against the other side's tokens, its partner among them"
    )
    contrast: ContrastTerm | None = Field(
        None, description="each sentence of a pair against sentences of other pairs, its translation among them"
    )

    mrtd: ReplacedTokensTerm | None = Field(None, description="replaced tokens of monolingual blocks are to be told")
    trtd: ReplacedTokensTerm | None = Field(None, description="replaced tokens of pairs; by the generator of mrtd")

    def active(self) -> dict[str, Term]:
        terms = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: term for name, term in terms.items() if term is not None}

    @model_validator(mode="after")
    def _some_are_on(self) -> Objectives:
        if not self.active():
            names = list(type(self).model_fields)
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} are all null; switch at least one on")
        return self

    @model_validator(mode="after")
    def _one_generator(self) -> Objectives:
        if self.mrtd is not None and self.trtd is not None:
            for name in ("generator_layers", "embeddings"):
                of_blocks, of_pairs = getattr(self.mrtd, name), getattr(self.trtd, name)
                if of_blocks != of_pairs:
                    raise ValueError(
                        f"mrtd.{name} = {of_blocks} and trtd.{name} = {of_pairs}: they have one generator; give both the same"
                    )
        for name, term in (("mrtd", self.mrtd), ("trtd", self.trtd)):
            if (
                term is not None
                and term.embeddings == "disentangled"
                and (self.mlm is not None or self.tlm is not None)
            ):
                raise ValueError(
                    f"{name}.embeddings = disentangled: mlm and tlm predict words by the encoder's table, which then is the "
                    "generator's; make them null, or take tied"
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
    """AdamW with linear warm-up and polynomial decay; defaults are the released recipe's."""

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
    decay_power: Single = Field(1.0, gt=0, description="power of the polynomial decay to 0 at the last step")
    torch_adam: bool = Field(
        False, description="PyTorch's AdamW instead of DeepSpeed's fused one, which compiles itself"
    )


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
