"""What ranks send each other arrives as it was sent; what they do not send is refused, and runs nothing."""

import json
import pickle
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_prep.filters.bounds import MonoFilters, PairFilters
from data_prep.parallel import wire
from data_prep.plan import plan_sources
from data_prep.plan.cutter import ShardRange
from data_prep.plan.source_plan import ShardSettings, Source, SourcePlan
from data_prep.run import job
from data_prep.run.binarize import ShardResult
from data_prep.text.inputs import Records
from data_prep.text.records import Layout
from data_prep.text.source_files import SourceFile
from data_prep.text.stored import RemoteFile
from data_prep.tokenizers.tokenizer import Tokenizer

LAYOUT = Layout("jsonl", ("text",), True)
RECORDS = Records(RemoteFile("https://x/y.jsonl"), LAYOUT)
SOURCE = Source("mono", ("de",), (Path("/a b/\udcff"), RECORDS), ShardSettings(1, ("a",), MonoFilters(), LAYOUT))
PLAN = SourcePlan(
    SOURCE,
    ShardSettings(filters=PairFilters()),
    (SourceFile("n", 2**60, "s", "t", (1, 2)), SourceFile("m", 1, "s", "t", "etag")),
    (ShardRange(1, 2, (0, 3), (4, 5), False),),
    hashes=Path("h"),
)


@pytest.mark.parametrize(
    "value",
    [
        None,
        -(2**63),
        0.1,
        [True, {1, 2}, ("a", Path("b"))],
        Counter({"x": 2}),
        {1: {"y": {}}},
        SOURCE,
        PLAN,
        [(PLAN, {0, 7})],
        ShardResult("mono", 5, {"documents": 1, "languages": {"de": 3}}, {"long": 2}),
    ],
)
def test_values_arrive_as_they_were_sent(value: Any) -> None:
    arrived = wire.decode(wire.encode(value))
    assert arrived == value and type(arrived) is type(value)


def test_work_arrives_with_what_it_is_to_be_called_with(tokenizer_dir: Path) -> None:
    kept = Tokenizer.load(tokenizer_dir).kept_in(tokenizer_dir)
    for work in (partial(job._encode_share, kept, Path("d"), 2), partial(plan_sources._plan_share, 0.1, None, 2)):
        arrived, share = wire.decode(wire.encode((work, [(1, SOURCE)])))
        assert arrived.func is work.func and share == [(1, SOURCE)]
        assert getattr(arrived.args[0], "sha256", None) == getattr(work.args[0], "sha256", None)
        assert arrived.args[1:] == work.args[1:]


@pytest.mark.parametrize(
    ("sent", "part"),
    [
        ({"record": ["os:system", {"command": "id"}]}, "os:system, which is no record of this package"),
        ({"record": ["data_prep.files:locked", {}]}, "data_prep.files:locked, which is no record"),
        ({"record": ["data_prep.run.job:subprocess", {}]}, "which is no record"),
        ({"work": ["data_prep.data_dir.retire:unlink_all", []]}, "which is no work of this package"),
        ({"work": ["os:system", "id"]}, "which is no work of this package"),
        ({"code": "id"}, "'code', which is nothing that ranks send"),
    ],
)
def test_what_ranks_do_not_send_is_refused(sent: Any, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        wire.decode(json.dumps(sent).encode())


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    with pytest.raises(UnicodeDecodeError):
        wire.decode(pickle.dumps(Evil()))
    assert not (tmp_path / "ran").exists()


def test_what_no_rank_can_read_is_not_sent() -> None:
    with pytest.raises(AssertionError, match="does not travel between ranks"):
        wire.encode(object())
    with pytest.raises(AssertionError):
        wire.encode(partial(print, "x"))
