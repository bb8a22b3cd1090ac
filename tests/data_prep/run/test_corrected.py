"""A corpus that was corrected or renamed and given again is in the data once: refused, replaced or added; and taken out."""

import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.data_dir.remove import remove
from data_prep.data_dir.verify import find_problems
from data_prep.files import canonical_json, locked
from data_prep.plan.source_plan import ShardSettings, Source
from data_prep.run.job import JobOutcome, run_job
from data_prep.token_files.manifest import MANIFEST_NAME, Manifest, content_of
from data_prep.tokenizers.tokenizer import Tokenizer
from tests.data_prep.run.test_crashes import Killed, kill_at

Run = Callable[..., tuple[int, str, str]]
Files = Callable[[Path], dict[str, bytes]]

OLD, NEW = b"the cat\n" * 90, b"the cat sees\n" * 90


def without_locks(folder: Path, files_under: Files) -> dict[str, bytes]:
    return {name: content for name, content in files_under(folder).items() if not name.endswith(".lock")}


def names(data_dir: Path) -> list[str]:
    return [" + ".join(file["name"] for file in source["files"]) for source in Manifest.load(data_dir).sources]


def documents(data_dir: Path) -> int:
    return sum(shard.sequences for shard in Manifest.load(data_dir).shards)


@pytest.fixture
def corrected(mono: Run, tmp_path: Path) -> Path:
    """`text.txt` with new content, whose old content is in `data`."""
    path = tmp_path / "text.txt"
    path.write_bytes(OLD)
    assert mono(path)[0] == 0
    path.write_bytes(NEW)
    return path


def test_a_corrected_corpus_is_refused_with_the_choice(corrected: Path, mono: Run, tmp_path: Path) -> None:
    before = Manifest.load(tmp_path / "data").digest()
    for options in ((), ("--dry-run",)):
        code, _, err = mono(corrected, *options)
        assert (code, err.count("error:")) == (1, 1)
        assert "text.txt: " in err and "holds a source of this name with other content" in err
        assert "--replace" in err and "--add" in err
    assert Manifest.load(tmp_path / "data").digest() == before


def test_replaced_it_is_in_the_data_alone(
    corrected: Path, mono: Run, run: Run, tokenizer_dir: Path, tmp_path: Path, files_under: Files
) -> None:
    code, out, _ = mono(corrected, "--replace")
    assert (code, "1 outdated removed" in out) == (0, True)
    assert run("mono", corrected, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "fresh")[0] == 0
    assert without_locks(tmp_path / "data", files_under) == without_locks(tmp_path / "fresh", files_under)
    assert "1 already present, 0 outdated" in mono(corrected)[1], "what is in the folder needs no choice"


def test_added_both_are_in_the_data_and_repetitions_change_nothing(
    corrected: Path, mono: Run, tmp_path: Path, files_under: Files
) -> None:
    assert mono(corrected, "--add")[0] == 0
    assert (names(tmp_path / "data"), documents(tmp_path / "data")) == (["text.txt"] * 2, 180)
    before = files_under(tmp_path / "data")
    assert mono(corrected)[0] == 0
    corrected.write_bytes(OLD)
    assert mono(corrected)[0] == 0
    assert files_under(tmp_path / "data") == before


def test_replace_and_add_exclude_each_other(corrected: Path, mono: Run) -> None:
    assert "--replace and --add: one or the other" in mono(corrected, "--replace", "--add")[2]


