"""A mix in one YAML file: what it expands to, what it says of wrong keys, and a dry run that writes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.plan.mix import load_mix, mix_sources
from data_prep.text.locations import expand
from data_prep.token_files.manifest import Manifest

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]

TSV = "1.2\tthe cat\ta dog\n0.9\tbig\tsmall\n"


@pytest.fixture
def folder(tmp_path: Path, documents_text: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small corpora, the working folder of the test."""
    for seed, name in enumerate(("de.txt", "zh-Hans.txt", "en.txt")):
        (tmp_path / name).write_bytes(documents_text(20, seed))
    for name in ("a.de-en.de", "a.de-en.en", "b.de-en.de", "b.de-en.en"):
        (tmp_path / name).write_text(f"the cat {name.partition('.')[0]}\n" if name.endswith("en") else "a dog\n")
    (tmp_path / "w.tsv").write_text(TSV)
    (tmp_path / "r.jsonl").write_text('{"t": "the cat"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


CORPORA: list[dict[str, Any]] = [
    {"mono": ["zh-Hans", "de"], "files": "{lang}.txt"},
    {"mono": "en", "files": ["en.txt", "r.jsonl"], "fields": ["t"], "filters": {"max_characters": 40}},
    {"pair": "en-de", "source_files": "*.de-en.en", "target_files": ["a.de-en.de", "b.de-en.de"]},
    {"pair": "de-en", "files": "w.tsv", "filters": {"min_score": 1.0, "max_ratio": 3}},
]


def write_mix(folder: Path, content: object) -> Path:
    path = folder / "mix.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True))
    return path


def test_a_mix_expands_in_its_order(folder: Path) -> None:
    sources = mix_sources(load_mix(write_mix(folder, {"corpora": CORPORA})), "mix.yaml")
    found = [("-".join(source.languages), source.name) for source in sources]
    assert found == [
        ("zh_Hans", "zh-Hans.txt"),
        ("de", "de.txt"),
        ("en", "en.txt"),
        ("en", "r.jsonl"),
        ("en-de", "a.de-en.en + a.de-en.de"),
        ("en-de", "b.de-en.en + b.de-en.de"),
        ("de-en", "w.tsv"),
    ]


def test_a_corpus_has_its_own_filters_over_the_mixs(folder: Path) -> None:
    content = {"corpora": CORPORA, "pair_filters": {"max_ratio": 5, "max_tokens": 99}, "shard_bytes": 777}
    sources = mix_sources(load_mix(write_mix(folder, content)), "mix.yaml")
    moses, tsv = sources[-2].settings, sources[-1].settings
    assert (moses.filters.max_ratio, moses.filters.max_tokens, moses.filters.min_score) == (5, 99, None)
    assert (tsv.filters.max_ratio, tsv.filters.max_tokens, tsv.filters.min_score) == (3, 99, 1.0)
    assert {source.settings.shard_bytes for source in sources} == {777}
    assert [source.settings.filters.max_characters for source in sources[:3]] == [None, None, 40]


def test_a_mix_gives_what_the_single_commands_give(
    folder: Path, tokenizer_dir: Path, run: Run, files_under: Files
) -> None:
    mix = write_mix(folder, {"corpora": CORPORA})
    assert run("mix", mix, "--tokenizer", tokenizer_dir, "--out", "whole", "--workers", 2)[0] == 0
    fixed = ("--tokenizer", tokenizer_dir, "--out", "parts")
    for command in [
        ("mono", "zh-Hans.txt", "--lang", "zh_Hans"),
        ("mono", "de.txt", "--lang", "de"),
        ("mono", "en.txt", "--lang", "en", "--max-characters", 40),
        ("mono", "r.jsonl", "--fields", "t", "--lang", "en", "--max-characters", 40),
        ("parallel", "a.de-en.en", "a.de-en.de", "--pair", "en-de"),
        ("parallel", "b.de-en.en", "b.de-en.de", "--pair", "en-de"),
        ("parallel", "w.tsv", "--pair", "de-en", "--min-score", 1, "--max-ratio", 3),
    ]:
        assert run(*command, *fixed)[0] == 0
    assert Manifest.load(folder / "whole").digest() == Manifest.load(folder / "parts").digest()
    assert "0 shards written, 7 already present" in run("mix", mix, "--tokenizer", tokenizer_dir, "--out", "whole")[1]


def test_a_dry_run_shows_the_plan_and_writes_nothing(
    folder: Path, tokenizer_dir: Path, run: Run, files_under: Files
) -> None:
    mix = write_mix(folder, {"corpora": CORPORA, "shard_bytes": 500, "pair_filters": {"drop_duplicates": True}})
    before = files_under(folder)
    code, out, _ = run("mix", mix, "--tokenizer", tokenizer_dir, "--out", "data", "--dry-run")
    assert code == 0
    assert files_under(folder) == before
    assert not (folder / "data").exists()
    assert run("mix", mix, "--tokenizer", tokenizer_dir, "--out", "data")[0] == 0
    shards = len(list((folder / "data").glob("*/*/*.json")))
    assert f"{shards:,}" in [cell.strip() for cell in out.splitlines()[-2].split("│")]
    again = run("mix", mix, "--tokenizer", tokenizer_dir, "--out", "data", "--dry-run")[1]
    assert [cell.strip() for cell in again.splitlines()[-2].split("│")][-2] == "0"


@pytest.mark.parametrize("command", ["mono", "parallel"])
def test_the_single_commands_have_a_dry_run_too(command: str, folder: Path, tokenizer_dir: Path, run: Run) -> None:
    arguments = ("de.txt", "--lang", "de") if command == "mono" else ("w.tsv", "--pair", "de-en")
    code, out, _ = run(command, *arguments, "--tokenizer", tokenizer_dir, "--out", "data", "--dry-run")
    assert (code, (folder / "data").exists()) == (0, False)
    assert "nothing written" in out


def test_a_dry_run_tells_of_unreadable_sources(folder: Path, tokenizer_dir: Path, run: Run) -> None:
    (folder / "w.tsv").write_text("1.0\tcat\n")
    mix = write_mix(folder, {"corpora": CORPORA})
    code, out, err = run("mix", mix, "--tokenizer", tokenizer_dir, "--out", "data", "--dry-run")
    assert (code, err.count("error:")) == (1, 1)
    assert "w.tsv:1: columns" in err
    assert "de.txt" in out


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"corpora": [{"mono": "de", "file": "x"}]}, ("unknown key corpora.0.file; did you mean corpora.files?",)),
        ({"corpora": CORPORA, "max_bad_rat": 0.1}, ("unknown key max_bad_rat; did you mean max_bad_rate?",)),
        (
            {"corpora": [{"mono": "de", "files": "de.txt", "filters": {"max_ratio": 3}}]},
            ("corpus 1: ", "key max_ratio"),
        ),
        (
            {"corpora": [{"mono": "de", "files": "de.txt"}], "pair_filters": {"min_scor": 1}},
            ("did you mean pair_filters.min_score?",),
        ),
        ({"corpora": []}, ("corpora = []",)),
        ({}, ("corpora: field required",)),
        ({"corpora": [{"mono": "de", "files": "de.txt"}], "shard_bytes": "1M"}, ("shard_bytes = '1M'",)),
        ({"corpora": [{"mono": "de"}]}, ("corpus 1: monolingual text is `mono` with `files`",)),
        ({"corpora": [{"files": "de.txt"}]}, ("corpus 1: give `mono` or `pair`",)),
        ({"corpora": [{"pair": "en-de", "source_files": "a.de-en.en"}]}, ("corpus 1: give `mono` or `pair`",)),
        ({"corpora": [{"mono": "de", "files": "none*.txt"}]}, ("corpus 1: none*.txt: no file matches",)),
        ({"corpora": [{"mono": "German", "files": "de.txt"}]}, ("corpus 1: mono German: not a language code",)),
        ({"corpora": [{"pair": "ende", "files": "w.tsv"}]}, ("corpus 1: pair ende",)),
        ({"corpora": [{"mono": "de", "files": "de.txt", "format": "doc"}]}, ("corpora.0.format = 'doc'",)),
        (
            {"corpora": [{"pair": "en-de", "source_files": "*.en", "target_files": "a.de-en.de"}]},
            ("source_files are 2, target_files 1",),
        ),
        (
            {
                "corpora": [
                    {"pair": "en-de", "source_files": "?.de-en.en", "target_files": ["b.de-en.de", "a.de-en.de"]}
                ]
            },
            ("a.de-en.en would be paired with b.de-en.de",),
        ),
    ],
)
def test_a_wrong_mix_is_one_line(
    content: object, parts: tuple[str, ...], folder: Path, tokenizer_dir: Path, run: Run
) -> None:
    mix = write_mix(folder, content)
    code, _, err = run("mix", mix, "--tokenizer", tokenizer_dir, "--out", "data")
    assert (code, len(err.splitlines())) == (1, 1), err
    assert err.startswith(f"error: {mix}: ")
    for part in parts:
        assert part in err
    assert not (folder / "data").exists()


