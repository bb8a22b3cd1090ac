"""What the released code would read: fairseq's index field by field, special tokens in place, its ids for our pieces."""

import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_prep.data_dir import fairseq_export
from data_prep.token_files.block_table import cut_blocks
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]
BLOCK = 32


def read_items(folder: Path) -> list[list[int]]:
    """fairseq's layout, read field by field without any code of ours."""
    index, tokens = (folder / "train.0.idx").read_bytes(), (folder / "train.0.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    assert struct.unpack_from("<Q", index, 9) == (1,)
    assert index[17] == 4, "int32"
    [count] = struct.unpack_from("<Q", index, 18)
    sizes = struct.unpack_from(f"<{count}i", index, 26)
    pointers = struct.unpack_from(f"<{count}q", index, 26 + 4 * count)
    assert len(index) == 26 + 12 * count
    assert len(tokens) == 4 * sum(sizes)
    return [
        list(struct.unpack_from(f"<{size}i", tokens, pointer)) for size, pointer in zip(sizes, pointers, strict=True)
    ]


def read_dictionary(path: Path) -> dict[str, int]:
    """Symbols as fairseq numbers them: four of its own, the lines of the file, and the task's mask."""
    symbols = ["<s>", "<pad>", "</s>", "<unk>"]
    with open(path, encoding="utf-8") as file:
        for line in file:
            symbol, count = line.rstrip().rsplit(" ", 1)
            assert int(count) > 0
            symbols.append(symbol)
    symbols.append("<mask>")
    assert len(set(symbols)) == len(symbols)
    return {symbol: number for number, symbol in enumerate(symbols)}


def sentences_of(data_dir: Path, name: str) -> list[list[list[int]]]:
    """By shard, the ids of every sentence."""
    manifest = Manifest.load(data_dir)
    files = [TokenFile(shard.stem) for shard in manifest.mono.get(name) or manifest.pairs[name]]
    return [[file.read_sequence(i).tolist() for i in range(len(file))] for file in files]


@pytest.fixture
def data_dir(mono_file: Path, pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Run) -> Path:
    options = ("--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--shard-bytes", 3000)
    for language in ("de", "fr"):
        assert run("mono", mono_file, "--lang", language, *options, "--block-tokens", BLOCK)[0] == 0
    assert run("parallel", *pair_files, "--pair", "en-de", *options)[0] == 0
    return tmp_path / "data"


@pytest.mark.parametrize("at_once", [3, 4096])
@pytest.mark.parametrize("block", [BLOCK, 20])
def test_blocks_are_whole_sentences_with_special_tokens(
    at_once: int, block: int, data_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairseq_export, "ITEMS_AT_ONCE", at_once)
    code, out, _ = run("export-fairseq", data_dir, "--out", tmp_path / "out", "--only", "de", "--block-tokens", block)
    assert code == 0
    expected = []
    for sentences in sentences_of(data_dir, "de"):
        tokens = [token for sentence in sentences for token in sentence]
        table = cut_blocks(np.array([len(sentence) for sentence in sentences], dtype=np.int32), block)
        ends = np.cumsum([len(sentence) for sentence in sentences]).tolist()
        for start, end in pairwise(table.rows_B2[:, 0].tolist()):
            cuts = [start, *(cut for cut in ends if start < cut < end), end]
            expected.append([0, *(token for a, b in pairwise(cuts) for token in [*tokens[a:b], 2])])
    found = read_items(tmp_path / "out" / "mono")
    assert found == expected
    assert len(found) > 20 and max(map(len, found)) <= block
    assert f"{len(found):,} items, {sum(map(len, found)):,} tokens" in out
    assert not (tmp_path / "out" / "pair").exists()


@pytest.mark.parametrize("at_once", [3, 4096])
def test_pairs_come_in_both_orders_with_one_beginning_each(
    at_once: int, data_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairseq_export, "ITEMS_AT_ONCE", at_once)
    assert run("export-fairseq", data_dir, "--out", tmp_path / "out")[0] == 0
    sentences = [sentence for shard in sentences_of(data_dir, "en-de") for sentence in shard]
    pairs = list(zip(sentences[::2], sentences[1::2], strict=True))
    expected = [[0, *source, 2, *target, 2] for source, target in pairs]
    expected += [[0, *target, 2, *source, 2] for source, target in pairs]
    assert read_items(tmp_path / "out" / "pair") == expected
    blocks = read_items(tmp_path / "out" / "mono")
    assert blocks[: len(blocks) // 2] == blocks[len(blocks) // 2 :], "one language after the other, of equal text"


@pytest.mark.parametrize("at_once", [3, 4096])
def test_for_the_contrast_source_and_target_alternate(
    at_once: int, data_dir: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairseq_export, "ITEMS_AT_ONCE", at_once)
    for folder, options in (("without", ()), ("with", ("--xlco",))):
        assert run("export-fairseq", data_dir, "--out", tmp_path / folder, *options)[0] == 0
    sentences = [sentence for shard in sentences_of(data_dir, "en-de") for sentence in shard]
    assert read_items(tmp_path / "with" / "xlco") == [[0, *sentence, 2] for sentence in sentences]
    assert not (tmp_path / "without" / "xlco").exists()
    for kind in ("mono", "pair"):
        for name in ("train.0.bin", "train.0.idx", "dict.txt"):
            assert (tmp_path / "with" / kind / name).read_bytes() == (tmp_path / "without" / kind / name).read_bytes()
    dictionary = (tmp_path / "with" / "xlco" / "dict.txt").read_bytes()
    assert dictionary == (tmp_path / "with" / "pair" / "dict.txt").read_bytes()


def test_the_released_contrast_joins_neighbouring_pairs_side_by_side(data_dir: Path, tmp_path: Path, run: Run) -> None:
    # As infoxlm/data/xlco_dataset.py takes items 4i to 4i + 3, in its mode 0; the second sentence loses its <s>.
    assert run("export-fairseq", data_dir, "--out", tmp_path / "out", "--only", "en-de", "--xlco")[0] == 0
    items = read_items(tmp_path / "out" / "xlco")
    sentences = [sentence for shard in sentences_of(data_dir, "en-de") for sentence in shard]
    for first in range(0, len(items) // 4 * 4, 4):
        source, target, source_2, target_2 = sentences[first : first + 4]
        assert [*items[first], *items[first + 2][1:]] == [0, *source, 2, *source_2, 2]
        assert [*items[first + 1], *items[first + 3][1:]] == [0, *target, 2, *target_2, 2]


def test_the_dictionary_numbers_pieces_as_we_do(data_dir: Path, tokenizer: Tokenizer, tmp_path: Path, run: Run) -> None:
    assert run("export-fairseq", data_dir, "--out", tmp_path / "out")[0] == 0
    for kind in ("mono", "pair"):
        numbers = read_dictionary(tmp_path / "out" / kind / "dict.txt")
        assert len(numbers) == tokenizer.vocab_size
        assert numbers["<mask>"] == tokenizer.mask_id
        for text in ("the cat sees a big dog", "ß é 日本 語"):
            ids = tokenizer.encode(text)
            assert [numbers[tokenizer.piece(token_id)] for token_id in ids] == ids


@pytest.mark.shared
def test_the_released_vocabulary_fits_fairseqs_dictionary(xlmr_model: Path) -> None:
    tokenizer = Tokenizer(xlmr_model.read_bytes())
    assert len(fairseq_export._dictionary(tokenizer, Path()).splitlines()) == 249_997
    assert tokenizer.mask_id == 250_001


def test_what_is_longer_than_the_released_positions_is_told(tokenizer_dir: Path, tmp_path: Path, run: Run) -> None:
    for name, words in (("a.en", 300), ("a.de", 290)):
        (tmp_path / name).write_text("the " * words + "\n" + "a cat\n")
    options = ("--pair", "en-de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--max-tokens", 1000)
    assert run("parallel", tmp_path / "a.en", tmp_path / "a.de", *options, "--keep-identical")[0] == 0
    _, out, _ = run("export-fairseq", tmp_path / "data", "--out", tmp_path / "out", "--xlco")
    assert out.count("note: 2 items are longer") == 2 and "the released model's 256 for one of two" in out
    assert "note: 2 items are longer than the released model's 512 positions" in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--only", "xx"), "--only xx: "),
        (("--block-tokens", 2), "--block-tokens 2: must be above 2"),
        (("--only", "de", "--xlco"), "has no pairs among what is taken"),
    ],
)
def test_mistakes_are_one_line(
    options: tuple[object, ...], told: str, data_dir: Path, tmp_path: Path, run: Run
) -> None:
    code, _, err = run("export-fairseq", data_dir, "--out", tmp_path / "out", *options)
    assert code == 1
    assert err.count("\n") == 1 and told in err
    assert not (tmp_path / "out").exists()
