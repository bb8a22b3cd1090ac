"""SentencePiece in XLM-R's id layout: train, import, save, load, and encode text, many lines or single words.

Knows text and ids; nothing of files of text (`readers`) or of shards. Ids here never include
`<s>`, `</s>`, `<pad>` or `<mask>`.

SentencePiece has `<unk>`=0, `<s>`=1, `</s>`=2; XLM-R has `<s>`=0, `<pad>`=1, `</s>`=2, `<unk>`=3, every other piece
moved up by one, and `<mask>` last.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from data_prep.files import canonical_json, read_json, remove_abandoned, sha256_of_file, write_durably
from data_prep.tokenizers.kinds import check_kind, content_key, first_difference, sample_lines
from data_prep.tokenizers.special_ids import UNK
from data_prep.tokenizers.template import XLM_R
from data_prep.tokenizers.tokenizer_json import JSON_NAME, encode_lines, sentencepiece_model, unigram_tokenizer

MODEL_NAME = "sentencepiece.bpe.model"
META_NAME = "tokenizer_meta.json"
SCHEMA = 1
SPACE_PIECE = "▁"
BATCH = 8192
_SEPARATOR = np.int32(-1).tobytes()
MEND = "make it with `python -m data_prep tokenizer train` or `tokenizer import`"
GET_MODEL = "`hf download FacebookAI/xlm-roberta-base --local-dir xlm-roberta-base` gets one"


class Tokenizer:
    """A SentencePiece model behind XLM-R's ids. Picklable.

    Raises:
        ValueError: the bytes are no SentencePiece model, or its first three pieces are not <unk>, <s>, </s>.
    """

    sha256: str
    """Hash of the model's bytes, the tokenizer's identity everywhere."""
    vocab_size: int
    """SentencePiece pieces + 2."""
    mask_id: int
    """`vocab_size` - 1."""
    template = XLM_R
    """What stands around the ids."""

    def __init__(self, model: bytes, name: str = MODEL_NAME) -> None:
        self.model = model
        self._folder: Path | None = None
        self.sha256 = hashlib.sha256(model).hexdigest()
        try:
            self._processor = _processor_of(model)
        except RuntimeError:
            raise ValueError(
                f"{name}: not a SentencePiece model; give XLM-R's sentencepiece.bpe.model ({GET_MODEL})"
            ) from None
        pieces = self._processor.get_piece_size()
        first = [self._processor.id_to_piece(i) for i in range(min(3, pieces))]
        specials = pieces > 3 and self._processor.is_unknown(0) and all(map(self._processor.is_control, (1, 2)))
        if first != ["<unk>", "<s>", "</s>"] or not specials:
            raise ValueError(
                f"{name}: pieces 0-2 are {first}, XLM-R's layout needs <unk>, <s>, </s> as unknown and control pieces; "
                "train with unk_id=0, bos_id=1, eos_id=2"
            )
        self.vocab_size = pieces + 2
        self.mask_id = pieces + 1
        self._encode_buffers = _buffer_encoder(self._processor)
        space = self._processor.piece_to_id(SPACE_PIECE)
        # a vocabulary without the lone space piece has nothing to drop in encode_words: −1 is never an id
        self._space_id = space + 1 if space else -1

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read a TOKENIZER_DIR, or the tokenizer of a Hugging Face folder: its SentencePiece file, else its tokenizer.json.

        Raises:
            ValueError: the folder is neither, or the model is not the one recorded.
        """
        folder = Path(folder)
        path = folder / MODEL_NAME
        if (folder / META_NAME).exists():
            _read_meta(folder)
            return cls(path.read_bytes(), str(path))
        return read_tokenizer(_tokenizer_file(folder))

    def save(self, folder: Path) -> None:
        """Write the model and then its description; a folder that holds the same tokenizer is left as it is.

        Raises:
            ValueError: the folder holds another tokenizer.
        """
        path = folder / MODEL_NAME
        for name in (MODEL_NAME, META_NAME):
            remove_abandoned(folder / name)
        if path.exists() and path.read_bytes() != self.model:
            raise ValueError(f"{folder}: holds another tokenizer already; give another folder or delete it")
        if not path.exists():
            write_durably(path, self.model)
        meta = {
            "schema": SCHEMA,
            "sha256": self.sha256,
            "sentencepiece": sentencepiece.__version__,
            "vocab_size": self.vocab_size,
            "mask_id": self.mask_id,
        }
        if not (folder / META_NAME).exists():
            write_durably(folder / META_NAME, canonical_json(meta))

    def identity(self) -> dict[str, str]:
        """Hashes of the model's bytes and of what decides its ids, to be kept with what was made with it."""
        return {"sha256": self.sha256, "content_sha256": content_key(self.model)}

    def gives_ids_of(self, identity: Mapping[str, str]) -> bool:
        """Whether it gives the ids of the tokenizer with that `identity`, though their files may differ in what matters not."""
        return identity.get("sha256") == self.sha256 or identity.get("content_sha256") == content_key(self.model)

    def kept_in(self, folder: Path) -> Tokenizer:
        """The same tokenizer, which is pickled as this folder's name, to be loaded from there.

        What a new process is sent must be small: one that dies before it has taken a large message leaves its parent
        waiting for ever (in `multiprocessing` the parent itself keeps the pipe open that it writes to).
        """
        other = object.__new__(Tokenizer)
        other.__dict__ = self.__dict__ | {"_folder": folder}
        return other

    def kept(self) -> tuple[Path, str]:
        """Where `load_same` finds a tokenizer of `kept_in`, and its hash."""
        assert self._folder is not None
        return self._folder, self.sha256

    def __reduce__(self) -> tuple[Callable[..., Tokenizer], tuple[Any, ...]]:
        return (Tokenizer, (self.model,)) if self._folder is None else (load_same, (self._folder, self.sha256))

    def encode_flat(self, lines: Sequence[str | bytes]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """All ids of all lines end to end, int32 (T,), and each line's token count, int64 (lines,).

        Lines may be UTF-8 bytes, which saves making text of them; their ids are the same.
        """
        pieces = [piece for start in range(0, len(lines), BATCH) for piece in self._buffers_of(lines, start)]
        # joined by an id that no piece has: asking each buffer for its size takes longer than finding that id again
        joined = np.frombuffer(bytearray(_SEPARATOR).join([*pieces, b""]), dtype=np.int32)
        is_id = joined >= 0
        ends = np.flatnonzero(~is_id)
        ids_T = joined[is_id]
        ids_T += 1
        ids_T[ids_T == 1] = UNK
        return ids_T, np.diff(ends, prepend=-1) - 1

    def _buffers_of(self, lines: Sequence[str | bytes], start: int) -> Sequence[Any]:
        return self._encode_buffers(list(lines[start : start + BATCH]))

    def encode(self, text: str) -> list[int]:
        """Ids of one line, no specials."""
        return _moved_up(self._processor.encode(text))

    def encode_batch(self, lines: Sequence[str]) -> list[list[int]]:
        """Ids of many lines, each as `encode` gives them."""
        return [_moved_up(piece_ids) for piece_ids in self._processor.encode(list(lines), num_threads=1)]

    def spans_of_pieces(self, lines: Sequence[bytes]) -> list[list[tuple[int, int]]]:
        """First and last byte + 1 of each of `encode_flat`'s ids in its line; white space belongs to the piece behind it."""
        found = self._processor.encode(list(lines), num_threads=1, return_type="offset_mapping")
        return [of_line["offsets"] for of_line in found]

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Encode each word by itself, as word aligners do.

        A lone space piece before other pieces is dropped (a word of a script that puts no spaces), and a word that
        normalises to nothing becomes `<unk>`, so that every word has a piece.

        Returns:
            The ids of all words end to end, and for each id the index of its word.
        """
        ids: list[int] = []
        word_of_id: list[int] = []
        for index, word in enumerate(words):
            word_ids = self.encode(word) or [UNK]
            if len(word_ids) > 1 and word_ids[0] == self._space_id:
                word_ids = word_ids[1:]
            ids += word_ids
            word_of_id += [index] * len(word_ids)
        return ids, word_of_id

    def piece(self, token_id: int) -> str:
        """The piece of text behind an id from 3 on, `▁` for a space."""
        assert UNK <= token_id < self.mask_id, "an id of SentencePiece's"
        return str(self._processor.id_to_piece(0 if token_id == UNK else token_id - 1))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; `<s>`, `<pad>`, `</s>` and `<mask>` are skipped.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        piece_ids = []
        for token_id in map(int, ids):
            if not 0 <= token_id < self.vocab_size:
                raise ValueError(f"id {token_id}: outside the vocabulary of {self.vocab_size}; use its own ids")
            if token_id >= UNK and token_id != self.mask_id:
                piece_ids.append(0 if token_id == UNK else token_id - 1)
        return str(self._processor.decode(piece_ids)) if piece_ids else ""


_one_at_a_time = threading.Lock()


def _processor_of(model: bytes) -> Any:
    """SentencePiece's processor, which is never changed; the same one for the same bytes as last time."""
    with _one_at_a_time:
        return _made(model)


@lru_cache(maxsize=1)
def _made(model: bytes) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def prepare(path: Path) -> None:
    """Begin to load a SentencePiece model in a thread, where there is one: XLM-R's takes a second, which the import of
    PyTorch need not wait for. Whoever makes a `Tokenizer` of it waits for the rest; what is wrong with it is told there."""

    def load() -> None:
        with contextlib.suppress(OSError, RuntimeError):
            _processor_of(path.read_bytes())

    if path.is_file():
        threading.Thread(target=load, name="tokenizer", daemon=True).start()


def load_same(folder: Path, sha256: str) -> Tokenizer:
    tokenizer = Tokenizer.load(folder)
    if tokenizer.sha256 != sha256:
        raise ValueError(f"{folder}: changed while it was used; run the command again")
    return tokenizer.kept_in(folder)


def read_identity(folder: Path) -> tuple[str, int]:
    """A TOKENIZER_DIR's sha256 and vocabulary size, without loading the model.

    Raises:
        ValueError: the folder or one of its two files is missing, or the model is not the one recorded.
    """
    return _read_meta(Path(folder))


def _read_meta(folder: Path) -> tuple[str, int]:
    meta = read_json(folder / META_NAME, MEND)
    path = folder / MODEL_NAME
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {MEND}")
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA or not isinstance(meta.get("vocab_size"), int):
        raise ValueError(f"{folder / META_NAME}: damaged or of another schema than {SCHEMA}; {MEND}")
    sha256 = sha256_of_file(path)
    if meta.get("sha256") != sha256:
        raise ValueError(f"{path}: sha256 {sha256}, {META_NAME} says {meta.get('sha256')}; {MEND}")
    return sha256, meta["vocab_size"]


def _tokenizer_file(folder: Path) -> Path:
    """The file of a Hugging Face folder that has its tokenizer; ValueError where there is none."""
    if folder.is_file():
        raise ValueError(f"{folder}: is a file; give the folder that it lies in")
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; {MEND}, or give a Hugging Face folder of XLM-R ({GET_MODEL})")
    for name in (MODEL_NAME, JSON_NAME):
        if (folder / name).is_file():
            return folder / name
    inside = f"; did you mean {folder / 'tokenizer'}?" if (folder / "tokenizer").is_dir() else f"; {MEND}"
    raise ValueError(f"{folder}: holds neither {MODEL_NAME} nor {JSON_NAME}{inside}")


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file: a SentencePiece model, or a tokenizer.json, of which one is made; or of a folder with either.

    Raises:
        ValueError: it cannot be read, or is another kind of tokenizer than XLM-R's.
    """
    if path.is_dir():
        return Tokenizer.load(path)
    if path.suffix == ".json":
        return Tokenizer(sentencepiece_model(path), str(path))
    try:
        return Tokenizer(path.read_bytes(), str(path))
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read ({error.strerror}); give XLM-R's {MODEL_NAME} ({GET_MODEL})"
        ) from None


def import_tokenizer(path: Path) -> Tokenizer:
    """`read_tokenizer` of a tokenizer that is to be trained with: one that can be exported to Hugging Face.

    Raises:
        ValueError: Hugging Face's XLM-R tokenizer cannot give its ids; says why, with an example.
    """
    tokenizer = read_tokenizer(path)
    check_kind(tokenizer.model, str(path))
    lines = list(sample_lines(tokenizer.model))
    theirs = unigram_tokenizer(tokenizer.model)
    difference = first_difference(lines, tokenizer.encode_batch, lambda texts: encode_lines(theirs, list(texts)))
    if difference is not None:
        raise ValueError(
            f"{path}: Hugging Face's XLM-R tokenizer gives other ids than this model, so that what is trained on it could not "
            f"be exported; {difference}; train one with `python -m data_prep tokenizer train`"
        )
    return tokenizer


def _buffer_encoder(processor: Any) -> Callable[[list[str | bytes]], Sequence[Any]]:
    """SentencePiece's batch call on this thread, an int32 buffer of piece ids a line.

    The public call makes a numpy array of each line's buffer, which costs 6 % of the time; the call below it is used
    where the installed version has it and it gives the same.
    """

    def public(lines: list[str | bytes]) -> Sequence[Any]:
        arrays: Sequence[Any] = processor.encode(lines, num_threads=1, return_type="numpy")
        return arrays

    def lean(lines: list[str | bytes]) -> Sequence[Any]:
        buffers: Sequence[Any] = inner(lines, 1, None, False, -1, 0.1, False, False, False)
        return buffers

    try:
        inner = processor._processor._EncodeAsBufferBatch
        same = [bytes(buffer) for buffer in lean(["a b", b"c"])] == [bytes(buffer) for buffer in public(["a b", b"c"])]
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return public
    return lean if same else public


def _moved_up(piece_ids: list[int]) -> list[int]:
    """XLM-R's ids of SentencePiece's."""
    return [piece_id + 1 if piece_id else UNK for piece_id in piece_ids]


def train(
    lines: Iterable[str], vocab_size: int, character_coverage: float, max_line_bytes: int, is_quiet: bool = True
) -> Tokenizer:
    """Train a SentencePiece unigram model in XLM-R's layout; the same lines give the same bytes.

    One thread and no sampling make it deterministic. Lines must be at most `max_line_bytes` long in UTF-8:
    SentencePiece leaves out longer ones without a word.

    Args:
        vocab_size: SentencePiece pieces; the model's vocabulary is two larger.
        character_coverage: share of the text's characters that get a piece of their own, the rest is `<unk>`.
        is_quiet: SentencePiece tells nothing of its progress on standard error.

    Raises:
        ValueError: no text, or a vocabulary too large or too small for it; names the bound.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            max_sentence_length=max_line_bytes,
            normalization_rule_name="nmt_nfkc",
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=-1,
            num_threads=1,
            shuffle_input_sentence=False,
            minloglevel=2 if is_quiet else 0,
        )
    except RuntimeError as error:
        raise ValueError(_training_error(str(error), vocab_size)) from None
    return Tokenizer(model.getvalue())


def _training_error(message: str, vocab_size: int) -> str:
    too_high = re.search(r"value <= (\d+)", message)
    if too_high:
        return f"--vocab-size {vocab_size}: too large for this text; give at most {too_high[1]}, or more text"
    too_low = re.search(r"(\d+) vs (\d+)", message)
    if too_low:
        return (
            f"--vocab-size {vocab_size}: too small, this text's characters alone need {too_low[2]}; give more or "
            "lower --character-coverage"
        )
    return f"SentencePiece cannot train on this text: {' '.join(message.split())}; give more text"
