"""Hugging Face's `tokenizer.json` of an XLM-R-shaped tokenizer, and the SentencePiece model that it came from.

Models saved by Transformers 5 have this file alone. What it holds is made a SentencePiece model again, and that one is
tried against it; nothing here runs a Hugging Face model.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sentencepiece

from data_prep.tokenizers.kinds import MASK, SPECIALS, Ids, first_difference, parse_model, sample_lines
from data_prep.tokenizers.model_proto import ModelProto

if TYPE_CHECKING:  # takes a while, and only folders without a SentencePiece model need it
    import tokenizers

JSON_NAME = "tokenizer.json"
MEND = "give the model's sentencepiece.bpe.model instead"
_SPACE = "▁"
_UNK = SPECIALS.index("<unk>")


def sentencepiece_model(path: Path) -> bytes:
    """The SentencePiece model of a tokenizer.json; the same file gives the same bytes.

    Raises:
        ValueError: the file is damaged, another kind of tokenizer than XLM-R's, or gives other ids than the model made of it.
    """
    content = read_tokenizer_json(path)
    model = _made_of(content, path)
    _check_ids(model, path)
    return model


def read_tokenizer_json(path: Path) -> dict[str, Any]:
    """The file's content; ValueError where it is no JSON object with a model."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not valid JSON"
        raise ValueError(f"{path}: cannot be read ({reason}); {MEND}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError(f"{path}: holds no tokenizer; {MEND}")
    return content


def unigram_tokenizer(model: bytes) -> tokenizers.Tokenizer:
    """What Hugging Face's XLM-R tokenizer makes of a SentencePiece model: ids without special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    proto = parse_model(model)
    vocabulary = [(piece, 0.0) for piece in SPECIALS]
    vocabulary += [(piece.piece, piece.score) for piece in proto.pieces[3:]] + [(MASK, 0.0)]
    made = Tokenizer(models.Unigram(vocabulary, _UNK, False))
    if proto.normalizer_spec.precompiled_charsmap:
        made.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    split = pre_tokenizers.Metaspace(_SPACE, "always")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split])
    return made


def encode_lines(made: tokenizers.Tokenizer, lines: list[str]) -> list[Ids]:
    """Ids of lines without special tokens."""
    return [list(encoded.ids) for encoded in made.encode_batch(lines, add_special_tokens=False)]


def _made_of(content: dict[str, Any], path: Path) -> bytes:
    unigram = content["model"]
    vocabulary = _vocabulary(content, path)
    charsmap = _charsmap(content.get("normalizer"), path)
    _check_spaces(content.get("pre_tokenizer"), path)
    if unigram.get("unk_id") != _UNK:
        raise ValueError(f"{path}: unk_id is {unigram.get('unk_id')}, XLM-R's is {_UNK}; {MEND}")

    proto = ModelProto()
    kinds = proto.SentencePiece.Type
    for piece, kind in (("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)):
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in vocabulary:
        proto.pieces.add(piece=piece, score=score)
    trainer = proto.trainer_spec
    trainer.model_type, trainer.vocab_size = trainer.ModelType.UNIGRAM, len(proto.pieces)
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, 1, 2, -1
    normalizer = proto.normalizer_spec
    normalizer.name, normalizer.precompiled_charsmap = "user_defined" if charsmap else "identity", charsmap
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = normalizer.escape_whitespaces = True
    return bytes(proto.SerializeToString(deterministic=True))


def _vocabulary(content: dict[str, Any], path: Path) -> list[tuple[str, float]]:
    """Pieces with scores, without the special ones."""
    unigram = content["model"]
    # Files of old versions do not name the type; only Unigram has scores.
    kind = unigram.get("type", "Unigram" if isinstance(unigram.get("vocab"), list) else "BPE")
    if kind != "Unigram":
        raise ValueError(f"{path}: its model is {kind}, XLM-R's is Unigram; {MEND}")
    if unigram.get("byte_fallback"):
        raise ValueError(f"{path}: has byte_fallback, which XLM-R's tokenizer has not; {MEND}")
    try:
        pieces = [(str(piece), float(score)) for piece, score in unigram["vocab"]]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: its vocab is no list of pieces and scores; {MEND}") from None
    if tuple(piece for piece, _ in pieces[:4]) != SPECIALS:
        raise ValueError(f"{path}: its first pieces are {[p for p, _ in pieces[:4]]}, XLM-R's {list(SPECIALS)}; {MEND}")
    if pieces[-1][0] == MASK:
        pieces.pop()
    elif {"content": MASK, "id": len(pieces)} not in [
        {name: token.get(name) for name in ("content", "id")} for token in content.get("added_tokens") or []
    ]:
        raise ValueError(f"{path}: its last piece is {pieces[-1][0]!r}, XLM-R's {MASK}; {MEND}")
    again = [piece for piece, _ in pieces[4:] if piece in (*SPECIALS, MASK)]
    if again:
        raise ValueError(f"{path}: {again[0]} stands among the ordinary pieces; {MEND}")
    return pieces[4:]


def _charsmap(normalizer: Any, path: Path) -> bytes:
    """The character map; empty where there is none."""
    if normalizer is None:
        return b""
    steps = normalizer.get("normalizers", []) if normalizer.get("type") == "Sequence" else [normalizer]
    maps = [step for step in steps if step.get("type") == "Precompiled"]
    # Runs of spaces become one before the split anyway, so these two change nothing.
    others = {str(step.get("type")) for step in steps if step not in maps} - {"Replace", "Strip"}
    if len(maps) > 1 or others:
        raise ValueError(
            f"{path}: its normalizer has {', '.join(sorted(others)) or 'several maps'}, XLM-R's one character map; {MEND}"
        )
    try:
        return base64.b64decode(maps[0]["precompiled_charsmap"], validate=True) if maps else b""
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: its precompiled_charsmap is damaged; {MEND}") from None


def _check_spaces(pre_tokenizer: Any, path: Path) -> None:
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    kinds = [str(step.get("type")) for step in steps]
    last = steps[-1]
    prefixed = last.get("prepend_scheme", "always" if last.get("add_prefix_space") else "never")
    if set(kinds) - {"WhitespaceSplit", "Metaspace"} or kinds[-1] != "Metaspace" or prefixed == "never":
        told = ", ".join(kinds)
        raise ValueError(f"{path}: its pre_tokenizer is {told}, XLM-R's Metaspace that begins words with ▁; {MEND}")


def _check_ids(model: bytes, path: Path) -> None:
    """ValueError with an example where the file gives other ids than the SentencePiece model made of it."""
    from tokenizers import Tokenizer

    try:
        theirs = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(f"{path}: cannot be loaded ({str(error).splitlines()[0]}); {MEND}") from None
    theirs.no_truncation()
    theirs.no_padding()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    lines = list(sample_lines(model))

    def ours(texts: Any) -> list[Ids]:
        return [[i + 1 if i else _UNK for i in ids] for ids in processor.encode(list(texts), num_threads=1)]

    difference = first_difference(lines, ours, lambda texts: encode_lines(theirs, list(texts)))
    if difference is not None:
        raise ValueError(f"{path}: has other ids than a SentencePiece model of its pieces: {difference}; {MEND}")
