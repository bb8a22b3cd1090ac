"""The native backend's own: it compiles where it can, says so where it cannot, and threads change nothing."""

import ctypes
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sinkhorn_align import AlignmentSettings, Spans, align, operator
from sinkhorn_align.agreement import compare
from sinkhorn_align.cpu import compiled, native

PAIR = Spans(*(torch.tensor([number], dtype=torch.int32) for number in (0, 3, 3, 3)))


@pytest.fixture
def uncompiled(monkeypatch, tmp_path):
    """As on a machine where nothing has been compiled yet, with an empty cache folder."""
    monkeypatch.setenv("SINKHORN_ALIGN_CACHE", str(tmp_path / "cache"))
    for cached in (native.library, operator._best_on):
        cached.cache_clear()
    yield tmp_path / "cache"
    for cached in (native.library, operator._best_on):
        cached.cache_clear()


def test_native_is_what_a_cpu_gets(correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=1, pairs=20))
    chosen, native_links = align(*batch), align(*batch, backend="native")
    assert torch.equal(chosen.score_T, native_links.score_T)
    assert operator._best_on("cpu") == "native"


@pytest.mark.parametrize("width", [1, 3, 8, 15, 16, 17, 33])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_every_width_and_length_around_a_vector_register_equals_the_reference(
    width, similarity, correlated_pairs, lay_out
):
    temperature = 0.1 if similarity == "cosine" else float(width)
    settings = AlignmentSettings(cost="exp", similarity=similarity, temperature=temperature)
    batch = lay_out(correlated_pairs(seed=width, pairs=30, width=width, shortest=1, longest=35))
    agreement = compare(align(*batch, settings, backend="native"), *batch, settings)
    assert not agreement.wrong
    # One number a token makes many rows alike.
    assert len(agreement.too_close) <= (30 if width < 4 else 3)


def test_sides_of_a_thousand_tokens_equal_the_reference(correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=3, pairs=2, shortest=1000, longest=1100))
    assert not compare(align(*batch, backend="native"), *batch).wrong


def test_links_do_not_depend_on_the_number_of_threads(correlated_pairs, lay_out):
    batch = lay_out(correlated_pairs(seed=4, pairs=300, width=256))
    before = torch.get_num_threads()
    try:
        answers = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            answers.append(align(*batch, backend="native"))
    finally:
        torch.set_num_threads(before)
    for answer in answers[1:]:
        assert torch.equal(answer.links_RT, answers[0].links_RT)
        assert torch.equal(answer.score_T, answers[0].score_T)
    assert len(native._shares(_spans(batch), 256, 7)) == 7, "all threads had work"


def test_a_forked_process_has_threads_of_its_own(correlated_pairs, lay_out):
    hidden_TD, spans = lay_out(correlated_pairs(seed=4, pairs=300, width=256))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = align(hidden_TD, spans, backend="native")
        child = os.fork()
        if child == 0:  # nothing of pytest may run here
            # `checked` would use PyTorch's own threads, which a fork breaks.
            on_host = Spans(*(vector.long() for vector in spans))
            answer = native.align_native(hidden_TD, on_host, AlignmentSettings())
            os._exit(0 if torch.equal(answer.partner_T, expected.partner_T) else 1)
        end = time.monotonic() + 60
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
            time.sleep(0.01)
        if ended == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert ended == (child, 0)
    finally:
        torch.set_num_threads(before)


def _spans(batch):
    return batch[1].checked(len(batch[0]))


def test_shares_hold_every_pair_once_and_none_is_much_larger_than_its_part(correlated_pairs, lay_out):
    spans = _spans(lay_out(correlated_pairs(seed=4, pairs=300)))
    shares = native._shares(spans, 4096, 4)
    assert [first for first, _ in shares] == [0, *(last for _, last in shares[:-1])] and shares[-1][1] == 300
    work = [int((spans.source_length_B * spans.target_length_B)[first:last].sum()) for first, last in shares]
    assert max(work) < 1.2 * sum(work) / 4


def test_ranks_that_start_together_compile_without_disturbing_each_other(tmp_path):
    path = tmp_path / "native.so"
    with ThreadPoolExecutor(3) as ranks:
        list(ranks.map(lambda _: compiled.compile_into(["cc"], native.SOURCE, path), range(3)))
    assert list(tmp_path.iterdir()) == [path], "nothing half-made is left"
    assert compiled.is_whole(path) and ctypes.CDLL(str(path)).align_pairs


