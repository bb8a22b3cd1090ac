"""Shards are cut by input bytes at boundaries, cover the source exactly, and a bad source fails before any is made."""

from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.filters.bounds import PairFilters
from data_prep.plan.make_plan import make_plan
from data_prep.plan.source_plan import ShardSettings, Source, SourcePlan
from data_prep.text.readers import is_blank, split_lines


def texts_of(plan: SourcePlan, index: int) -> tuple[bytes, ...]:
    return tuple(b"".join(piece.blocks()) for piece in plan.text(index))


def documents_in(text: bytes) -> list[list[bytes]]:
    """Runs of lines between blank ones."""
    return [list(run) for blank, run in groupby(split_lines(text), is_blank) if not blank]


lines = st.lists(st.sampled_from([b"", b"a", b"bb cc", b"d" * 9, "é日".encode()]), min_size=1, max_size=40)


def plan_of(paths: tuple[Path, ...], shard_bytes: int, kind: str = "mono", max_bad_rate: float = 0.0) -> SourcePlan:
    languages = ("de",) if kind == "mono" else ("en", "de")
    chosen = ShardSettings(shard_bytes, (), None if kind == "mono" else PairFilters())
    return make_plan(Source(kind, languages, paths), chosen, max_bad_rate)


@settings(max_examples=60, deadline=None)
@given(lines=lines, shard_bytes=st.integers(10, 60))
def test_shards_of_documents_put_together_are_the_source(
    lines: list[bytes], shard_bytes: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("plan") / "text"
    path.write_bytes(b"first\n" + b"\n".join(lines))
    plan = plan_of((path,), shard_bytes)
    pieces = [texts_of(plan, index)[0] for index in range(len(plan.ranges))]
    assert b"".join(pieces) == path.read_bytes()
    assert [len(split_lines(text)) for text in pieces] == [shard.lines for shard in plan.ranges]
    whole = documents_in(path.read_bytes())
    cut = [document for text in pieces for document in documents_in(text)]
    continued = sum(shard.continues_document for shard in plan.ranges)
    assert len(cut) == len(whole) + continued
    assert continued or cut == whole


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_shards_of_pairs_keep_both_files_in_step(
    pairs: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "s").write_text("x\n" + "".join(f"{'s' * source}\n" for source, _ in pairs))
    (folder / "t").write_text("y\n" + "".join(f"{'t' * target}\n" for _, target in pairs))
    plan = plan_of((folder / "s", folder / "t"), 20, "pair")
    for index, shard in enumerate(plan.ranges):
        source, target = texts_of(plan, index)
        assert len(split_lines(source)) == len(split_lines(target)) == shard.lines
    assert sum(shard.lines for shard in plan.ranges) == len(pairs) + 1


def test_a_shard_ends_at_the_first_document_boundary_from_its_size_on(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"aaaa\n\nbbbb\ncc\n\ndd\n")
    plan = plan_of((tmp_path / "text",), 8)
    assert [(shard.first_line, shard.starts, shard.ends) for shard in plan.ranges] == [
        (1, (0,), (15,)),
        (6, (15,), (18,)),
    ]


def test_a_document_of_two_shards_is_cut_at_a_line_and_that_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"aaaa\n" * 10)
    plan = plan_of((tmp_path / "text",), 10)
    assert [shard.lines for shard in plan.ranges] == [4, 4, 2]
    assert [shard.continues_document for shard in plan.ranges] == [False, True, True]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfhello\n")
    plan = plan_of((tmp_path / "text",), 100)
    assert plan.ranges[0].starts == (3,)
    assert texts_of(plan, 0) == (b"hello\n",)


def test_a_shard_is_read_alone(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"a\n\nb\n\nc\n")
    plan = plan_of((tmp_path / "text",), 1)
    assert texts_of(plan, 1) == (b"b\n\n",)


def test_files_of_the_same_name_and_other_content_have_other_stems(tmp_path: Path) -> None:
    stems = []
    for folder, text in (("x", b"one\n"), ("y", b"two\n"), ("z", b"one\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text").write_bytes(text)
        stems.append(plan_of((tmp_path / folder / "text",), 100).stem(0))
    assert stems[0] == stems[2] != stems[1]
    assert stems[0].startswith("mono/de/text-")


def test_bad_lines_up_to_the_rate_pass_and_more_fail(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"good\n" * 8 + b"b\xffd\n" + b"n\x00l\n")
    assert len(plan_of((path,), 100, max_bad_rate=0.2).ranges) == 1
    with pytest.raises(
        ValueError, match=r"text:9: invalid_utf8 .* first of 2 bad lines in 10, above --max-bad-rate 0.1"
    ):
        plan_of((path,), 100, max_bad_rate=0.1)
    with pytest.raises(ValueError, match=r"text:9: invalid_utf8 in b'b\\xffd.*--max-bad-rate"):
        plan_of((path,), 100)


def test_a_character_cut_between_two_files_is_still_invalid(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"a\xc3")
    (tmp_path / "t").write_bytes(b"\xa9b")
    with pytest.raises(ValueError, match="s:1: invalid_utf8"):
        plan_of((tmp_path / "s", tmp_path / "t"), 100, "pair")


def test_a_source_that_changes_after_the_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"aaaa\n" * 10)
    plan = plan_of((tmp_path / "text",), 100)
    (tmp_path / "text").write_bytes(b"aaaa\n")
    with pytest.raises(ValueError, match="changed while it was read"):
        texts_of(plan, 0)
