"""What filters drop is counted per source, and shown by `inspect` as a table, as samples and as a picture."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.filters.bounds import MonoFilters
from data_prep.filters.language_id import LanguageFilter, check_known, labels_of
from data_prep.run.binarize import SAMPLES_PER_REASON
from data_prep.token_files.manifest import Manifest

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]

GERMAN = "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter in Berlin und Hamburg."
ENGLISH = "This is a perfectly ordinary English sentence about the weather in London and Leeds."


@pytest.fixture
def data_dir(tokenizer_dir: Path, tmp_path: Path, run: Run, mono_file: Path) -> Path:
    """A folder with two sources of pairs, of which filters drop some, and one of text."""
    for name in ("x", "y"):
        pairs = [("the cat", "a dog"), ("", "a"), ("red", "red"), ("cat " * 50, "dog " * 50), ("the", "big " * 11)]
        pairs += [(f"{name} \u200b", "same")] * (2 if name == "x" else 0) + [("red house", name)] * 5
        for side, language in enumerate(("en", "de")):
            (tmp_path / f"{name}.{language}").write_text("".join(f"{pair[side]}\n" for pair in pairs))
        files = (tmp_path / f"{name}.en", tmp_path / f"{name}.de")
        options = ("--out", tmp_path / "data", "--max-tokens", 40, "--drop-duplicates", "--shard-bytes", 200)
        assert run("parallel", *files, "--pair", "en-de", "--tokenizer", tokenizer_dir, *options)[0] == 0
    text = tmp_path / "bad.txt"
    text.write_bytes(b"the cat\x1b[0m\n" + "a dog \ufffd\n".encode() + b"red house\n" + b"big " * 30 + b"\n")
    options = ("--out", tmp_path / "data", "--drop-control", "--max-characters", 100)
    assert run("mono", text, mono_file, "--lang", "de", "--tokenizer", tokenizer_dir, *options)[0] == 0
    return tmp_path / "data"


def test_each_filters_counts_per_source_stand_in_the_manifest(data_dir: Path) -> None:
    dropped = {source["files"][0]["name"]: source["dropped"] for source in Manifest.load(data_dir).sources}
    assert dropped == {
        "bad.txt": {"control_characters": 2, "too_long": 1},
        "text.txt": {},
        "x.en": {"duplicate": 5, "empty": 1, "identical": 1, "length_ratio": 1, "too_long": 1},
        "y.en": {"duplicate": 4, "empty": 1, "identical": 1, "length_ratio": 1, "too_long": 1},
    }


def test_inspect_shows_the_counts_as_a_table(data_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = run("inspect", data_dir)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "x.en + x.de" in line]
    assert code == 0
    assert rows == [["en-de", "x.en + x.de", "12", "0", "5", "1", "1", "1", "1"]]
    names = next(line for line in out.splitlines() if "control_characters" in line and "source" in line)
    assert names.split("┃")[3:-1] and [name.strip() for name in names.split("┃")[3:-1]] == [
        "lines",
        "control_characters",
        "duplicate",
        "empty",
        "identical",
        "length_ratio",
        "too_long",
    ]


def test_samples_show_what_was_kept_and_what_each_filter_dropped(data_dir: Path, run: Run) -> None:
    code, out, _ = run("inspect", data_dir, "--samples", 2)
    lines = out.splitlines()
    assert code == 0
    assert "en-de kept: the cat ||| a dog" in lines
    assert "en-de dropped, identical: red ||| red" in lines
    assert (
        lines.count("en-de dropped, duplicate: red house ||| x")
        + lines.count("en-de dropped, duplicate: x \u200b ||| same")
        == 2
    )
    assert "de dropped, control_characters: the cat\x1b[0m" in lines
    assert sum(line.startswith("de kept: ") for line in lines) == 2
    samples = json.loads(run("inspect", data_dir, "--samples", 1, "--json")[1])["samples"]
    assert {"data": "en-de", "why": "dropped, identical", "text": ["red", "red"]} in samples


def test_few_samples_are_kept_and_their_text_is_cut(data_dir: Path) -> None:
    paths = list((data_dir / "dropped").rglob("*.jsonl"))
    records = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert max(len(text) for record in records for text in record["text"]) <= 300
    for path in paths:
        reasons = [json.loads(line)["reason"] for line in path.read_text().splitlines()]
        assert max(map(reasons.count, reasons)) <= SAMPLES_PER_REASON


def test_other_settings_replace_the_samples_too(
    data_dir: Path, tokenizer_dir: Path, tmp_path: Path, run: Run, files_under: Files
) -> None:
    before = files_under(data_dir)
    command = ("mono", tmp_path / "bad.txt", "--lang", "de", "--tokenizer", tokenizer_dir, "--out", data_dir)
    assert run(*command)[0] == 0
    assert not list((data_dir / "dropped" / "mono").rglob("*.jsonl"))
    assert run(*command, "--drop-control", "--max-characters", 100)[0] == 0
    assert files_under(data_dir) == before


def test_a_picture_is_drawn_and_the_same_twice(data_dir: Path, run: Run, tmp_path: Path) -> None:
    assert run("inspect", data_dir, "--picture", tmp_path / "a.png")[0] == 0
    assert run("inspect", data_dir, "--picture", tmp_path / "b.png")[0] == 0
    content = (tmp_path / "a.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(content) > 10_000
    assert content == (tmp_path / "b.png").read_bytes()


def test_mono_filters_are_off_by_default_and_keep_white_space_characters() -> None:
    assert MonoFilters().drop_text("\x00\x1b" + "x" * 100_000) is None
    filters = MonoFilters(drop_control=True, max_characters=20)
    assert filters.drop_text("a\tb\rc\u0085d\u2028e\u200bf") is None
    assert filters.drop_text("a\x9fb") == "control_characters"
    assert filters.drop_text("x" * 21) == "too_long"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"max_characters": 0}, "--max-characters 0"), ({"min_language_probability": 1.5}, "--lang-id 1.5")],
)
def test_a_bound_of_cleaning_out_of_range_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MonoFilters(**options)


def test_language_codes_are_mapped_to_the_models() -> None:
    assert labels_of("zh_Hans") == ("zh", "wuu", "yue")
    assert labels_of("nb") == ("no", "nn")
    assert labels_of("de_AT") == ("de",)
    for unknown in ("hi_rom", "tlh"):
        with pytest.raises(ValueError, match=f"does not know {unknown}"):
            check_known(("de", unknown))


def test_texts_of_another_language_are_told_and_doubtful_ones_are_not() -> None:
    german = LanguageFilter("de", 0.8)
    assert german.is_other(ENGLISH)
    assert not german.is_other(GERMAN)
    assert not german.is_other("OK")
    assert not german.is_other("12345")


def test_lang_id_drops_lines_and_pairs(tokenizer_dir: Path, tmp_path: Path, run: Run) -> None:
    for name, lines in (("de", [GERMAN, ENGLISH, GERMAN]), ("en", [ENGLISH, ENGLISH + " Yes.", GERMAN + " Ja."])):
        (tmp_path / name).write_text("\n".join(lines))
    options = ("--tokenizer", tokenizer_dir, "--out", tmp_path / "data", "--lang-id", 0.8)
    assert run("mono", tmp_path / "de", "--lang", "de", *options)[0] == 0
    pair = ("parallel", tmp_path / "de", tmp_path / "en", "--max-tokens", 999)
    assert run(*pair, "--pair", "de-en", *options)[0] == 0
    assert [source["dropped"] for source in Manifest.load(tmp_path / "data").sources] == [
        {"language": 1},
        {"language": 2},
    ]
    code, _, err = run(*pair, "--pair", "de-tlh", *options)
    assert (code, err.count("error:")) == (1, 1)
    assert "does not know tlh" in err
