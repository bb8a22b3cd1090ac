"""Agreement of a model with itself equals its definition, written out slowly here."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline.data.packing import pack
from pipeline.evaluate.self_agreement import self_agreement
from pipeline.model.encoder import Encoder
from pipeline.weights.loading import load

SOURCE = ["the quick brown fox", "my box", "black quartz", "the lazy dog jumps over my box"]
TARGET = ["der schnelle braune fuchs", "den hund", "über den faulen hund", "der hund springt"]


def binarize(folder: Path, model: Path) -> Path:
    """The pairs as token files."""
    for name, lines in (("text.en", SOURCE), ("text.de", TARGET)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    data_prep = [sys.executable, "-m", "data_prep"]
    for words in (
        ["tokenizer", "import", str(model), "--out", "tokenizer"],
        ["parallel", "text.en", "text.de", "--pair", "en-de", "--tokenizer", "tokenizer", "--out", "data"],
    ):
        subprocess.run([*data_prep, *words], cwd=folder, check=True, capture_output=True)
    return folder / "data"


def links(encoder: Encoder, tokenizer: Tokenizer, layer: int) -> list[tuple[set[tuple[int, int]], int]]:
    """Of each pair the cells that are the largest of their row and column, and the tokens of both sides."""

    def hidden(text: str) -> Tensor:
        ids = np.array([0, *tokenizer.encode(text), 2])
        return torch.nn.functional.normalize(encoder.hidden_states(pack([ids]))[layer][1:-1], dim=1)

    found = []
    for source, target in zip(SOURCE, TARGET, strict=True):
        cosines_MN = hidden(source) @ hidden(target).T
        forward = {(i, int(j)) for i, j in enumerate(cosines_MN.argmax(1))}
        backward = {(int(i), j) for j, i in enumerate(cosines_MN.argmax(0))}
        found.append((forward & backward, sum(cosines_MN.shape)))
    return found


def dice(left: list[set[tuple[int, int]]], right: list[set[tuple[int, int]]]) -> float:
    common = sum(len(a & b) for a, b in zip(left, right, strict=True))
    return 2 * common / (sum(map(len, left)) + sum(map(len, right)))


@torch.no_grad()
def test_both_measures_equal_their_definition(hf_dir: Path, tmp_path: Path) -> None:
    loaded = load(hf_dir)
    encoder, tokenizer = loaded.encoder, loaded.tokenizer
    assert isinstance(encoder, Encoder) and isinstance(tokenizer, Tokenizer)
    data = binarize(tmp_path, hf_dir)
    found = self_agreement(encoder, data, 100, 62)
    by_layer = [links(encoder, tokenizer, layer) for layer in range(4)]
    assert found.pairs == len(SOURCE)
    directions = [2 * sum(len(cells) for cells, _ in layer) / sum(tokens for _, tokens in layer) for layer in by_layer]
    assert found.directions == pytest.approx(directions)
    cells = [[each for each, _ in layer] for layer in by_layer]
    near = [dice(lower, upper) for lower, upper in pairwise(cells)]
    assert found.layers == pytest.approx([near[0], (near[0] + near[1]) / 2, (near[1] + near[2]) / 2, near[2]])
    assert self_agreement(encoder, data, 2, 62).pairs == 2
