"""Which SentencePiece models Hugging Face's XLM-R tokenizer can express, and whether two tokenizers give the same ids.

XLM-R's tokenizer is a unigram model behind a character map; a model of another kind would be exported as other ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from data_prep.tokenizers.model_proto import ModelProto

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
"""Special tokens in the order of their ids, from 0 on."""
MASK = "<mask>"
SAMPLED_PIECES = 4000
WORDS_A_LINE = 16
# Unicode's white space, at which Hugging Face's tokenizer ends a word. U+0085 is left out: XLM-R's own model keeps it.
WHITE_SPACE = "\t\n\v\f\r\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
SAMPLE_TEXT = (
    "The quick brown fox, aged 3.14 years, didn't jump over 'the' lazy dog -- twice!",
    "  spaces   at both ends and between  ",
    "Weiß die Straße, daß Ärger übrig ist? Œuvre, façade, señor, İstanbul, Łódź, ångström",
    "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "نص حكيم له سر قاطع وذو شأن عظيم؛ پیش از این",
    "עטלף אבק נס דרך מזגן שהתפוצץ כי חם",
    "सभी मनुष्य जन्म से स्वतंत्र हैं। সমস্ত মানুষ স্বাধীন",
    "人人生而自由,在尊严和权利上一律平等。 すべての人間は、生まれながらにして自由 모든 인간은 태어날 때부터 자유로우며",
    "มนุษย์ทั้งหลายเกิดมามีอิสระ የሰው ልጅ ሁሉ ሲወለድ ነጻ",
    "ﬁne ＡＢＣ１２３ ½ ㍿ e\u0301 … “quoted” 😀😀 😀 𝔸 \u200b\ufeff",
)

Ids = list[int]
EncodeLines = Callable[[Sequence[str]], list[Ids]]


@dataclass(frozen=True)
class Difference:
    """Text that two tokenizers encode differently."""

    text: str
    ours: Ids
    theirs: Ids

    def __str__(self) -> str:
        at = next((i for i, (a, b) in enumerate(zip(self.ours, self.theirs, strict=False)) if a != b), None)
        first = min(len(self.ours), len(self.theirs)) if at is None else at
        ours, theirs = (ids[first : first + 6] for ids in (self.ours, self.theirs))
        return f"{self.text!r}: from token {first} on {ours} and {theirs}"


def parse_model(model: bytes) -> Any:
    """The protobuf message of a SentencePiece model."""
    return ModelProto.FromString(model)


def check_kind(model: bytes, name: str) -> None:
    """See that Hugging Face's XLM-R tokenizer can give this model's ids.

    Raises:
        ValueError: it cannot; names what the model has that XLM-R's has not.
    """
    problem = _unfit(parse_model(model))
    if problem is not None:
        raise ValueError(
            f"{name}: {problem}, which XLM-R's tokenizer cannot express, so that a model trained on it could not be exported; "
            "make one with `python -m data_prep tokenizer train`, or give XLM-R's sentencepiece.bpe.model"
        )


def _unfit(proto: Any) -> str | None:
    """What keeps the model from being exported, by its name in SentencePiece."""
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    kinds = trainer.ModelType
    if trainer.model_type != kinds.UNIGRAM:
        return f"its model_type is {kinds.Name(trainer.model_type).lower()}, not unigram"
    if trainer.byte_fallback:
        return "it has byte_fallback: unknown characters become bytes"
    if trainer.treat_whitespace_as_suffix:
        return "it has treat_whitespace_as_suffix: spaces belong to the word before them"
    for flag in ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        if not getattr(normalizer, flag):
            return f"its normaliser has {flag} off"
    piece_kinds = proto.SentencePiece.Type
    for place, piece in enumerate(proto.pieces):
        usual = place < 3 or piece.type == piece_kinds.NORMAL
        if not usual or (place >= 3 and piece.piece in (*SPECIALS, MASK)):
            kind = piece_kinds.Name(piece.type).lower().replace("_", "-")
            return f"piece {place} is {piece.piece!r}, a {kind} piece beside <unk>, <s> and </s>"
    return None


@cache
def content_key(model: bytes) -> str:
    """Hash of all that decides a model's ids, whatever else its file says: equal keys, equal ids."""
    proto = parse_model(model)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    flags = [trainer.model_type, trainer.byte_fallback, trainer.treat_whitespace_as_suffix]
    flags += [normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces, normalizer.escape_whitespaces]
    digest = hashlib.sha256(normalizer.precompiled_charsmap)
    digest.update(repr((flags, [(piece.piece, piece.score, piece.type) for piece in proto.pieces])).encode())
    return digest.hexdigest()


def sample_lines(model: bytes) -> Iterator[str]:
    """Lines in many scripts, with every kind of white space, and of up to `SAMPLED_PIECES` of the model's own pieces."""
    yield from SAMPLE_TEXT
    yield " ".join(f"a{space}b" for space in WHITE_SPACE)
    pieces = [piece.piece.replace("▁", " ").strip() for piece in parse_model(model).pieces[3:]]
    words = pieces[:: -(-len(pieces) // SAMPLED_PIECES) or 1]
    for first in range(0, len(words), WORDS_A_LINE):
        yield " ".join(words[first : first + WORDS_A_LINE])


def first_difference(lines: Sequence[str], ours: EncodeLines, theirs: EncodeLines) -> Difference | None:
    """The first line that the two encode differently, without special tokens."""
    for text, mine, other in zip(lines, ours(lines), theirs(lines), strict=True):
        if mine != other:
            return Difference(text, mine, other)
    return None