def test_without_a_compiler_auto_warns_once_and_takes_pytorch(monkeypatch, uncompiled):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.warns(
        UserWarning, match="no-such-compiler .*install a C compiler or set CC.*backend 'torch', which is slow"
    ):
        links = align(torch.eye(3).repeat(2, 1), PAIR)
    assert links.partner_T.tolist() == [3, 4, 5, 0, 1, 2]
    align(torch.eye(3).repeat(2, 1), PAIR)


def test_without_a_compiler_native_is_refused_with_the_mend(monkeypatch, uncompiled):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(ValueError, match=r"cannot be compiled by no-such-compiler .*set CC.* or use backend='torch'"):
        align(torch.eye(3).repeat(2, 1), PAIR, backend="native")


def test_a_compiler_that_fails_is_quoted(monkeypatch, uncompiled):
    monkeypatch.setenv("CC", "cc --no-such-option")
    with pytest.raises(ValueError, match=r"`cc --no-such-option .* failed: .*no-such-option.*use backend='torch'"):
        align(torch.eye(3).repeat(2, 1), PAIR, backend="native")
    assert not list(compiled.cache_folder().iterdir())


def test_a_folder_that_cannot_be_written_is_named(monkeypatch, uncompiled):
    uncompiled.write_text("in the way")
    with pytest.raises(ValueError, match=f"into {uncompiled}/.*SINKHORN_ALIGN_CACHE"):
        align(torch.eye(3).repeat(2, 1), PAIR, backend="native")


@pytest.mark.parametrize("damage", ["cut", "empty", "a bit", "without its end"])
def test_what_is_damaged_in_the_cache_is_made_again(damage, uncompiled):
    native.library()
    (path,) = compiled.cache_folder().iterdir()
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.unlink()  # this process has mapped that one
    path.write_bytes({"cut": whole[:4096], "empty": b"", "a bit": flipped, "without its end": whole[:-32]}[damage])
    path.chmod(0o700)
    native.library.cache_clear()
    assert align(torch.eye(3).repeat(2, 1), PAIR, backend="native").partner_T.tolist() == [3, 4, 5, 0, 1, 2]
    assert path.read_bytes() == whole


def test_bits_that_flip_in_the_cache_are_all_found(uncompiled):
    native.library()
    (path,) = compiled.cache_folder().iterdir()
    whole = path.read_bytes()
    copy = uncompiled / "copy.so"
    for place in range(0, len(whole), len(whole) // 500):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        copy.write_bytes(flipped)
        copy.chmod(0o700)
        assert not compiled.is_whole(copy), place


def test_a_file_that_others_can_write_or_a_link_is_made_again(uncompiled):
    native.library()
    (path,) = compiled.cache_folder().iterdir()
    path.chmod(0o722)
    assert not compiled.is_whole(path)
    path.chmod(0o700)
    assert compiled.is_whole(path)
    (linked := uncompiled / "linked.so").symlink_to(path)
    assert not compiled.is_whole(linked)


@pytest.mark.parametrize("why", ["others can write", "a link", "another's"])
def test_a_cache_that_others_can_fill_is_refused(why, uncompiled, monkeypatch):
    folder = compiled.cache_folder()
    (real := folder if why != "a link" else uncompiled / "real").mkdir(parents=True, mode=0o700)
    if why == "others can write":
        real.chmod(0o777)
    elif why == "a link":
        folder.symlink_to(real)
    else:
        own = os.geteuid()
        monkeypatch.setattr(compiled, "cache_folder", lambda: folder)
        monkeypatch.setattr("os.geteuid", lambda: own + 1)
    (folder / "native-0.so").write_bytes(b"another's code")
    with pytest.raises(ValueError, match=f"{folder}: others can write there.*SINKHORN_ALIGN_CACHE"):
        align(torch.eye(3).repeat(2, 1), PAIR, backend="native")


@pytest.mark.parametrize("value", ["", "relative"])
def test_an_empty_or_relative_cache_home_is_none(value, monkeypatch):
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("SINKHORN_ALIGN_CACHE", "")
    assert compiled.cache_folder().parent == Path("/home/user/.cache/sinkhorn_align")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert compiled.cache_folder().parent == Path("/caches/sinkhorn_align")