@pytest.mark.parametrize("name", ["other.txt", "text.txt.xz", "bom.txt"])
def test_the_same_text_under_another_name_is_refused_replaced_or_added(name: str, mono: Run, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(OLD)
    content = {"text.txt.xz": lzma.compress(OLD), "bom.txt": b"\xef\xbb\xbf" + OLD}.get(name, OLD)
    (tmp_path / name).write_bytes(content)
    assert mono(tmp_path / "text.txt")[0] == 0
    code, _, err = mono(tmp_path / name)
    assert (code, err.count("error:")) == (1, 1)
    assert f"{name}: {tmp_path / 'data'} holds the same text, as text.txt" in err
    assert mono(tmp_path / name, "--replace")[0] == 0
    assert names(tmp_path / "data") == [name]
    assert mono(tmp_path / "text.txt", "--add")[0] == 0
    assert sorted(names(tmp_path / "data")) == sorted([name, "text.txt"])


def test_two_files_of_one_text_in_one_run_are_refused_or_added(mono: Run, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(OLD)
    code, _, err = mono(tmp_path / "a.txt", tmp_path / "b.txt", "--replace")
    assert (code, err.count("error:")) == (1, 1)
    assert "a.txt: the same text as b.txt; leave one out, or take both with --add" in err
    assert mono(tmp_path / "a.txt", tmp_path / "b.txt", "--add")[0] == 0
    assert names(tmp_path / "data") == ["a.txt", "b.txt"]


def test_files_of_one_name_in_several_folders_are_several_sources(mono: Run, tmp_path: Path) -> None:
    for folder, content in (("a", OLD), ("b", NEW)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "part.txt").write_bytes(content)
    both = (tmp_path / "a" / "part.txt", tmp_path / "b" / "part.txt")
    assert mono(*both)[0] == 0
    assert mono(*both)[0] == 0
    both[1].write_bytes(NEW + b"more\n")
    assert "(mono/de/part.txt-" in mono(*both)[2]
    assert mono(*both, "--replace")[0] == 0
    assert (names(tmp_path / "data"), documents(tmp_path / "data")) == (["part.txt"] * 2, 181)


def test_the_other_language_or_kind_is_another_source(parallel: Run, mono: Run, tmp_path: Path) -> None:
    (tmp_path / "x.en").write_bytes(OLD)
    (tmp_path / "x.de").write_bytes(NEW)
    assert parallel(tmp_path / "x.en", tmp_path / "x.de")[0] == 0
    assert mono(tmp_path / "x.en", lang="en")[0] == 0
    assert mono(tmp_path / "x.de")[0] == 0


def test_the_same_pairs_the_other_way_round_and_a_corrected_side_are_noticed(parallel: Run, tmp_path: Path) -> None:
    (tmp_path / "x.en").write_bytes(OLD)
    (tmp_path / "x.de").write_bytes(NEW)
    assert parallel(tmp_path / "x.en", tmp_path / "x.de")[0] == 0
    assert "the same text, as x.en + x.de" in parallel(tmp_path / "x.de", tmp_path / "x.en", pair="de-en")[2]
    (tmp_path / "x.de").write_bytes(NEW.replace(b"cat", b"dog"))
    assert "with other content" in parallel(tmp_path / "x.en", tmp_path / "x.de")[2]


def test_a_mix_has_the_same_choices(corrected: Path, run: Run, tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text(f"corpora: [{{mono: de, files: {corrected}}}]")
    command = ("mix", tmp_path / "mix.yaml", "--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    assert "with other content" in run(*command)[2]
    assert run(*command, "--replace")[0] == 0
    assert documents(tmp_path / "data") == 90


def test_folders_with_two_versions_of_a_source_are_not_merged_unless_asked(
    corrected: Path, run: Run, tokenizer_dir: Path, tmp_path: Path
) -> None:
    assert run("mono", corrected, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", tmp_path / "b")[0] == 0
    command = ("merge", tmp_path / "data", tmp_path / "b", "--out", tmp_path / "all")
    code, _, err = run(*command)
    assert (code, "text.txt: with different content in" in err) == (1, True)
    assert run(*command, "--add")[0] == 0
    assert documents(tmp_path / "all") == 180


# taking out


def test_a_removed_source_leaves_the_folder_as_if_it_had_never_been_there(
    mono_file: Path, mono: Run, run: Run, tmp_path: Path, files_under: Files
) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"the cat\nb\xffd\n" + b"x" * 40 + b"\n")
    assert mono(mono_file)[0] == 0
    before = without_locks(tmp_path / "data", files_under)
    assert mono(bad, "--max-bad-rate", 0.5, "--max-characters", 20)[0] == 0
    assert len(without_locks(tmp_path / "data", files_under)) > len(before)
    code, out, _ = run("remove", tmp_path / "data", bad)
    assert (code, "removed, 1 shards" in out) == (0, True)
    assert without_locks(tmp_path / "data", files_under) == before


def test_a_source_is_named_by_file_or_stem_and_several_of_a_name_are_told(
    corrected: Path, mono: Run, run: Run, tmp_path: Path
) -> None:
    assert mono(corrected, "--add")[0] == 0
    data = tmp_path / "data"
    stems = [source["stem"].rpartition("-")[0] for source in Manifest.load(data).sources]
    code, _, err = run("remove", data, "text.txt")
    assert (code, err.count("error:")) == (1, 1)
    assert "several sources have this name" in err and all(stem in err for stem in stems)
    assert run("remove", data, stems[0])[0] == 0
    assert "no such source" in run("remove", data, "nothing.txt")[2]
    assert run("remove", data, "text.txt")[0] == 0
    assert Manifest.load(data).shards == []


def test_removing_says_that_dropped_repetitions_stay_dropped(mono: Run, run: Run, tmp_path: Path) -> None:
    for name, text in (("a.txt", b"the cat\n"), ("b.txt", b"the cat\na dog\n")):
        (tmp_path / name).write_bytes(text)
    assert mono(tmp_path / "a.txt", tmp_path / "b.txt", "--drop-duplicates", "lines")[0] == 0
    assert "note: sources that dropped text as repeated" in run("remove", tmp_path / "data", "a.txt")[2]


# dying


def source(path: Path) -> Source:
    return Source("mono", ("de",), (path,), ShardSettings(300))


def lies(data_dir: Path) -> list[str]:
    stale = ("not what the shards' markers say",)
    return [problem for problem in find_problems(data_dir) if not any(part in problem for part in stale)]


def listed(data_dir: Path) -> set[str]:
    """What a run on another source would write into the manifest now."""
    return {record["stem"].rpartition("-")[0] for record in content_of(data_dir)["shards"]}


@pytest.fixture
def versions(tokenizer_dir: Path, tmp_path: Path) -> Callable[[Path, bytes], JobOutcome]:
    """Put this version of `text.txt` into a data folder."""

    def put(data_dir: Path, content: bytes) -> JobOutcome:
        (tmp_path / "text.txt").write_bytes(content)
        return run_job([source(tmp_path / "text.txt")], tokenizer_dir, data_dir, 1, 0.0, choice="replace")

    return put


def test_a_replacement_that_dies_at_any_step_lists_one_version_and_can_be_repeated(
    versions: Callable[[Path, bytes], JobOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_under: Files
) -> None:
    old, data_dir = tmp_path / "old", tmp_path / "data"
    versions(old, OLD)
    versions(tmp_path / "new", NEW)
    expected = without_locks(tmp_path / "new", files_under)
    digests = {Manifest.load(folder).digest() for folder in (old, tmp_path / "new")}
    step, died, seen = 0, True, set()
    while died:
        shutil.rmtree(data_dir, ignore_errors=True)
        shutil.copytree(old, data_dir)
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            try:
                versions(data_dir, NEW)
                died = False
            except Killed:
                step += 1
        assert Manifest.load(data_dir).digest() in digests, step
        assert not lies(data_dir), step
        assert len(listed(data_dir)) == 1, step
        seen |= listed(data_dir)
        if step % 3 == 0:
            # settings may change before it is repeated: the old version must not come back
            remove_and_repeat(data_dir, versions, files_under, expected, step)
        else:
            versions(data_dir, NEW)
            assert without_locks(data_dir, files_under) == expected, step
    assert (step > 10, len(seen)) == (True, 2)


def remove_and_repeat(
    data_dir: Path,
    versions: Callable[[Path, bytes], JobOutcome],
    files_under: Files,
    expected: dict[str, bytes],
    step: int,
) -> None:
    """Whatever is listed is taken out; nothing of either version may come back, and the new one can be made."""
    for stem in listed(data_dir):
        remove(data_dir, stem)
    assert not listed(data_dir), step
    assert Manifest.load(data_dir).shards == []
    versions(data_dir, NEW)
    assert canonical_json(content_of(data_dir)) == expected[MANIFEST_NAME], step


def test_a_removal_that_dies_at_any_step_can_be_repeated(
    versions: Callable[[Path, bytes], JobOutcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    full, data_dir = tmp_path / "full", tmp_path / "data"
    versions(full, OLD)
    step, died = 0, True
    while died:
        shutil.rmtree(data_dir, ignore_errors=True)
        shutil.copytree(full, data_dir)
        with monkeypatch.context() as patch:
            kill_at(step, patch)
            try:
                remove(data_dir, "text.txt")
                died = False
            except Killed:
                step += 1
        assert not lies(data_dir), step
        if died and list(data_dir.glob("mono/de/*")):
            remove(data_dir, "text.txt")
        assert Manifest.load(data_dir).shards == []
        assert not list(data_dir.glob("mono/de/*")), step
    assert step > 5


def test_a_source_at_work_is_not_removed(versions: Callable[[Path, bytes], JobOutcome], tmp_path: Path) -> None:
    versions(tmp_path / "data", OLD)
    (lock,) = (tmp_path / "data" / "locks").glob("mono-*.lock")
    with locked(lock, wait=False), pytest.raises(ValueError, match="held by another run"):
        remove(tmp_path / "data", "text.txt")
    assert documents(tmp_path / "data") == 90
