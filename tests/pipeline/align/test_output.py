"""The forms of links, line by line, and that they are read again as what they were."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.align.link_files import read_links
from pipeline.align.output import Writing, unlinked_words

LINKS = {(0, 1): 0.91234, (2, 0): 0.4}
WORDS = (["ein", "Hund", "„lief“"], ["ran", "a"])
NAMED = "ein a\t„lief“ ran\n"


@pytest.mark.parametrize(
    ("writing", "text"),
    [
        (Writing(), "0-1 2-0\n"),
        (Writing(scores=True), "0-1:0.9123 2-0:0.4000\n"),
        (Writing(words=True), NAMED),
        (Writing(words=True, scores=True), "ein a 0.9123\t„lief“ ran 0.4000\n"),
        (Writing("talp"), "1-2 3-1\n"),
        (Writing("talp", sure=0.5), "1-2 3p1\n"),
        (Writing("pharaoh", scores=True, sure=0.5), "0-1:0.9123 2p0:0.4000\n"),
        (Writing("pharaoh", least=0.5), "0-1\n"),
        (Writing("naacl"), "7 1 2 S\n7 3 1 S\n"),
        (Writing("naacl", scores=True, sure=0.5), "7 1 2 S 0.9123\n7 3 1 P 0.4000\n"),
        (Writing("naacl", unlinked=True, least=0.5), "7 1 2 S\n7 2 0\n7 3 0\n7 0 1\n"),
        (Writing("tsv"), "7\t0\t1\tein\ta\t0.9123\n7\t2\t0\t„lief“\tran\t0.4000\n"),
        (Writing("tsv", unlinked=True), "7\t0\t1\tein\ta\t0.9123\n7\t2\t0\t„lief“\tran\t0.4000\n7\t1\t\tHund\t\t\n"),
        (Writing("json"), {"source": WORDS[0], "target": WORDS[1], "links": [[0, 1], [2, 0]], "scores": [0.9123, 0.4]}),
        (
            Writing("json", unlinked=True, least=0.5),
            {
                "source": WORDS[0],
                "target": WORDS[1],
                "links": [[0, 1]],
                "scores": [0.9123],
                "unlinked_source": [1, 2],
                "unlinked_target": [0],
            },
        ),
    ],
)
def test_every_form(writing: Writing, text: str | dict[str, object]) -> None:
    found = LINKS if writing.needs_scores else list(LINKS)
    written = writing.text(7, found, WORDS if writing.needs_words else None)
    assert written.endswith("\n")
    assert (json.loads(written) if isinstance(text, dict) else written) == text
    assert writing.left_out == (writing.least is not None)


@pytest.mark.parametrize("form", ["pharaoh", "talp", "naacl", "json", "tsv"])
def test_a_pair_without_links_has_a_line_where_a_line_is_a_pair(form: str) -> None:
    written = Writing(form).text(1, {} if form in ("json", "tsv") else [], ([], []))
    assert len(written.splitlines()) == (form in ("pharaoh", "talp", "json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "moses"}, "--format moses: choose pharaoh, talp, naacl, json, tsv"),
        ({"format": "json", "words": True}, "--words --format json: words take the place of numbers"),
        (
            {"unlinked": True},
            "--null: pharaoh has no form for a word without links; give --format naacl or json or tsv",
        ),
        ({"format": "tsv", "sure": 0.5}, "by --format pharaoh, talp or naacl alone"),
        ({"least": 1.5}, "--min-score 1.5: a score is a cosine; give one from -1 to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Writing(**options)  # type: ignore[arg-type]


CELLS = st.tuples(st.integers(0, 4), st.integers(0, 3))
PAIRS = st.lists(st.dictionaries(CELLS, st.integers(0, 100).map(lambda score: score / 100)), min_size=1, max_size=5)


@settings(deadline=None)
@given(pairs=PAIRS, form=st.sampled_from(["pharaoh", "talp", "naacl"]), scores=st.booleans(), null=st.booleans())
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory,
    pairs: list[dict[tuple[int, int], float]],
    form: str,
    scores: bool,
    null: bool,
) -> None:
    writing = Writing(form, scores=scores, unlinked=null and form == "naacl", sure=0.5)
    words = ([str(i) for i in range(5)], [str(j) for j in range(4)])
    path = tmp_path_factory.mktemp("links") / "a.links"
    lines = [
        writing.text(number, links, words if writing.needs_words else None) for number, links in enumerate(pairs, 1)
    ]
    path.write_text("".join(lines))
    if not any(pairs) and form == "naacl" and not null:
        return  # an empty file is of no form
    found = read_links(path, len(pairs), from_one=form != "pharaoh")
    assert found.possible == [set(links) for links in pairs]
    assert found.sure == [{link for link, score in links.items() if score >= 0.5} for links in pairs]
    assert found.scored == [dict(sorted((link, score * scores) for link, score in links.items())) for links in pairs]


def test_a_table_reads_as_tables_do() -> None:
    writing = Writing("tsv", unlinked=True)
    text = writing.head + writing.text(1, LINKS, WORDS)
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [(row["source"], row["target"], row["score"]) for row in rows] == [
        ("ein", "a", "0.9123"),
        ("„lief“", "ran", "0.4000"),
        ("Hund", "", ""),
    ]


@settings(deadline=None)
@given(st.sets(CELLS))
def test_a_word_is_linked_or_not(links: set[tuple[int, int]]) -> None:
    words = (["x"] * 5, ["y"] * 4)
    sources, targets = unlinked_words(links, words)
    assert sorted([*sources, *{i for i, _ in links}]) == list(range(5))
    assert sorted([*targets, *{j for _, j in links}]) == list(range(4))
