"""A SentencePiece tokenizer as Hugging Face's: the same pieces, scores, normalisation and ids, and a check that they are.

Knows both tokenizers; nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import AddedToken, XLMRobertaTokenizer

from data_prep.tokenizers.kinds import SPECIALS, Ids, check_kind, first_difference, parse_model, sample_lines
from data_prep.tokenizers.tokenizer import Tokenizer


def hugging_face_tokenizer(tokenizer: Tokenizer, longest: int | None = None) -> XLMRobertaTokenizer:
    """The same tokenizer as Hugging Face's.

    longest: tokens, special ones included, that the model takes; what is longer is cut (if asked for) or warned of there.
    ValueError where the model is of a kind that Hugging Face's tokenizer cannot express.
    """
    check_kind(tokenizer.model, "the tokenizer")
    model = parse_model(tokenizer.model)
    vocabulary = [(piece, 0.0) for piece in SPECIALS]
    vocabulary += [(piece.piece, piece.score) for piece in model.pieces[3:]] + [("<mask>", 0.0)]
    charsmap = model.normalizer_spec.precompiled_charsmap or None
    more: dict[str, Any] = {} if longest is None else {"model_max_length": longest}
    exported = XLMRobertaTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=charsmap, **more)
    assert len(exported) == tokenizer.vocab_size, "a piece was lost on the way to Hugging Face's tokenizer"
    return exported


def save_tokenizer(
    tokenizer: Tokenizer,
    out: Path,
    longest: int | None = None,
    lines: Iterable[str] = (),
    words: Sequence[str] = (),
) -> None:
    """Hugging Face tokenizer files, and the SentencePiece model itself, which stays the reference for ids.

    words: special ones that theirs has beyond it, in the order of their ids.

    Raises:
        ValueError: the two give other ids for one of `lines` or of `sample_lines`; shows it.
    """
    exported = hugging_face_tokenizer(tokenizer, longest)

    def theirs(texts: Sequence[str]) -> list[Ids]:
        ids: list[Ids] = exported(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    compared = [*sample_lines(tokenizer.model), *lines]
    difference = first_difference(compared, tokenizer.encode_batch, theirs)
    if difference is not None:
        raise ValueError(
            f"{out}: not written: Hugging Face's tokenizer would give other ids than the one of the token files; {difference}"
        )
    tokenizer.save(out)
    if words:
        exported.add_tokens([AddedToken(word, special=True, normalized=False) for word in words], special_tokens=True)
        assert exported.convert_tokens_to_ids(words[-1]) == tokenizer.vocab_size + len(words) - 1
    exported.save_pretrained(str(out))
