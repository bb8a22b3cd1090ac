"""Word links given with pairs become links of their tokens, keep to their pairs, and are kept, checked and moved with them."""

import gzip
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.plan.mix import load_mix, mix_sources
from data_prep.run.training_text import training_lines
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.tokenizer import Tokenizer
from data_prep.tokenizers.word_places import words_of_tokens

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def links_file(pair_files: tuple[Path, Path], tmp_path: Path) -> Path:
    """Seeded links of the 300 pairs; some have none."""
    draw = random.Random(3)
    sides = [path.read_text().splitlines() for path in pair_files]
    lines = []
    for texts in zip(*sides, strict=True):
        source, target = (len(text.split()) for text in texts)
        found = {(draw.randrange(source), draw.randrange(target)) for _ in range(draw.randrange(6))}
        lines.append(" ".join(f"{i}-{j}" for i, j in sorted(found, key=lambda _: draw.random())) + "\n")
    path = tmp_path / "train.pharaoh"
    path.write_text("".join(lines))
    return path


def links_of(data_dir: Path, tokenizer: Tokenizer) -> list[tuple[str, str, set[tuple[int, int]]]]:
    """Every pair of a folder: its texts as they are decoded, and its links in tokens."""
    found = []
    for shard in Manifest.load(data_dir).shards:
        assert shard.has_links
        file = TokenFile(shard.stem)
        lengths_B2 = file.lengths.reshape(-1, 2).astype(np.int64)
        place_K, links_K2 = file.links.read(np.arange(len(file) // 2), lengths_B2)
        for pair in range(len(file) // 2):
            texts = [tokenizer.decode(file.read_sequence(2 * pair + side)) for side in (0, 1)]
            found.append((texts[0], texts[1], set(map(tuple, links_K2[place_K == pair].tolist()))))
    return found


def expected_links(tokenizer: Tokenizer, source: str, target: str, line: str) -> set[tuple[int, int]]:
    """Every token of a word with every token of its partner; words are encoded one by one, as their texts are simple."""
    words = [[len(tokenizer.encode(word)) for word in text.split()] for text in (source, target)]
    ranges = [[range(sum(side[:at]), sum(side[: at + 1])) for at in range(len(side))] for side in words]
    links = [tuple(map(int, link.split("-"))) for link in line.split()]
    return {(s, t) for i, j in links for s in ranges[0][i] for t in ranges[1][j]}


def test_links_of_words_become_links_of_their_tokens(
    pair_files: tuple[Path, Path], links_file: Path, tokenizer: Tokenizer, tmp_path: Path, parallel: Run
) -> None:
    code, out, err = parallel(*pair_files, "--links", links_file, "--shard-bytes", 4000, "--max-ratio", 99)
    assert code == 0, err
    lines = zip(*(path.read_text().splitlines() for path in (*pair_files, links_file)), strict=True)
    expected = [(s, t, expected_links(tokenizer, s, t, line)) for s, t, line in lines]
    found = links_of(tmp_path / "data", tokenizer)
    assert found == expected and len(Manifest.load(tmp_path / "data").shards) > 4
    assert f"{sum(len(links) for _, _, links in expected):,} links" in out


def test_pairs_that_filters_drop_take_their_links_with_them(
    tokenizer: Tokenizer, tmp_path: Path, parallel: Run, run: Run
) -> None:
    texts = [
        ("the cat", "a dog", "0-0 1-1"),
        ("same", "same", "0-0"),  # identical
        ("", "bird", ""),  # empty
        ("big old house", "small red tree river", "0-3 2-0 2-0 1p1"),
        ("the cat sees the cat sees", "a", "0-0"),  # too long
        ("bird", "dog", ""),
        ("the cat", "a dog", "1-0"),  # repeated
    ]
    for side, name in enumerate(("t.en", "t.de", "t.links")):
        with gzip.open(tmp_path / f"{name}.gz", "wt") as file:
            file.write("".join(f"{each[side]}\n" for each in texts))
    files = (tmp_path / "t.en.gz", tmp_path / "t.de.gz", "--links", tmp_path / "t.links.gz")
    longest = max(len(tokenizer.encode(text)) for text in ("big old house", "small red tree river"))
    code, out, err = parallel(*files, "--max-tokens", longest, "--drop-duplicates")
    assert code == 0, err
    kept = [texts[0], (*texts[3][:2], "0-3 2-0"), texts[5]]
    assert links_of(tmp_path / "data", tokenizer) == [(s, t, expected_links(tokenizer, s, t, x)) for s, t, x in kept]
    assert "possible_links 1" in out and "duplicate 1" in out and "too_long 1" in out
    assert run("verify", tmp_path / "data")[0] == 0


def test_tokens_are_those_of_the_words_that_the_text_has_whatever_the_tokenizer_makes_of_white_space(
    tokenizer: Tokenizer,
) -> None:
    line = "the\u00a0cat  \u200b dog\u3000 日本 big".encode()
    (found,) = words_of_tokens(tokenizer, [line])
    ids, lengths = tokenizer.encode_flat([line])
    # ASCII's white space separates: the first word has a no-break space, the second is nothing, the third ends in a wide one
    assert line.split() == ["the\u00a0cat".encode(), "\u200b".encode(), "dog\u3000".encode(), "日本".encode(), b"big"]
    pieces = [len(tokenizer.encode(text)) for text in ("the cat", "dog", "日本", "big")]
    assert int(lengths[0]) == sum(pieces) == len(ids)
    assert found.tolist() == [word for word, count in zip((0, 2, 3, 4), pieces, strict=True) for _ in range(count)]
    assert words_of_tokens(tokenizer, [b" the ", "\u200b".encode(), b""])[0].tolist() == [0] * len(
        tokenizer.encode("the")
    )


def test_links_to_a_word_without_tokens_are_counted(tokenizer: Tokenizer, tmp_path: Path, parallel: Run) -> None:
    for name, text in (("t.en", "cat \u200b dog\n"), ("t.de", "bird small\n"), ("t.links", "0-0 1-1 2-1\n")):
        (tmp_path / name).write_text(text)
    code, out, _ = parallel(tmp_path / "t.en", tmp_path / "t.de", "--links", tmp_path / "t.links")
    assert code == 0 and "links_without_tokens 1" in out
    ((_, _, links),) = links_of(tmp_path / "data", tokenizer)
    assert links == expected_links(tokenizer, "cat dog", "bird small", "0-0 1-1")


def test_workers_change_nothing_and_links_move_with_their_pairs(
    pair_files: tuple[Path, Path], links_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    folders = [tmp_path / f"data{workers}" for workers in (1, 2)]
    for workers, folder in enumerate(folders, start=1):
        fixed = ("--pair", "en-de", "--tokenizer", tokenizer_dir, "--out", folder, "--shard-bytes", 4000)
        options = ("--links", links_file, "--workers", workers)
        assert run("parallel", *pair_files, *fixed, *options)[0] == 0
    first = files_under(folders[0])
    assert files_under(folders[1]) == first and sum(name.endswith(".links") for name in first) > 4
    assert "0 shards written" in run("parallel", *pair_files, *fixed, *options)[1]
    assert run("merge", folders[0], "--out", tmp_path / "merged")[0] == 0
    merged = files_under(tmp_path / "merged")
    assert {name: raw for name, raw in merged.items() if "lock" not in name} == {
        name: raw for name, raw in first.items() if "lock" not in name
    }
    assert run("remove", tmp_path / "merged", "train.en")[0] == 0
    assert not [name for name in files_under(tmp_path / "merged") if "train" in name and "lock" not in name]


def test_the_same_pairs_with_other_links_or_without_are_the_same_text(
    pair_files: tuple[Path, Path], links_file: Path, tmp_path: Path, parallel: Run
) -> None:
    assert parallel(*pair_files)[0] == 0
    code, _, err = parallel(*pair_files, "--links", links_file)
    assert code == 1 and "the same text" in err and "--replace" in err
    assert parallel(*pair_files, "--links", links_file, "--replace")[0] == 0
    assert [shard.has_links for shard in Manifest.load(tmp_path / "data").shards] == [True]
    links_file.write_text("\n" * 300)
    code, _, err = parallel(*pair_files, "--links", links_file)
    assert code == 1 and "the same text" in err


def test_a_folder_without_links_is_as_before(pair_files: tuple[Path, Path], tmp_path: Path, parallel: Run) -> None:
    assert parallel(*pair_files)[0] == 0
    (shard,) = Manifest.load(tmp_path / "data").shards
    assert set(shard.bytes) == set(shard.sha256) == {"bin", "idx"} and not shard.has_links
    assert "links" not in shard.stem.with_name(shard.stem.name + ".json").read_text()


@pytest.mark.parametrize(
    ("at", "line", "told"),
    [
        (4, "0-0 1:1", r"train\.pharaoh:5: '1:1' is no link; write `i-j`, words from 0"),
        (6, "0-99", r"train\.pharaoh:7: 0-99 links word 99 of the target, which has \d+; give the links of this text"),
        (0, "50-0", r"train\.pharaoh:1: 50-0 links word 50 of the source, which has"),
        (2, "-1-0", "'-1-0' is no link"),
    ],
)
def test_what_is_no_link_of_its_pair_is_one_line(
    at: int, line: str, told: str, pair_files: tuple[Path, Path], links_file: Path, tmp_path: Path, parallel: Run
) -> None:
    lines = links_file.read_text().splitlines()
    lines[at] = line
    links_file.write_text("".join(f"{each}\n" for each in lines))
    code, out, err = parallel(*pair_files, "--links", links_file)
    (error,) = [line for line in err.splitlines() if "reading:" not in line]
    assert code == 1 and not out and re.search(told, error), err
    assert not list((tmp_path / "data").rglob("*.bin"))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_links_has_a_line_for_each_pair(
    change: int, pair_files: tuple[Path, Path], links_file: Path, parallel: Run
) -> None:
    lines = links_file.read_text().splitlines(keepends=True)
    links_file.write_text("".join(lines[:-1] if change < 0 else [*lines, "0-0\n"]))
    code, _, err = parallel(*pair_files, "--links", links_file)
    assert code == 1 and f"train.pharaoh has {300 + change} lines" in err and "one line per pair" in err


def test_links_go_with_two_files_of_text(links_file: Path, tmp_path: Path, parallel: Run) -> None:
    (tmp_path / "p.tsv").write_text("0.5\ta\tb\n")
    code, _, err = parallel(tmp_path / "p.tsv", "--links", links_file)
    assert code == 1 and "goes with two files of text, SOURCE TARGET" in err
    code, _, err = parallel(tmp_path / "p.tsv", "--links", tmp_path / "none")
    assert code == 1


def test_damaged_links_are_found_by_verify_and_missing_ones_on_loading(
    pair_files: tuple[Path, Path], links_file: Path, tmp_path: Path, parallel: Run, run: Run
) -> None:
    assert parallel(*pair_files, "--links", links_file)[0] == 0
    (path,) = (tmp_path / "data").rglob("*.links")
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    code, out, err = run("verify", tmp_path / "data")
    assert code == 1 and f"{path}: content is not what was written (sha256)" in out + err
    path.unlink()
    with pytest.raises(ValueError, match=r"\.links: shard file is missing"):
        Manifest.load(tmp_path / "data")
    shutil.copy(links_file, path)
    assert "1 shard written" in parallel(*pair_files, "--links", links_file)[1] and path.read_bytes() == whole


def test_a_mix_names_links_beside_its_files(
    pair_files: tuple[Path, Path], links_file: Path, tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    mix, folder = tmp_path / "mix.yaml", tmp_path / "train."
    content = f"corpora:\n- pair: en-de\n  source_files: {folder}{{source}}\n  target_files: {folder}{{target}}\n"
    mix.write_text(f"{content}  link_files: {links_file}\n")
    options = ("--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    code, _, err = run("mix", mix, *options)
    assert code == 0, err
    assert all(shard.has_links for shard in Manifest.load(tmp_path / "data").shards)
    (source,) = mix_sources(load_mix(mix), "mix.yaml")
    both = zip(*(path.read_text().splitlines() for path in pair_files), strict=True)
    texts = [text for pair in both if pair[0] != pair[1] for text in pair]
    assert list(training_lines(source, 0.0, Counter())) == texts, "a tokenizer is trained on text alone"
    mix.write_text(f"{content}  link_files: [{links_file}, {links_file}]\n")
    code, _, err = run("mix", mix, *options)
    assert code == 1 and "corpus 1: link_files are 2" in err
