"""Hugging Face folders of tiny random encoders of many architectures, each with a tiny fast tokenizer of its usual kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, PreTrainedTokenizerFast

from tests.pipeline.conftest import TEXT

POSITIONS = 64
UNKNOWN = "[UNK]"
NAMES = {"unk": UNKNOWN, "cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
SPECIALS = ["[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]"]
LAYERS = 3


def word_piece() -> tokenizers.Tokenizer:
    """BERT's: lower case, accents stripped."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIALS, show_progress=False)
    )
    return _with_template(made)


def byte_level() -> tokenizers.Tokenizer:
    """RoBERTa's and ModernBERT's: bytes, a word's space before it, none before the first."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([f" {line}" for line in TEXT], trainer)
    return _with_template(made, types=False)


def metaspace() -> tokenizers.Tokenizer:
    """SentencePiece's unigram, mDeBERTa's and T5's: every word with a space before it."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=70, special_tokens=SPECIALS, unk_token=UNKNOWN, show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    return _with_template(made)


def gemma() -> tokenizers.Tokenizer:
    """mmBERT's: SentencePiece's BPE with bytes for what it does not know, and no space before a text."""
    made = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    bytes_256 = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=360, special_tokens=[*SPECIALS, *bytes_256], show_progress=False)
    made.train_from_iterator([f" {line}" for line in TEXT], trainer)
    return _with_template(made, types=False)


def _with_template(made: tokenizers.Tokenizer, types: bool = True) -> tokenizers.Tokenizer:
    second = ":1" if types else ""
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A [SEP] $B{second} [SEP]{second}",
        special_tokens=[(name, SPECIALS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return made


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
T5 = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": LAYERS,
    "num_heads": 2,
    "initializer_factor": 1.0,
    "pad_token_id": 0,
}
DISENTANGLED = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
    "type_vocab_size": 0,
}
IN_SPECIALS = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
ARCHITECTURES: dict[str, tuple[str, Callable[[], tokenizers.Tokenizer], dict[str, Any]]] = {
    "BERT": ("bert", word_piece, {}),
    "DistilBERT": (
        "distilbert",
        word_piece,
        {"dim": 16, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 32, "initializer_range": 0.3},
    ),
    "ELECTRA": ("electra", word_piece, {"embedding_size": 8}),
    "RoBERTa": ("roberta", byte_level, {}),
    "ModernBERT": ("modernbert", byte_level, {"local_attention": 8, "global_attn_every_n_layers": 2, **IN_SPECIALS}),
    "mmBERT": ("modernbert", gemma, {"local_attention": 8, "global_attn_every_n_layers": 2, **IN_SPECIALS}),
    "EuroBERT": ("eurobert", byte_level, {"num_key_value_heads": 1, **IN_SPECIALS}),
    "mDeBERTa": ("deberta-v2", metaspace, DISENTANGLED),
    "XLM-R XL": ("xlm-roberta-xl", metaspace, {}),
    "MPNet": ("mpnet", word_piece, {}),
    "ALBERT": ("albert", metaspace, {"embedding_size": 8}),
    "XLM": (
        "xlm",
        word_piece,
        {"emb_dim": 16, "n_layers": LAYERS, "n_heads": 2, "embed_init_std": 0.3, "init_std": 0.3},
    ),
    "T5": ("t5", metaspace, T5),
}
"""By name: model_type, tokenizer, and the settings of the config beyond `SIZES`."""


def write_folder(name: str, out: Path) -> Path:
    """A folder of that architecture: config.json, weights and tokenizer."""
    model_type, make, settings = ARCHITECTURES[name]
    made = make()
    sizes = {"pad_token_id": 0} if model_type in ("distilbert", "xlm", "t5") else SIZES
    positions = {} if model_type == "t5" else {"max_position_embeddings": POSITIONS}
    config = transformers.AutoConfig.for_model(
        model_type, **{"vocab_size": made.get_vocab_size(), **positions, **sizes, **settings}
    )
    torch.manual_seed(7)
    if config.is_encoder_decoder:
        transformers.AutoModelForSeq2SeqLM.from_config(config).save_pretrained(out)
    else:
        AutoModel.from_config(config).save_pretrained(out)
    write_tokenizer(made, out, model_type)
    return out


def write_tokenizer(made: tokenizers.Tokenizer, out: Path, model_type: str = "bert") -> None:
    """Hugging Face's files of a tokenizer."""
    names = {f"{short}_token": token for short, token in NAMES.items()}
    inputs = ["input_ids", "attention_mask"]
    if model_type in ("bert", "electra", "deberta-v2", "mpnet", "albert"):
        inputs.insert(1, "token_type_ids")
    PreTrainedTokenizerFast(tokenizer_object=made, model_input_names=inputs, **names).save_pretrained(out)


def reference_model(folder: Path) -> Any:
    """The model as Transformers itself loads it."""
    kind = transformers.T5EncoderModel if '"t5"' in (folder / "config.json").read_text(encoding="utf-8") else AutoModel
    return kind.from_pretrained(folder, dtype=torch.float32).eval()
