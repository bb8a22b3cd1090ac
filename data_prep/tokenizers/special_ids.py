"""The ids of XLM-R's special tokens, the same in every vocabulary; `<mask>` alone has the last, `Tokenizer.mask_id`."""

from __future__ import annotations

BOS, PAD, EOS, UNK = 0, 1, 2, 3
"""`<s>`, `<pad>`, `</s>` and `<unk>`; ordinary pieces come after them."""
