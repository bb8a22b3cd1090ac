"""What sentence contrast may be told, and how slowly its slow encoder follows at each step.

Knows settings alone: `schema` makes a term of the loss of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from data_prep.sections import NotNegative, Positive, Section, Single, shown
from pipeline.settings.fixed import FIXED

Share = Annotated[float, Field(ge=0, le=1)]


class Constant(Section):
    """The same momentum in every step."""

    kind: Literal["constant"] = "constant"
    value: Share

    def at(self, step: int) -> float:
        return self.value


class ConstantWithRefresh(Section):
    """The same momentum, and a copy of the trained weights every `interval` steps."""

    kind: Literal["constant_with_refresh"]
    value: Share
    interval: Positive

    def at(self, step: int) -> float:
        return 0.0 if step % self.interval == 0 else self.value


class Linear(Section):
    """`min` up to step `begin`, `max` from step `end` on, a straight line between them."""

    kind: Literal["linear"]
    begin: NotNegative
    end: NotNegative
    min: Share
    max: Share

    def at(self, step: int) -> float:
        if step <= self.begin:
            return self.min
        if step >= self.end:
            return self.max
        return self.min + (self.max - self.min) * (step - self.begin) / (self.end - self.begin)

    @model_validator(mode="after")
    def _ends_later(self) -> Linear:
        if self.end < self.begin:
            raise ValueError(f"end = {self.end}: before begin = {self.begin}; give a later step")
        return self


class Exponential(Section):
    """1 − step^(−alpha), not below `min` and not above `max`."""

    kind: Literal["exponential"]
    alpha: Single = Field(gt=0)
    min: Share
    max: Share

    def at(self, step: int) -> float:
        if step <= 0:
            return self.min
        return min(max(1.0 - step**-self.alpha, self.min), self.max)


Momentum = Annotated[Constant | ConstantWithRefresh | Linear | Exponential, Field(discriminator="kind")]
"""`at(step)` is the momentum m of the update after so many optimizer steps: slow = m · slow + (1 − m) · trained."""


class SentenceContrast(Section):
    """InfoXLM's XlCo; the defaults are the released recipe's."""

    layer: Positive = Field(8, description="layer whose hidden states are compared", json_schema_extra=FIXED)
    pooling: Literal["first", "mean"] = Field(
        "first", description="a sentence's vector: its <s>, or the mean of all its tokens", json_schema_extra=FIXED
    )
    projection: bool = Field(True, description="a trained matrix over the vectors", json_schema_extra=FIXED)
    similarity: Literal["dot", "cosine"] = Field(
        "dot", description="cosine wants a temperature of about 0.05", json_schema_extra=FIXED
    )
    temperature: Single = Field(0.25, gt=0, description="what similarities are divided by")
    queue: NotNegative = Field(
        131_072, description="keys of earlier steps that are negatives; 0: none", json_schema_extra=FIXED
    )
    fill: bool = Field(True, description="fill the queue before training; false: it grows as training goes on")
    in_batch: bool = Field(False, description="the step's other keys are negatives")
    both_directions: bool = Field(False, description="each side is a query, and not the first alone")
    mixing: Literal["none", "released", "paper"] = Field(
        "released",
        description="two pairs a sample: neighbours of a file as released, or of two corpora as published",
        json_schema_extra=FIXED,
    )
    masked: bool = Field(
        True, description="15 % of the tokens are masked, as for MLM; false: none is", json_schema_extra=FIXED
    )
    momentum: Momentum | None = Field(
        Constant(value=0.9999),
        description="of the slow encoder that makes keys, as a number or {kind: linear, …}; 1.0: it stays as it began; "
        "null: the trained encoder makes keys, with gradient",
    )

    @field_validator("momentum", mode="before")
    @classmethod
    def _number_is_constant(cls, momentum: Any) -> Any:
        if isinstance(momentum, int | float) and not isinstance(momentum, bool):
            return {"kind": "constant", "value": float(momentum)}
        if momentum is None or isinstance(momentum, dict | Section):
            return momentum
        raise ValueError(f"{shown(momentum)} is neither a number nor a mapping as {{kind: linear, …}}")

    @model_validator(mode="after")
    def _has_negatives(self) -> SentenceContrast:
        if not self.queue and not self.in_batch:
            raise ValueError("queue = 0, in_batch = false: there are no negatives; give a queue, or in_batch: true")
        if self.queue and self.momentum is None:
            raise ValueError(
                f"queue = {self.queue}, momentum = null: keys of earlier steps need a slow encoder; give a momentum, or "
                "queue: 0 and in_batch: true"
            )
        return self

    @property
    def directions(self) -> int:
        """How many sides of a sample are queries, and keys."""
        return 2 if self.both_directions else 1

    def check_batch(self, samples: int) -> None:
        """ValueError where the queue does not hold a whole number of steps' keys; samples: of a step."""
        keys = samples * self.directions
        if not self.queue or self.queue % keys == 0:
            return
        of_step = f"the {keys} keys of a step (batch.contrast = {samples}{', both directions' * self.both_directions})"
        if self.queue < keys:
            raise ValueError(
                f"objectives.contrast.queue = {self.queue}: smaller than {of_step}; choose {keys} or 0, or a smaller batch"
            )
        below = self.queue // keys * keys
        raise ValueError(
            f"objectives.contrast.queue = {self.queue}: no multiple of {of_step}; choose {below} or {below + keys}"
        )
