"""YAML that people write: Norwegian is a language, 1e-4 a number, a key that stands twice an error; for every file we read."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data_prep.plan.mix import load_mix
from data_prep.sections import dump_yaml, parse_yaml, read_yaml
from pipeline.experiments.plan import read_experiment
from pipeline.settings.schema import load_config

TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=12)
"""Without control characters, some of which PyYAML's own writer loses at the end of a key (U+0085)."""
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("[en, no, yes, on, off, y, n]", ["en", "no", "yes", "on", "off", "y", "n"]),
        ("{no: 2}", {"no": 2}),
        ("1e-4", 1e-4),
        ("2E5", 2e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        (".inf", math.inf),
        ("200_000", 200_000),
        ("010", 10),
        ("0x1F", 31),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
    ],
)
def test_plain_values_are_what_they_look_like(text: str, value: object) -> None:
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


@given(VALUES)
def test_what_is_dumped_is_read_back(value: Any) -> None:
    assert parse_yaml(dump_yaml({"x": value})) == {"x": value}
    assert parse_yaml(dump_yaml({"x": value}, one_line=True)) == {"x": value}


TOKENS = st.sampled_from(
    [*"[]{}:,-?&*!|>'\"%@`#\n \t", ": ", "- ", "!!int ", "!!bool ", "!!timestamp ", "!!float ", "<<: ", "1", "a"]
)
"""What YAML is made of, and tags that a value may not fit."""


@given(st.lists(TOKENS | TEXT, max_size=20).map("".join))
def test_any_text_is_a_value_or_refused(text: str) -> None:
    with contextlib.suppress(yaml.YAMLError):
        parse_yaml(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: " + "1" * 5000, "line 2: '1+… is no whole number, or has too many digits"),
        ("a: !!int foo", "line 1: 'foo' is no whole number"),
        ("a: !!float x", "a value is not what its tag says"),
        ("a: !!bool x", "a value is not what its tag says"),
        ("a: !!timestamp x", "a value is not what its tag says"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    ],
)
def test_what_no_value_can_be_made_of_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"x\.yaml: not valid YAML: .*{message}") as caught:
        read_yaml(tmp_path / "x.yaml", "config")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_what_is_dumped_has_a_key_a_line() -> None:
    assert dump_yaml({"run": {"out": "r", "tags": ["a"]}}) == "run:\n  out: r\n  tags:\n  - a\n"
    assert dump_yaml({"run": {"out": "r"}}, one_line=True) == "{run: {out: r}}"


def test_other_readers_of_yaml_read_the_same_text() -> None:
    texts = ["no", "1e-4", "12:30", "2026-01-31", "on", "~", "010"]
    assert yaml.safe_load(dump_yaml(texts)) == texts


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "top:\n  a: 1\n  b: {c: 1}\n  a: 2\n", "{a: 1, b: 2, a: 3}"])
def test_a_key_that_stands_twice_is_refused_with_both_lines(text: str, tmp_path: Path) -> None:
    lines = [number for number, line in enumerate(text.splitlines(), start=1) if "a:" in line] * 2
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"the key a stands twice, in lines {lines[0]} and {lines[1]}; keep one"):
        read_yaml(tmp_path / "x.yaml", "config")


def test_every_file_that_people_write_is_read_in_this_dialect(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    config = "data: {path: d, weights: {mono: {en: 1, no: 2}}}\nrun: {out: r}\ndeepspeed: zero.json\n"
    path.write_text(config + "optimizer: {lr: 1e-4}\n", encoding="utf-8")
    loaded = load_config(path, ["data.weights.mono={no: 3}"])
    assert loaded.data.weights.mono == {"no": 3}
    assert loaded.optimizer.lr == 1e-4
    (tmp_path / "again.yaml").write_text(loaded.dump(), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml") == loaded.absolute()

    path.write_text("corpora:\n- {mono: no, files: no.txt}\n- {mono: [en, no], files: x}\n", encoding="utf-8")
    assert [corpus.mono for corpus in load_mix(path).corpora] == ["no", ["en", "no"]]

    experiment = "config: c.yaml\narms: {no: {optimizer.lr: 1e-4}}\nbaseline: no\ngold: [g]\n"
    path.write_text(experiment, encoding="utf-8")
    assert read_experiment(path).arms == {"no": {"optimizer.lr": 1e-4}}

    for text, read in ((config, load_config), ("corpora: []\n", load_mix), (experiment, read_experiment)):
        key = text.split(":")[0]
        path.write_text(f"{text}{key}: again\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"the key {key} stands twice"):
            read(path)
