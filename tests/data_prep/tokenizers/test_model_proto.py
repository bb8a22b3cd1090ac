"""The message of a SentencePiece model is SentencePiece's own, as far as it goes."""

from __future__ import annotations

from typing import Any

import pytest

from data_prep.tokenizers.model_proto import ModelProto
from data_prep.tokenizers.tokenizer import Tokenizer


@pytest.fixture
def theirs() -> Any:
    """SentencePiece's message."""
    try:
        from sentencepiece import sentencepiece_model_pb2
    except Exception as error:  # protobuf has one of its own, or none
        pytest.skip(f"SentencePiece's own message needs another protobuf: {error}")
    return sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]


def fields(descriptor: Any, names: set[str] | None = None) -> dict[str, Any]:
    """All of its fields, and of messages within it; names: of which alone."""
    found: dict[str, Any] = {}
    for field in descriptor.fields:
        path = f"{descriptor.full_name}.{field.name}"
        if names is not None and path not in names:
            continue
        values = field.enum_type and {value.name: value.number for value in field.enum_type.values}
        found[path] = (field.number, field.type, field.is_repeated, field.default_value, values)
        if field.message_type is not None:
            found |= fields(field.message_type, names)
    return found


def test_every_field_has_its_number_kind_and_default(theirs: Any) -> None:
    ours = fields(ModelProto.DESCRIPTOR)
    assert len(ours) == 20
    assert ours == fields(theirs.DESCRIPTOR, set(ours))


def test_a_model_is_read_and_written_with_all_that_it_has(theirs: Any, tokenizer: Tokenizer) -> None:
    read, expected = ModelProto.FromString(tokenizer.model), theirs.FromString(tokenizer.model)
    assert expected.trainer_spec.HasField("character_coverage"), "which is no field of ours"
    assert theirs.FromString(read.SerializeToString()) == expected
    assert [(each.piece, each.score, each.type) for each in read.pieces] == [
        (each.piece, each.score, each.type) for each in expected.pieces
    ]


def test_what_is_written_has_the_bytes_that_sentencepiece_would_write(theirs: Any) -> None:
    written = []
    for kind in (ModelProto, theirs):
        made = kind()
        made.pieces.add(piece="<unk>", score=0.0, type=made.SentencePiece.Type.UNKNOWN)
        made.pieces.add(piece="▁a", score=-1.5)
        made.trainer_spec.model_type, made.trainer_spec.pad_id = made.trainer_spec.ModelType.UNIGRAM, -1
        made.normalizer_spec.name, made.normalizer_spec.precompiled_charsmap = "identity", b"\0\1"
        made.normalizer_spec.escape_whitespaces = True
        written.append(made.SerializeToString(deterministic=True))
    assert written[0] == written[1]
