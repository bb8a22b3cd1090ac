"""A user's mistake ends training before it begins, with one line that names what is wrong, its value, and what to do."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokenizers.tokenizer import Tokenizer
from tests.pipeline.run_kit import other_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
AT_A_TIME = 2

pytestmark = pytest.mark.launch

# Arguments besides --config, and what the line must name; {} are the folders of the `prepared` fixture.
MISTAKES = {
    "unknown_key": (["optimizer.lrr=1e-4"], ["unknown key optimizer.lrr", "did you mean optimizer.lr"]),
    "value_of_the_wrong_type": (["run.steps=many"], ["run.steps = 'many'", "integer"]),
    "alignment_layer_beyond_the_model": (
        ["objectives.dwa.alignment_layer=3"],
        ["objectives.dwa.alignment_layer = 3", "2 layers", "choose 0 to 2"],
    ),
    "global_batch_that_cannot_be_cut": (
        ["batch.micro_steps=3"],
        ["batch.mono = 8", "1 ranks × 3 micro-steps", "multiple of 3"],
    ),
    "nothing_to_resume": (["--resume", "{empty}"], ["--resume {empty}", "nothing to resume", "give a run folder"]),
    "forgotten_resume": (["run.out={used}"], ["run.out = {used}", "--resume auto"]),
    "fp16_on_the_cpu": (["deepspeed={ds_configs}/zero2_fp16.json"], ["zero2_fp16.json", "fp16 needs a GPU", "bf16"]),
    "missing_deepspeed_config": (["deepspeed={empty}/none.json"], ["{empty}/none.json", "see ds_configs/"]),
    "missing_data": (["data.path={empty}"], ["{empty}/manifest.json", "python -m data_prep"]),
    "shard_cut_off": (["data.path={cut_off}"], ["{cut_off}/mono/", ".bin", "bytes", "run again the"]),
    "shard_of_another_format": (["data.path={foreign}"], ["{foreign}/mono/", ".idx", "MMIDIDX", "restore the file"]),
    "model_of_another_tokenizer": (
        ["model.init={init}"],
        ["model.init = {init}", "is another tokenizer than that of data.path", "tokenizer import {init}"],
    ),
    "validation_of_another_tokenizer": (
        ["validation.every=1", "validation.data={other}"],
        ["validation.data = {other}", "another tokenizer", "binarize it with"],
    ),
}


@pytest.fixture(scope="module")
def prepared(corpus: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders that are wrong in one way each."""
    root = tmp_path_factory.mktemp("wrong")
    folders = {name: root / name for name in ("empty", "used", "cut_off", "foreign")}
    folders["empty"].mkdir()
    sealed = folders["used"] / "checkpoints" / "step_00000001"
    sealed.mkdir(parents=True)
    (sealed / "manifest.json").write_text("{}")

    for name, suffix in (("cut_off", "bin"), ("foreign", "idx")):
        shutil.copytree(corpus.data, folders[name])
        shard = min(folders[name].glob(f"mono/*/*.{suffix}"))
        content = shard.read_bytes()
        shard.write_bytes(content[:-4] if suffix == "bin" else bytes(8) + content[8:])
    (root / "init").mkdir()
    (root / "init" / "config.json").write_text("{}")
    swapped = other_tokenizer(Tokenizer.load(corpus.data / "tokenizer"))  # of the same size
    (root / "init" / "sentencepiece.bpe.model").write_bytes(swapped.model)
    folders |= {"init": root / "init", "other": corpus.other_tokenizer_data, "ds_configs": REPOSITORY / "ds_configs"}
    return {name: str(path) for name, path in folders.items()}


@pytest.fixture(scope="module")
def outcomes(
    corpus: Any, launcher: Any, prepared: dict[str, str], tmp_path_factory: Any
) -> Iterator[dict[str, Future]]:
    """Every mistake made, a few at a time, while the tests already look at the first ones."""
    out = tmp_path_factory.mktemp("runs")

    def make(name: str) -> Any:
        arguments = [argument.format(**prepared) for argument in MISTAKES[name][0]]
        return launcher.one_rank("--config", corpus.config, f"run.out={out / name}", *arguments)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {name: pool.submit(make, name) for name in MISTAKES}


def check_one_line(done: Any, expected: list[str]) -> None:
    assert done.code == 1, done.output
    assert "Traceback" not in done.output
    assert len(done.errors) == 1, done.output
    for text in expected:
        assert text in done.errors[0]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_ends_with_one_line_that_names_it(
    outcomes: dict[str, Future], prepared: dict[str, str], mistake: str
) -> None:
    check_one_line(outcomes[mistake].result(), [text.format(**prepared) for text in MISTAKES[mistake][1]])


def test_port_in_use_is_named(corpus: Any, launcher: Any, tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = launcher.one_rank("--config", corpus.config, f"run.out={tmp_path / 'run'}", port=port)
    check_one_line(done, [f"port {port} is in use", "--master_port"])


def test_several_ranks_say_it_once(corpus: Any, launcher: Any, tmp_path: Path) -> None:
    done = launcher.train(2, corpus.config, f"run.out={tmp_path / 'run'}", "batch.pairs=15")
    check_one_line(done, ["batch.pairs = 15", "2 ranks × 1 micro-steps", "multiple of 2"])
