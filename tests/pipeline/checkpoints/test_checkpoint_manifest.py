"""A checkpoint's manifest: nothing is read that it does not list, and nothing that is damaged."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoints.checkpoint import (
    MANIFEST,
    find,
    folder_of,
    prune,
    read_info,
    tag_of,
)
from tests.pipeline.checkpoints.checkpoint_kit import (
    DAMAGES,
    MODEL,
    cut_the_manifest,
    optimizer_shard,
    sealed,
    steps_of,
    write_archive,
    write_shards,
)


def as_older_version(checkpoint: Path, **changes: object) -> None:
    """Its manifest as schema 2 had it."""
    content = json.loads((checkpoint / MANIFEST).read_text())
    del content["checksum"], content["serial"]
    (checkpoint / MANIFEST).write_text(json.dumps({**content, "schema": 2, **changes}))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_the_file_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    checkpoint = sealed(tmp_path, 4)
    damage(checkpoint)
    with pytest.raises(ValueError, match=DAMAGES[damage]) as caught:
        read_info(checkpoint)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_manifest_is_not_complete(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a complete checkpoint \(manifest\.json is missing\)"):
        read_info(write_shards(tmp_path, 1))


def test_a_checkpoint_of_another_schema_is_refused(tmp_path: Path) -> None:
    checkpoint = sealed(tmp_path, 1)
    content = json.loads((checkpoint / MANIFEST).read_text())
    (checkpoint / MANIFEST).write_text(json.dumps({**content, "schema": 99}))
    with pytest.raises(ValueError, match="schema 99, this version reads 2 and 3"):
        read_info(checkpoint)


@pytest.mark.parametrize("content", ["[]", '{"schema": 2, "shards": []}'])
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json"):
        find(str(tmp_path), tmp_path / "run")


def test_a_checkpoint_whose_manifest_cannot_be_read_is_told_of_and_not_deleted(tmp_path: Path) -> None:
    damaged, newer = sealed(tmp_path, 1), sealed(tmp_path, 2)
    cut_the_manifest(damaged)
    text = (newer / MANIFEST).read_text()
    (newer / MANIFEST).write_text(text.replace('"schema": 3', '"schema": 4'))
    for step in (3, 4, 5):
        latest = sealed(tmp_path, step)
        prune(tmp_path, keep=1)
    found, notes = find("auto", tmp_path)
    assert found == latest and len(notes) == 2 and "schema 4" in notes[0] and "damaged" in notes[1]
    assert steps_of(tmp_path) == [tag_of(1), tag_of(2), tag_of(5)]


def test_checkpoints_of_older_versions_are_read_with_a_note_and_come_before_newer_ones(tmp_path: Path) -> None:
    for step in (3, 30):
        as_older_version(sealed(tmp_path, step))
    found, (note,) = find("auto", tmp_path)
    assert found == folder_of(tmp_path) / tag_of(30) and "older version, without a checksum" in note
    newer = sealed(tmp_path, 4)
    prune(tmp_path, keep=2)
    assert find("auto", tmp_path) == (newer, []) and steps_of(tmp_path) == [tag_of(4), tag_of(30)]


def test_every_flipped_bit_of_a_manifest_is_found(tmp_path: Path) -> None:
    previous, latest = sealed(tmp_path, 2), sealed(tmp_path, 4)
    path, expected = latest / MANIFEST, read_info(latest)
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found, notes = find("auto", tmp_path)
        if found == latest:  # JSON has more than one way to write a number
            assert read_info(latest) == expected and not notes
        else:
            assert found == previous and len(notes) == 1 and "\n" not in notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": "4"}, "step: Input should be a valid integer"),
        ({"step": -1}, "step: Input should be greater than or equal to 0"),
        ({"files": []}, "files: Input should be an object"),
        ({"files": {MODEL: {"bytes": [1]}}}, "files.mp_rank_00_model_states.pt.bytes"),
        ({"files": {}}, "does not list zero_pp_rank_0_mp_rank_00_optim_states.pt"),
        ({"config": 3}, "config: "),
        ({"colour": "blue"}, "colour: "),
        ({"world_size": 10**12}, "does not list zero_pp_rank_2_"),
    ],
)
def test_a_manifest_of_wrong_types_is_one_line(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    checkpoint = sealed(tmp_path, 4)
    as_older_version(checkpoint, **changes)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_info(checkpoint)
    assert "\n" not in str(caught.value) and str(checkpoint / MANIFEST) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"world_size": ' + "[" * 900 + "]" * 900 + "}", '{"world_size": "\\ud800"}']
)
def test_json_that_breaks_readers_is_one_line(tmp_path: Path, text: str) -> None:
    checkpoint = sealed(tmp_path, 4)
    (checkpoint / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json: (damaged|schema None)"):
        read_info(checkpoint)


def test_what_the_manifest_does_not_list_is_not_read(tmp_path: Path) -> None:
    checkpoint = sealed(tmp_path, 4)
    write_archive(checkpoint / optimizer_shard(7), "x")
    with pytest.raises(ValueError, match=r"rank_7_mp_rank_00_optim_states\.pt: is not listed in manifest\.json"):
        read_info(checkpoint)
    (checkpoint / optimizer_shard(7)).rename(checkpoint / "notes.txt")
    read_info(checkpoint)


def test_files_elsewhere_are_not_read(tmp_path: Path) -> None:
    checkpoint = sealed(tmp_path, 4)
    files = json.loads((checkpoint / MANIFEST).read_text())["files"]
    as_older_version(checkpoint, files={**files, "../../secret": files[MODEL]})
    with pytest.raises(ValueError, match=r"lists '\.\./\.\./secret', which is elsewhere"):
        read_info(checkpoint)
