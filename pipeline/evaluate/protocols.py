"""Sentence retrieval as it is published: which layer, pooling, direction and projection each name stands for.

The protocols differ, and so do their figures for one model; each is from the evaluator that is named with it. Similarity is
cosine in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.evaluate.retrieval import Matches, Pooling, Score, SentencePooler, match_pairs, share_found
from pipeline.evaluate.xtreme_files import TATOEBA, prediction_files
from pipeline.texts.sentence_files import PIVOTS, Sentences
from pipeline.weights.loading import LoadedModel
from pipeline.weights.sentence_projection import SentenceProjection


@dataclass(frozen=True)
class Protocol:
    """One published way to retrieve."""

    source: str
    """Whose it is, for people."""
    pooling: Pooling
    layer_of: Mapping[int, int] = field(default_factory=dict)
    """By the model's layers the layer that is taken, as Hugging Face counts (0: embeddings)."""
    last_layer: bool = False
    projected: bool = False
    """Pooled, and its layer chosen, as the model's sentence projection was trained."""
    both_directions: bool = False
    """Reported apart; otherwise queries are of the pivot, English."""


PROTOCOLS: dict[str, Protocol] = {
    # run_tatoeba.sh's 7 and 13 count from 0 without the embeddings.
    "xtreme": Protocol("XTREME's Tatoeba and BUCC", "mean", {12: 8, 24: 14}),
    # The layer that gives the Tatoeba figures of InfoXLM's paper for its base model; none is known for others.
    "infoxlm": Protocol("InfoXLM's Tatoeba", "mean", {12: 7}, both_directions=True),
    "cls": Protocol("xTune's evaluator, `cls`", "first", last_layer=True),
    "projected": Protocol("xTune's evaluator, `cxlm`", "first", projected=True),
}
NAMES = ", ".join(PROTOCOLS)


@dataclass(frozen=True)
class AppliedProtocol:
    """A protocol, for one model."""

    name: str
    layer: int
    pooling: Pooling
    projection: SentenceProjection | None
    both_directions: bool

    @property
    def vectors(self) -> str:
        """What a sentence's vector is, for people."""
        pooled = "mean over all tokens" if self.pooling == "mean" else "first token"
        return f"layer {self.layer}, {pooled}{'' if self.projection is None else ', projected'}"

    @property
    def words(self) -> str:
        """The same, and which direction is the protocol's figure."""
        return f"{self.vectors}; {'both directions' if self.both_directions else 'queries of the pivot'}"


def check_name(name: str | None, layer: int | None) -> None:
    """ValueError where there is no such protocol, or a layer is given for none."""
    if name is None and layer is not None:
        raise ValueError(f"--layer {layer}: is of --protocol; give one of {NAMES}, or see all layers without either")
    if name is not None and name not in PROTOCOLS:
        raise ValueError(f"--protocol {name!r}: choose one of {NAMES}")


def choose(name: str, layer: int | None, loaded: LoadedModel) -> AppliedProtocol:
    """What a protocol means for a model.

    layer: instead of the protocol's own.

    Raises:
        ValueError: the protocol says nothing of models of this depth, the model has no such layer, or nothing that the
            protocol needs.
    """
    protocol, layers = PROTOCOLS[name], loaded.encoder.config.layers
    projection, pooling = None, protocol.pooling
    if protocol.projected:
        projection = loaded.projection
        if projection is None:
            raise ValueError(
                f"--protocol {name}: the model has no sentence projection; give one that was trained with sentence contrast "
                "(an export holds sentence_projection.safetensors), InfoXLM's model.pt, or another protocol"
            )
        pooling = projection.takes.pooling
    if pooling == "first" and not loaded.tokenizer.template.alone.special[0]:
        raise ValueError(f"--protocol {name}: the model has no token before a sentence; give xtreme or infoxlm")
    if layer is None:
        own = layers if protocol.last_layer else protocol.layer_of.get(layers)
        layer = own if projection is None else projection.takes.layer
    if layer is None:
        known = " and ".join(map(str, protocol.layer_of))
        raise ValueError(
            f"--protocol {name}: is published for models of {known} layers, this one has {layers}; give --layer"
        )
    if layer > layers:
        raise ValueError(f"--layer {layer}: the model has {layers} layers; give one of 0 to {layers}")
    return AppliedProtocol(name, layer, pooling, projection, protocol.both_directions)


@dataclass
class ProtocolScore:
    """Accuracy at 1 of one pair by a protocol."""

    protocol: str
    layer: int
    score: Score
    languages: str
    pivot: str
    """The language whose sentences are the queries of `from_pivot`: English, or the first one."""
    sentences: int
    from_pivot: float
    to_pivot: float
    cut: int
    """Sentences longer than the model's positions, cut there."""

    def as_json(self) -> dict[str, Any]:
        return {"kind": "retrieval_protocol", **asdict(self)}


def pivot_side(pair: Sentences) -> int:
    """Which side of a pair is English; 0 where none is."""
    return 1 if pair.languages[1] in PIVOTS and pair.languages[0] not in PIVOTS else 0


def tatoeba_files(folder: Path, pairs: Sequence[Sentences]) -> list[Path]:
    """Where each pair's predictions lie in XTREME's layout; ValueError where two pairs would have one file."""
    return prediction_files(folder, TATOEBA, [pair.languages[1 - pivot_side(pair)] for pair in pairs])


def found_by_pivot(matches: Matches) -> Tensor:
    """The sentence of the other language that each of the pivot's finds, int64 [S], of one layer."""
    (both,) = matches.by_layer
    return both[pivot_side(matches.pair)]


def evaluate_protocol(
    pairs: Sequence[Sentences],
    loaded: LoadedModel,
    chosen: AppliedProtocol,
    score: Score = "cosine",
    progress: Callable[[Sequence[Sentences]], Iterable[Sentences]] = iter,
) -> Iterator[tuple[ProtocolScore, Matches]]:
    """Every pair's accuracy in both directions, and what its sentences have found."""
    for matches in match_pairs(progress(pairs), pooler_of(loaded, chosen), score):
        side = pivot_side(matches.pair)
        (both,) = matches.by_layer
        yield (
            ProtocolScore(
                chosen.name,
                chosen.layer,
                score,
                matches.pair.name,
                matches.pair.languages[side],
                matches.sentences,
                share_found(both[side]),
                share_found(both[1 - side]),
                matches.cut,
            ),
            matches,
        )


def pooler_of(loaded: LoadedModel, chosen: AppliedProtocol) -> SentencePooler:
    """Gives the protocol's vectors, as its only layer."""
    return SentencePooler(
        loaded.tokenizer,
        lambda packed: [loaded.encoder(packed, chosen.layer)],
        loaded.encoder.config.longest,
        pooling=chosen.pooling,
        projection_DD=None if chosen.projection is None else chosen.projection.weight_DD,
    )
