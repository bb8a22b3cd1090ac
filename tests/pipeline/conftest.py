"""What the tests of pipeline share: token files written from plain lists of ids, and models of a few thousand parameters."""

import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data_prep.token_files.manifest import Manifest
from data_prep.token_files.shard import Shard
from data_prep.token_files.token_file import TokenFileWriter, shard_file
from data_prep.tokenizers.tokenizer import train
from pipeline.cli import main
from pipeline.data.streams import Sequences
from pipeline.model.encoder import Encoder, EncoderConfig
from pipeline.model.heads import MaskedLMHead
from pipeline.weights.hugging_face import hugging_face_state, write_config
from tests.token_files import add_sequence

VOCAB_SIZE = 64
Ids = list[int]


@pytest.fixture(autouse=True)
def _one_seed() -> None:
    torch.manual_seed(1)


@pytest.fixture
def sizes() -> EncoderConfig:
    """An encoder small enough to train in a test."""
    return EncoderConfig(VOCAB_SIZE, layers=3, hidden=16, heads=2, feed_forward=32, positions=66)


def write_shard(stem: Path, languages: tuple[str, ...], documents: list[list[Ids]], block_tokens: int = 0) -> Shard:
    """Write one shard: of pairs with two languages, else of monolingual documents."""
    kind = "pair" if len(languages) == 2 else "mono"
    writer = TokenFileWriter(stem, kind, languages, "0" * 64, block_tokens)
    for document in documents:
        for number, ids in enumerate(document):
            add_sequence(writer, ids, number if kind == "pair" else 0)
        writer.end_document()
    assert writer.close(), "a shard of the tests has a token"
    counts = {
        "documents": len(documents),
        "sequences": len(writer.lengths),
        "tokens": sum(writer.lengths),
        "max_length": max(writer.lengths),
        "block_tokens": writer.block_tokens,
        "blocks": writer.blocks,
    }
    bin_bytes, idx_bytes = (shard_file(stem, suffix).stat().st_size for suffix in (".bin", ".idx"))
    return Shard(stem.parent, stem.name, kind, languages, counts, (bin_bytes, idx_bytes), ("0" * 64, "0" * 64))


@pytest.fixture
def make_manifest(tmp_path: Path) -> Callable[..., Manifest]:
    """Write token files: per language (or "source-target") its shards, per shard its sentences (or pairs)."""

    def make(
        mono: dict[str, list[list[Ids]]] | None = None,
        pairs: dict[str, list[list[tuple[Ids, Ids]]]] | None = None,
        vocab_size: int = VOCAB_SIZE,
        block_tokens: int = 0,
    ) -> Manifest:
        # a folder of its own each time: a reader keeps the files that it has opened
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        mono_shards = {
            name: [
                write_shard(folder / f"{name}.{i}", (name,), [shard], block_tokens) for i, shard in enumerate(shards)
            ]
            for name, shards in (mono or {}).items()
        }
        pair_shards = {
            name: [
                write_shard(folder / f"{name}.{i}", tuple(name.split("-")), [list(pair) for pair in shard])
                for i, shard in enumerate(shards)
            ]
            for name, shards in (pairs or {}).items()
        }
        return Manifest(folder, "0" * 64, vocab_size, mono_shards, pair_shards, [], "1" * 64)

    return make


@pytest.fixture
def make_sequences() -> Callable[..., Sequences]:
    """Seeded blocks, or with `target_lengths` pairs, of random ids: what `collate` takes."""

    def make(lengths: Sequence[int], target_lengths: Sequence[int] | None = None, seed: int = 0) -> Sequences:
        draw = np.random.default_rng(seed)
        ids = [[0, *draw.integers(4, VOCAB_SIZE - 1, length), 2] for length in lengths]
        sides = None
        if target_lengths is not None:
            ids = [
                [*block, *draw.integers(4, VOCAB_SIZE - 1, n), 2] for block, n in zip(ids, target_lengths, strict=True)
            ]
            sides = np.array([lengths, target_lengths], dtype=np.int64).T
        count = len(ids)
        return Sequences(
            ids_T=np.concatenate(ids).astype(np.int64),
            lengths_S=np.array([len(block) for block in ids]),
            language_S=np.zeros(count, dtype=np.int32),
            key_S=draw.integers(0, 2**63, count).astype(np.uint64),
            sample_S=np.arange(count),
            side_lengths_S2=sides,
        )

    return make


TEXT = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "sphinx of black quartz , judge my vow",
    "der schnelle braune fuchs springt über den faulen hund",
]


@pytest.fixture(scope="session")
def hf_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny untrained model with a head, and its tokenizer."""
    out = tmp_path_factory.mktemp("hf")
    tokenizer = train(TEXT, 50, 1.0, 4096)
    tokenizer.save(out)
    torch.manual_seed(7)
    sizes = EncoderConfig(
        tokenizer.vocab_size, layers=3, hidden=16, heads=2, feed_forward=32, positions=66, init_std=0.3
    )
    encoder = Encoder(sizes)
    head = MaskedLMHead(encoder.word, sizes.norm_eps, sizes.init_std)
    state = hugging_face_state(encoder.state_dict(), head.state_dict())
    del state["lm_head.decoder.weight"], state["lm_head.decoder.bias"]  # tied, and so left out, as Hugging Face does
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, out / "model.safetensors")
    config = {"model_type": "xlm-roberta", "hidden_act": "gelu", **write_config(sizes)}
    (out / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return out


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line for the user whose mistake ended it."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in self.err
        return line


@pytest.fixture
def use(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run `python -m pipeline …` in this process; text given as `stdin` is what it reads there."""

    def run(*arguments: object, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "argv", ["pipeline", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *capfd.readouterr())

    return run


@pytest.fixture
def gold_dir(tmp_path: Path) -> Path:
    """Three pairs with links, one of them past a sentence's end."""
    out = tmp_path / "en-de"
    out.mkdir()
    (out / "test.en").write_text("the quick fox\nmy box\nblack quartz judge\n", encoding="utf-8")
    (out / "test.de").write_text("der schnelle fuchs\nden hund\nfaulen springt\n", encoding="utf-8")
    (out / "alignv2.txt").write_text("1 1 1\n1 2 2 P\n1 3 3\n2 1 1\n3 9 1\n", encoding="utf-8")
    return out
