"""The first of equal texts stays, in source order, across all sources of a run and for any number of workers."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.filters.duplicates import Duplicates, find_duplicates
from data_prep.filters.line_hashes import normal
from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile
from data_prep.tokenizers.tokenizer import Tokenizer

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]


def naive_flags(sources: list[list[int]]) -> list[list[bool]]:
    """What `find_duplicates` must say, with a set; 0 is not compared, 1 goes with the line before."""
    seen: set[int] = set()
    flags = []
    for values in sources:
        last = False
        flags.append([])
        for value in values:
            if value != 1:
                last = value > 1 and value in seen
                seen.add(value)
            flags[-1].append(last)
    return flags


@settings(max_examples=80, deadline=None)
@given(sources=st.lists(st.lists(st.integers(0, 12), max_size=30), min_size=1, max_size=4), bucket=st.integers(1, 50))
def test_flags_are_those_of_a_set(
    sources: list[list[int]], bucket: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("hashes")
    hashes = [folder / f"{number}.hashes" for number in range(len(sources))]
    flags = [folder / f"{number}.flags" for number in range(len(sources))]
    for path, values in zip(hashes, sources, strict=True):
        np.array([0, *values], dtype=np.uint64).tofile(path)
    find_duplicates(hashes, flags, bucket)
    expected = naive_flags([[0, *values] for values in sources])
    assert [np.fromfile(path, dtype=np.bool_).tolist() for path in flags] == expected
    assert Duplicates(flags[0]).flags(2, len(sources[0])).tolist() == expected[0][1:]


def test_text_is_compared_as_the_tokenizer_sees_it(tokenizer: Tokenizer) -> None:
    for one, other in [("a  dog ", "a dog"), ("\u3000the\tcat", "the cat"), ("ﬁn", "fin"), ("日本\r", "日本")]:
        assert normal(one) == normal(other)
        assert tokenizer.encode(one) == tokenizer.encode(other)
    assert normal("Cat") != normal("cat")


def lines_of(data_dir: Path, tokenizer: Tokenizer) -> list[str]:
    """All sequences of a folder, decoded."""
    tokens = [TokenFile(shard.stem) for shard in Manifest.load(data_dir).shards]
    return [tokenizer.decode(shard.read_sequence(i)) for shard in tokens for i in range(len(shard))]


def test_duplicate_pairs_are_dropped_across_files_and_directions(
    tokenizer_dir: Path, tokenizer: Tokenizer, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "a.tsv").write_text("1.0\tthe cat\ta dog\n2.0\tred\tsmall\n2.0\tred\tsmall\n")
    (tmp_path / "b.tsv").write_text("2.0\ta  dog\tthe cat\n2.0\tbig\tred\n2.0\tsmall\told\n")
    mix = {
        "corpora": [
            {"pair": "en-de", "files": str(tmp_path / "a.tsv")},
            {"pair": "de-en", "files": str(tmp_path / "b.tsv")},
        ],
        "pair_filters": {"drop_duplicates": True, "min_score": 1.5},
    }
    (tmp_path / "mix.yaml").write_text(json.dumps(mix))
    data = tmp_path / "data"
    assert run("mix", tmp_path / "mix.yaml", "--tokenizer", tokenizer_dir, "--out", data)[0] == 0
    # the first "the cat" fell to its score, so it does not drive out its twin
    assert sorted(lines_of(data, tokenizer)) == sorted(
        ["red", "small", "a dog", "the cat", "big", "red", "small", "old"]
    )
    dropped = {source["files"][0]["name"]: source["dropped"] for source in Manifest.load(data).sources}
    assert dropped == {"a.tsv": {"duplicate": 1, "low_score": 1}, "b.tsv": {}}
    assert not list(data.glob(".spool-*"))


@pytest.fixture
def repeated(tmp_path: Path) -> list[Path]:
    """Three files of documents that share lines and documents."""
    texts = ["the cat\na dog\n\nred\n\nthe cat\na dog\n", "red\nbig\n\nthe cat\na dog\n", "old\n\nred\n"]
    paths = [tmp_path / f"{number}.txt" for number in range(3)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


@pytest.mark.parametrize(
    ("unit", "expected", "dropped"),
    [
        ("lines", {0: ["the cat", "a dog", "red"], 1: ["big"], 2: ["old"]}, [2, 3, 1]),
        ("documents", {0: ["the cat", "a dog", "red"], 1: ["red", "big"], 2: ["old"]}, [2, 2, 1]),
    ],
)
def test_duplicate_lines_or_documents_are_dropped(
    unit: str,
    expected: dict[int, list[str]],
    dropped: list[int],
    repeated: list[Path],
    tokenizer_dir: Path,
    tokenizer: Tokenizer,
    tmp_path: Path,
    run: Run,
) -> None:
    command = ("mono", *repeated, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert run(*command, "--drop-duplicates", unit)[0] == 0
    assert lines_of(tmp_path / "data", tokenizer) == [line for lines in expected.values() for line in lines]
    assert [source["dropped"]["duplicate"] for source in Manifest.load(tmp_path / "data").sources] == dropped


def test_shards_of_any_size_and_workers_drop_the_same_lines(
    documents_text: Callable, tokenizer_dir: Path, tokenizer: Tokenizer, tmp_path: Path, run: Run, files_under: Files
) -> None:
    files = []
    for seed in (1, 2, 1, 3):
        files.append(tmp_path / f"{len(files)}.txt")
        files[-1].write_bytes(documents_text(60, seed) + b"\nthe cat\n" * len(files))
    results = []
    for workers, size in ((1, 900), (3, 900), (1, 1 << 20)):
        data = tmp_path / f"data{workers}-{size}"
        options = ("--out", data, "--workers", workers, "--shard-bytes", size, "--drop-duplicates", "lines")
        assert run("mono", *files, "--lang", "de", "--tokenizer", tokenizer_dir, *options)[0] == 0
        results.append((files_under(data), lines_of(data, tokenizer)))
    assert results[0][0] == results[1][0]
    assert results[0][1] == results[2][1]
    assert len(set(results[0][1])) == len(results[0][1])


def test_a_shard_is_made_again_when_other_lines_of_it_are_repeated(
    repeated: list[Path], tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    archive = tmp_path / "1.txt.gz"
    archive.write_bytes(gzip.compress(repeated[1].read_bytes()))
    first, second, third = repeated[0], archive, repeated[2]
    options = ("--lang", "de", "--tokenizer", tokenizer_dir, "--drop-duplicates", "lines", "--out")
    assert "2 shards written, 0 already present" in run("mono", second, third, *options, tmp_path / "a")[1]
    # "red" of the third repeats the second as well as the first
    assert "2 shards written, 1 already present" in run("mono", first, second, third, *options, tmp_path / "a")[1]
    assert "0 shards written, 3 already present" in run("mono", first, second, third, *options, tmp_path / "a")[1]
    assert run("mono", first, second, third, *options, tmp_path / "b")[0] == 0
    assert files_under(tmp_path / "a") == files_under(tmp_path / "b")


def test_the_same_file_with_two_settings_is_refused(
    repeated: list[Path], tokenizer_dir: Path, tmp_path: Path, run: Run
) -> None:
    corpora = [{"mono": "de", "files": str(repeated[0])}, {"mono": "de", "files": str(repeated[0])}]
    corpora[1]["filters"] = {"drop_control": True}
    (tmp_path / "mix.yaml").write_text(json.dumps({"corpora": corpora}))
    code, _, err = run("mix", tmp_path / "mix.yaml", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert (code, err.count("error:")) == (1, 1)
    assert "0.txt: given twice with different settings" in err
