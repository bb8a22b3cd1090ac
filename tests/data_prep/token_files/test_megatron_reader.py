"""Megatron-LM's own reader opens our shards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.token_files.manifest import Manifest
from data_prep.token_files.token_file import TokenFile

indexed_dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed")


@pytest.mark.parametrize("kind", ["mono", "pair"])
def test_megatron_reads_the_same_sequences_documents_and_modes(
    kind: str, mono_file: Path, pair_files: tuple[Path, Path], tokenizer_dir: Path, tmp_path: Path, run: Callable
) -> None:
    options = ("--tokenizer", tokenizer_dir, "--out", tmp_path / "data")
    if kind == "mono":
        assert run("mono", mono_file, "--lang", "de", *options)[0] == 0
    else:
        assert run("parallel", *pair_files, "--pair", "en-de", *options)[0] == 0
    (shard,) = Manifest.load(tmp_path / "data").shards
    ours = TokenFile(shard.stem)
    theirs = indexed_dataset.IndexedDataset(str(shard.stem), multimodal=True)
    assert len(theirs) == len(ours) > 300
    for i in range(len(ours)):
        ids, mode = theirs[i]
        assert np.array_equal(ids, ours.read_sequence(i))
        assert mode == ours.modes[i]
    assert np.array_equal(theirs.document_indices, ours.documents)
    assert np.array_equal(theirs.sequence_lengths, ours.lengths)
