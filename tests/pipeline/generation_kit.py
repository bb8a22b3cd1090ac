"""Tiny models that write: an encoder with a decoder, its tokenizer with tags of languages, and what it was trained to write."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AddedToken,
    EncoderDecoderModel,
    XLMRobertaConfig,
    XLMRobertaForCausalLM,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

from data_prep.tokenizers.tokenizer import train
from pipeline.settings.added_words import AddedWords
from pipeline.weights.hugging_face_tokenizer import hugging_face_tokenizer
from tests.pipeline.conftest import TEXT

LANGUAGES = ("de", "en")
SENTINELS = 3
POSITIONS = 42
"""Tokens that the model takes, and two."""
LINES = [" ".join(words[at : at + 4]) for words in map(str.split, TEXT) for at in (0, 3)]


def module(
    words: int, positions: int = POSITIONS, seed: int = 3, width: int = 32, spread: float = 0.1, layers: int = 2
) -> EncoderDecoderModel:
    """Random weights."""
    torch.manual_seed(seed)

    def config(**more: bool) -> XLMRobertaConfig:
        return XLMRobertaConfig(
            vocab_size=words,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=positions,
            type_vocab_size=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=spread,
            **more,
        )

    encoder = XLMRobertaModel(config(), add_pooling_layer=False)
    decoder = XLMRobertaForCausalLM(config(is_decoder=True, add_cross_attention=True))
    made = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    made.config.pad_token_id, made.config.decoder_start_token_id = 1, 0
    return made.eval()


def tokenizer_with_tags(languages: tuple[str, ...] = LANGUAGES) -> XLMRobertaTokenizer:
    """One of the tests' text, with sentinels and tags after `<mask>`."""
    made = hugging_face_tokenizer(train(TEXT, 50, 1.0, 4096), POSITIONS - 2)
    names = AddedWords(len(made), SENTINELS, languages).names
    made.add_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    return made


def save(
    folder: Path,
    model: EncoderDecoderModel,
    tokenizer: XLMRobertaTokenizer,
    tag: str | None,
    languages: tuple[str, ...] = LANGUAGES,
) -> Path:
    """As an export has it; tag None: without a record."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    if tag is not None:
        content["xlm_align"] = {"text_to_text": {"tag": tag, "languages": [*languages], "sentinels": SENTINELS}}
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def written(line: str, language: str) -> str:
    """What the trained model writes of a line: the line, in `de` its words in reverse."""
    return " ".join(reversed(line.split())) if language == "de" else line


def teach(model: EncoderDecoderModel, tokenizer: XLMRobertaTokenizer, tag: str, steps: int = 80) -> None:
    """Until it has learned `LINES` by heart."""
    tags = dict(zip(LANGUAGES, tokenizer.convert_tokens_to_ids([f"<2{to}>" for to in LANGUAGES]), strict=True))
    rows = [
        (tokenizer(line)["input_ids"], tokenizer(written(line, to))["input_ids"][1:], tags[to])
        for line in LINES
        for to in LANGUAGES
    ]
    source = [[0, at, *ids[1:]] if tag == "source" else ids for ids, _, at in rows]
    start = [0 if tag == "source" else at for *_, at in rows]
    read_BL, label_BL = _pad(source, 1), _pad([ids for _, ids, _ in rows], -100)
    given_BL = torch.cat([torch.tensor(start)[:, None], label_BL[:, :-1].clamp(min=1)], dim=1)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    for _ in range(steps):
        out = model(input_ids=read_BL, attention_mask=(read_BL != 1).long(), decoder_input_ids=given_BL)
        loss = cross_entropy(out.logits.flatten(0, 1), label_BL.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    assert loss < 0.05, float(loss)


def _pad(rows: list[list[int]], padding: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])
