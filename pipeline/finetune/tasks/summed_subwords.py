"""A head for tagging that sees the sum of a word's subwords, as xTune's has it, where the usual one sees the first subword.

Its weights have the names and shapes of Hugging Face's head, which loads them, but then tags by first subwords.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DataCollatorForTokenClassification, XLMRobertaConfig, XLMRobertaForTokenClassification
from transformers.modeling_outputs import TokenClassifierOutput

STARTS = "word_starts"
"""Of every token of a row, the place of its word's first subword; special tokens and padding are words of their own."""


def sum_words(hidden_BLD: Tensor, starts_BL: Tensor) -> Tensor:
    """At every word's first place the sum of its subwords' states, elsewhere zeros."""
    places_BLD = starts_BL.unsqueeze(-1).expand_as(hidden_BLD)
    return torch.zeros_like(hidden_BLD).scatter_add(1, places_BLD, hidden_BLD)


class SummedSubwords(XLMRobertaForTokenClassification):
    """See the module."""

    @classmethod
    def from_config(cls, config: XLMRobertaConfig) -> SummedSubwords:
        """An untrained one."""
        return cast(SummedSubwords, cls._from_config(config))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        word_starts: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> TokenClassifierOutput:
        """Logits [B, L, labels], which mean something at words' first subwords, where the labels are."""
        assert word_starts is not None, "the task gives them"
        hidden_BLD = self.roberta(input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds)[0]
        logits = self.classifier(self.dropout(sum_words(hidden_BLD, word_starts)))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return TokenClassifierOutput(loss=loss, logits=logits)


def collator_with_starts(usual: DataCollatorForTokenClassification) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """What pads rows that have `STARTS`."""

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        starts = [row[STARTS] for row in rows]
        batch: dict[str, Any] = usual([{name: row[name] for name in row if name != STARTS} for row in rows])
        length = batch["input_ids"].shape[1]
        batch[STARTS] = torch.tensor([[*places, *range(len(places), length)] for places in starts])
        return batch

    return collate
