"""What data_prep is measured against: other ways from lines to ids, each as its users write it. Run by `benchmark`.

`python -m data_prep.benchmark.peers CONTENDER TEXT TOKENIZER_DIR` prints JSON: tokens, seconds (loading a tokenizer and reading
the text not counted).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from data_prep.text.readers import is_blank
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.kinds import MASK, SPECIALS, parse_model
from data_prep.tokenizers.special_ids import UNK
from data_prep.tokenizers.tokenizer import MODEL_NAME

BATCH = 1024
LINES_AT_ONCE = 64 * BATCH

Encode = Callable[[list[str]], list[list[int]]]


def lines_of(text: Path) -> Iterator[list[str]]:
    """The lines of a plain file that are not blank, in lists of bounded length."""
    lines: list[str] = []
    with open(text, "rb") as file:
        for raw in file:
            if not is_blank(raw):
                lines.append(raw.rstrip(b"\n").decode())
            if len(lines) == LINES_AT_ONCE:
                yield lines
                lines = []
    if lines:
        yield lines


def hugging_face_tokenizer(tokenizer_dir: Path) -> Any:
    """The same vocabulary as a `transformers` tokenizer, built by that library from the model's pieces and scores."""
    from transformers import XLMRobertaTokenizer

    model = parse_model((tokenizer_dir / MODEL_NAME).read_bytes())
    pieces = [(piece, 0.0) for piece in SPECIALS] + [(piece.piece, piece.score) for piece in model.pieces[3:]]
    charsmap = model.normalizer_spec.precompiled_charsmap or None
    return XLMRobertaTokenizer(vocab=[*pieces, (MASK, 0.0)], _spm_precompiled_charsmap=charsmap)


def sentencepiece_batches(tokenizer_dir: Path) -> Encode:
    """A bare loop over SentencePiece's batch call; its own ids, nothing kept, nothing written."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_dir / MODEL_NAME))
    return lambda lines: processor.encode(lines, num_threads=1)


def transformers_lines(tokenizer_dir: Path) -> Encode:
    """The released XLM-Align's design: a `transformers` tokenizer called for each line."""
    tokenizer = hugging_face_tokenizer(tokenizer_dir)
    return lambda lines: [tokenizer.encode(line, add_special_tokens=False) for line in lines]


def tokenizers_batches(tokenizer_dir: Path) -> Encode:
    """Megatron-LM's preprocessing with a Hugging Face tokenizer: `encode_batch` of the `tokenizers` library."""
    backend = hugging_face_tokenizer(tokenizer_dir).backend_tokenizer
    return lambda lines: [encoding.ids for encoding in backend.encode_batch(lines, add_special_tokens=False)]


CONTENDERS: dict[str, tuple[Callable[[Path], Encode], bool]] = {
    "sentencepiece": (sentencepiece_batches, False),
    "transformers": (transformers_lines, True),
    "tokenizers": (tokenizers_batches, True),
}
"""Contenders by name: how to make the encoder, and whether lists and writing the ids belong to what is timed."""


def measure(contender: str, text: Path, tokenizer_dir: Path) -> dict[str, float]:
    """Encode a text and give tokens and seconds."""
    make, writes = CONTENDERS[contender]
    encode = make(tokenizer_dir)
    tokens, seconds = 0, 0.0
    with tempfile.TemporaryFile() as file:
        for lines in lines_of(text):
            for start in range(0, len(lines), BATCH):
                batch = lines[start : start + BATCH]
                began = time.perf_counter()
                ids = encode(batch)
                if writes:
                    for line_ids in ids:
                        file.write(np.array(line_ids, dtype=np.int32).tobytes())
                seconds += time.perf_counter() - began
                tokens += sum(map(len, ids))
    return {"tokens": tokens, "seconds": seconds}


def stored_ids(data_dir: Path) -> Iterator[list[int]]:
    """Every sentence of a data folder, in order."""
    for shard in Manifest.load(data_dir).shards:
        tokens = TokenFile(shard.stem)
        yield from (tokens.read_sequence(i).tolist() for i in range(len(tokens)))


def differing_lines(contender: str, text: Path, tokenizer_dir: Path, data_dir: Path) -> tuple[int, int]:
    """How many lines a contender gives other ids for than a data folder of the text holds, and how many lines there are.

    Lines of which a tokenizer makes nothing are in no token file.
    """
    encode, expected = CONTENDERS[contender][0](tokenizer_dir), stored_ids(data_dir)
    differ, count = 0, 0
    for lines in lines_of(text):
        for ids in encode(lines):
            if contender == "sentencepiece":
                ids = [piece_id + 1 if piece_id else UNK for piece_id in ids]
            if ids:
                count += 1
                differ += ids != next(expected, None)
    return differ + sum(1 for _ in expected), count


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
