"""The terms of the loss that a config switches on, each with its settings. Knows no PyTorch."""

from __future__ import annotations

from dataclasses import fields
from typing import Literal

from pydantic import Field, model_validator

from data_prep.sections import NotNegative, Positive, Section, Single
from pipeline.settings.align_options import Encoding
from pipeline.settings.fixed import FIXED
from pipeline.settings.sentence_contrast import SentenceContrast
from pipeline.settings.text_to_text import Noise, SpanCorruption, Translation
from sinkhorn_align import AlignmentSettings


class Term(Section):
    """An objective of the loss."""

    weight: Single = Field(1.0, ge=0, description="factor of the objective's loss")
    warmup_steps: NotNegative = Field(0, description="steps over which the weight rises linearly from 0")

    @property
    def schedule(self) -> tuple[float, int]:
        """Equal where losses are weighed alike at every step."""
        return self.weight, self.warmup_steps


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
    label_encoding: Encoding = Field(
        "joint",
        description="in what words are aligned to label them: joint, source and target in one sequence; separate",
    )

    def alignment_settings(self) -> AlignmentSettings:
        return AlignmentSettings(**{own.name: getattr(self, own.name) for own in fields(AlignmentSettings)})

    @model_validator(mode="after")
    def _settings_go_together(self) -> WordAlignmentTerm:
        self.alignment_settings()
        return self


class TokenContrastTerm(Term):
    layer: Positive = Field(7, description="layer whose hidden states are contrasted")
    labels: Literal["self", "layers", "ot", "links"] = Field(
        "self",
        description="what labels partners: self, tokens that are each other's most similar ones; layers, those that are so at "
        "each of label_layers; ot, links by optimal transport, as dwa's; links, those that were given with the pairs",
    )
    label_layer: NotNegative | None = Field(None, description="layer whose hidden states label partners; null: layer")
    label_layers: list[NotNegative] = Field(
        [], description="two or more layers that must agree, for labels = layers alone"
    )
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

    @property
    def labelling_layers(self) -> tuple[int, ...]:
        """The layers that are read to label; none where links are given."""
        by = {"links": (), "layers": tuple(self.label_layers)}
        return by.get(self.labels, (self.labelled_by,))

    @property
    def named_layers(self) -> dict[str, int]:
        """The deepest layer that each setting names."""
        return {
            "layer": self.layer,
            "label_layer": self.labelled_by,
            "label_layers": max(self.label_layers, default=0),
        }

    @model_validator(mode="after")
    def _labels_have_layers(self) -> TokenContrastTerm:
        if (self.labels == "layers") != bool(self.label_layers) or (
            self.label_layers and len(set(self.label_layers)) < 2
        ):
            raise ValueError(
                f"label_layers = {self.label_layers}: labels = layers needs two or more, as [6, 7, 8], and labels = "
                f"{'self, ot and links' if self.labels == 'layers' else self.labels} none"
            )
        if self.label_layer is not None and self.labels in ("layers", "links"):
            raise ValueError(f"label_layer = {self.label_layer}: labels = {self.labels} does not read it; make it null")
        return self


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


class SpanTerm(SpanCorruption, Term):
    """Span corruption as a term of the loss."""


class NoiseTerm(Noise, Term):
    """A denoising autoencoder as a term of the loss."""


class TranslationTerm(Translation, Term):
    """Translation as a term of the loss."""


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
    sc: SpanTerm | None = Field(None, description="the decoder writes spans that monolingual blocks lack")
    tsc: SpanTerm | None = Field(None, description="the same of one side of pairs, beside its translation")
    tpsc: SpanTerm | None = Field(None, description="the same of both sides of pairs")
    dae: NoiseTerm | None = Field(
        None, description="the decoder writes sentences of monolingual blocks that lost their order"
    )
    mt: TranslationTerm | None = Field(
        None, description="the decoder writes the translation, in either direction; XNLG's cross-lingual autoencoder"
    )

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


def term_weights(terms: dict[str, Term], step: int) -> dict[str, float]:
    """Weight of each objective's loss at an optimizer step (from 0)."""
    return {
        name: term.weight * (1.0 if step >= term.warmup_steps else step / term.warmup_steps)
        for name, term in terms.items()
    }