@pytest.mark.parametrize(
    ("text", "part"), [("a: [", "not valid YAML"), ("hello", "holds no mix"), (None, "cannot read")]
)
def test_what_is_no_mix_is_refused(text: str | None, part: str, folder: Path, tokenizer_dir: Path, run: Run) -> None:
    if text is not None:
        (folder / "mix.yaml").write_text(text)
    code, _, err = run("mix", "mix.yaml", "--tokenizer", tokenizer_dir, "--out", "data")
    assert (code, len(err.splitlines())) == (1, 1)
    assert part in err


def test_globs_are_sorted_and_a_file_with_such_a_name_is_itself(folder: Path) -> None:
    assert expand("*.de-en.en") == ["a.de-en.en", "b.de-en.en"]
    (folder / "x[1].txt").write_text("x")
    assert expand("x[1].txt") == ["x[1].txt"]
    assert expand("https://x.org/a?b=1") == ["https://x.org/a?b=1"]


def test_remote_globs_are_expanded() -> None:
    import fsspec

    for name in ("b", "a"):
        with fsspec.open(f"memory://globbed/{name}.txt", "wb") as file:
            file.write(json.dumps(name).encode())
    assert [Path(url).name for url in expand("memory://globbed/*.txt")] == ["a.txt", "b.txt"]
