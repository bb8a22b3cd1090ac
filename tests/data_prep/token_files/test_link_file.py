"""Links of pairs come back as they were written, and a file that was not written whole or is another's is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.token_files.link_file import LinkFile, LinkFileWriter
from data_prep.token_files.mapped import mapped

LENGTHS = np.array([3, 2, 4, 5, 1, 1], dtype=np.int32)
LINKS = [[(0, 0), (0, 1), (2, 1)], [], [(0, 0)]]


def write(path: Path, links: list[list[tuple[int, int]]]) -> LinkFile:
    writer = LinkFileWriter(path)
    for of_pair in links:
        writer.add(np.array(of_pair, dtype=np.int64).reshape(-1, 2))
    assert writer.links == sum(map(len, links)) and not path.exists()
    record = writer.close()
    assert record["bytes"] == path.stat().st_size
    return LinkFile(path, mapped(path), len(links))


pairs = st.lists(
    st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), unique=True, max_size=9).map(sorted),
    min_size=1,
    max_size=9,
)


@given(pairs, st.data())
@settings(max_examples=30, deadline=None)
def test_links_come_back(
    tmp_path_factory: pytest.TempPathFactory, links: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    file = write(tmp_path_factory.mktemp("links") / "x.links", links)
    wanted = data.draw(st.lists(st.integers(0, len(links) - 1), max_size=12))
    place_K, links_K2 = file.read(np.array(wanted, dtype=np.int64), np.full((len(wanted), 2), 65536))
    expected = [(at, *link) for at, pair in enumerate(wanted) for link in links[pair]]
    assert [(at, *link) for at, link in zip(place_K.tolist(), links_K2.tolist(), strict=True)] == expected
    assert file.problems(np.full(2 * len(links), 65536, dtype=np.int64)) == []


def test_what_is_not_whole_or_of_another_token_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.links"
    file = write(path, LINKS)
    whole = path.read_bytes()
    assert file.problems(LENGTHS) == []
    with pytest.raises(ValueError, match=r"x\.links: has the links of 3 pairs, its token file has 2"):
        LinkFile(path, mapped(path), 2)
    for cut in (whole[:-1], whole[:10], whole[1:]):
        path.write_bytes(cut)
        with pytest.raises(ValueError, match=r"x\.links: .*run again the command that made it"):
            LinkFile(path, mapped(path), 3)


def test_links_outside_of_their_sentences_or_out_of_order_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.links"
    beyond = write(path, [[(0, 2)], [], []])
    assert beyond.problems(LENGTHS) == [f"{path}: a link lies outside of its sentences"]
    with pytest.raises(ValueError, match="do not lie within their sentences"):
        beyond.read(np.array([0]), LENGTHS[None, :2].astype(np.int64))
    path = tmp_path / "y.links"
    assert write(path, [[(1, 0), (0, 1)], [], []]).problems(LENGTHS) == [
        f"{path}: the links of a pair are not in ascending order"
    ]
    path = tmp_path / "z.links"
    write(path, LINKS)
    raw = bytearray(path.read_bytes())
    raw[16:24] = (99).to_bytes(8, "little")
    path.write_bytes(raw)
    broken = LinkFile(path, mapped(path), 3)
    assert broken.problems(LENGTHS) == [f"{path}: the pairs' links do not lie end to end"]
    with pytest.raises(ValueError, match="do not lie within their sentences"):
        broken.read(np.array([0]), LENGTHS[None, :2].astype(np.int64))
