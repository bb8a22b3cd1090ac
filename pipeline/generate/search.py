"""Beam search and greedy search, by Hugging Face's `generate`: rows of ids in, hypotheses with scores out.

Knows ids; nothing of text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
)

NEVER = -1e8
"""Scores below are of places in the beam that no hypothesis has taken."""
MAX_TOKENS = 200
"""Tokens that are written at most where nobody says otherwise."""


@dataclass(frozen=True)
class Search:
    """beam: hypotheses that are followed at once, 1 is greedy; length_penalty: a score is a sum of log-probabilities divided by
    its tokens to this power; n_best: hypotheses that are kept of a row; max_tokens: of a hypothesis, `</s>` included."""

    beam: int = 5
    length_penalty: float = 1.0
    n_best: int = 1
    max_tokens: int = MAX_TOKENS

    def __post_init__(self) -> None:
        if self.beam < 1:
            raise ValueError(f"--beam {self.beam}: must be 1 (greedy) or more")
        if not 1 <= self.n_best <= self.beam:
            raise ValueError(f"--n-best {self.n_best}: a beam of {self.beam} has 1 to {self.beam}; give a wider --beam")
        if self.max_tokens < 1:
            raise ValueError(f"--max-tokens {self.max_tokens}: must be 1 or more")


@dataclass(frozen=True)
class Found:
    """A hypothesis: ids without what the decoder began with and without `</s>`, and its score."""

    ids: list[int]
    score: float
    ended: bool  # by `</s>`, and not because there was no room for more


@dataclass(frozen=True)
class Words:
    """padding, end: their ids; allowed_V: bool, what may be written, on the model's device."""

    padding: int
    end: int
    allowed_V: Tensor


def search(
    module: Any, rows: Sequence[Sequence[int]], starts: Sequence[int], how: Search, words: Words
) -> list[list[Found]]:
    """The best hypotheses of every row, the best first.

    Args:
        module: an `EncoderDecoderModel`, which has no types of its own for what is asked of it.
        rows: B times what the encoder reads; the rows know nothing of each other, whatever their lengths.
        starts: B times what the decoder begins with.
    """
    device = words.allowed_V.device
    input_BL, mask_BL = padded(rows, words.padding, device)
    allowed = _Allowed(words, greedy=how.beam == 1)
    of_file, module.generation_config = (
        module.generation_config,
        GenerationConfig(),
    )  # which would fill what is not said
    try:
        with torch.inference_mode():
            out = module.generate(
                inputs=input_BL,
                attention_mask=mask_BL,
                generation_config=_config(how, starts, words),
                logits_processor=LogitsProcessorList([allowed]),
            )
    finally:
        module.generation_config = of_file
    written_NL = out.sequences[:, 1:].tolist()  # N = B · n_best
    scores_N = allowed.scores(out.sequences, how.length_penalty) if how.beam == 1 else out.sequences_scores.tolist()
    found = [_found(ids, score, words) for ids, score in zip(written_NL, scores_N, strict=True)]
    by_row = [found[at : at + how.n_best] for at in range(0, len(found), how.n_best)]
    return [[each for each in of_row if each.score > NEVER] for of_row in by_row]


def padded(rows: Sequence[Sequence[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, L) int64: the rows and, right of them, padding; and a mask of the same shape, 1 where there is none."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
    lengths_B1 = torch.tensor([[len(row)] for row in rows])
    return ids.to(device), (torch.arange(longest) < lengths_B1).long().to(device)


def _config(how: Search, starts: Sequence[int], words: Words) -> GenerationConfig:
    return GenerationConfig(
        num_beams=how.beam,
        num_return_sequences=how.n_best,
        length_penalty=how.length_penalty if how.beam > 1 else None,
        max_new_tokens=how.max_tokens,
        do_sample=False,
        decoder_start_token_id=list(starts),
        pad_token_id=words.padding,
        eos_token_id=words.end,
        return_dict_in_generate=True,
        output_scores=how.beam > 1,
    )


def _found(ids: list[int], score: float, words: Words) -> Found:
    ended = words.end in ids
    ids = ids[: ids.index(words.end)] if ended else [i for i in ids if i != words.padding]
    return Found(ids, score, ended)


class _Allowed(LogitsProcessor):
    """Nothing is written but what may be. For greedy search, whose scores Hugging Face does not tell, keeps what it chooses."""

    def __init__(self, words: Words, greedy: bool) -> None:
        self._refused_V, self._end, self._greedy = ~words.allowed_V, words.end, greedy
        self._chosen: list[Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        all_B = scores.logsumexp(dim=-1) if self._greedy else None
        scores.masked_fill_(self._refused_V, -torch.inf)
        if all_B is not None:
            self._chosen.append(scores.max(dim=-1).values - all_B)
        return scores

    def scores(self, sequences: Tensor, length_penalty: float) -> list[float]:
        """Of every row, up to its `</s>`; sequences: (B, L), from what the decoder began with on."""
        is_end_BL = sequences[:, 1:] == self._end
        after_BL = is_end_BL.cumsum(dim=1) > is_end_BL.long()
        lengths_B = (~after_BL).sum(dim=1)
        chosen_BL = torch.stack(self._chosen, dim=1).masked_fill(after_BL, 0.0)
        scores: list[float] = (chosen_BL.sum(dim=1) / lengths_B**length_penalty).tolist()
        return scores
