"""Training, as `first_contact` looks at it: its speed beside the straightforward step, its losses in every precision, a resume.

Every run is a start of the deepspeed launcher; one that fails is told, and the next is made.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from data_prep.tokenizers.tokenizer import Tokenizer
from pipeline import shipped
from pipeline.benchmark.contact_record import Contact
from pipeline.benchmark.step import BASELINE, CONFIG, OURS, Line, run, total_loss
from pipeline.checkpoints import checkpoint
from pipeline.data.packing import pack
from pipeline.host.process import ranks_command
from pipeline.run_folder import read_metrics
from pipeline.weights.loading import load_model

LAST = 10  # steps at the end of a curve whose mean is compared
MOST_HIDDEN_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class TrainingSizes:
    """How much is done; a rehearsal does as little as reaches every line."""

    model: tuple[str, ...]
    equal_batch: tuple[str, ...]
    """That the straightforward step's memory holds."""
    large_batch: tuple[str, ...]
    """That fills the device."""
    precisions: tuple[str, ...]
    timed_steps: int
    log_every: int
    """Every line of metrics waits for the device."""
    curves: tuple[str, ...]
    curve_steps: int
    saved_step: int
    """Of the run that is resumed; more than half of its steps, so that it is still there at its end."""


LONG = ("data.block_tokens=512", "data.side_tokens=254")
SHORT = ("data.block_tokens=64", "data.side_tokens=30")
REAL = TrainingSizes(
    ("model.layers=12", "model.hidden=768", "model.heads=12", "model.feed_forward=3072", "optimizer.lr=2e-4"),
    (*LONG, "batch.mono=16", "batch.pairs=64"),
    (*LONG, "batch.mono=128", "batch.pairs=512"),
    ("fp16", "bf16"),
    timed_steps=12,
    log_every=4,
    curves=("1_fp32", "1_fp16", "1_bf16", "2_fp16", "3_fp16", "2_bf16", "3_bf16", "0_bf16"),
    curve_steps=60,
    saved_step=40,
)
SMALL = TrainingSizes(
    (
        "model.layers=2",
        "model.hidden=32",
        "model.heads=2",
        "model.feed_forward=64",
        "objectives={dwa: {alignment_layer: 1}}",
    ),
    (*SHORT, "batch.mono=2", "batch.pairs=4"),
    (*SHORT, "batch.mono=4", "batch.pairs=8"),
    ("bf16",),
    timed_steps=4,
    log_every=2,
    curves=("1_fp32", "3_bf16"),
    curve_steps=3,
    saved_step=6,
)


def sizes_of(contact: Contact) -> TrainingSizes:
    return SMALL if contact.rehearse else REAL


def trained(contact: Contact, contender: str, deepspeed: str, steps: int, *settings: str) -> list[Line] | None:
    """The metrics of a run, a line per logged step; None, and why, where the time is up or the run failed."""
    what = f"{contender}, ZeRO {deepspeed}, {steps} steps, {' '.join(settings[-2:])}"
    if contact.time_is_up(what):
        return None
    out = Path(tempfile.mkdtemp(dir=contact.record.path.parent))
    overrides = [f"data.path={contact.data}", f"deepspeed=ds_configs/zero{deepspeed}.json", *settings]
    try:
        return run(contender, CONFIG, 1, steps, overrides, out)
    except (ValueError, OSError) as error:
        contact.record.add("left out", {"what": f"{what}: {error}"})
        return None


def speed(contact: Contact) -> int:
    """Tokens a second, use of the device and memory: of our step with batches of both sizes, of the straightforward one."""
    sizes = sizes_of(contact)
    first = sizes.precisions[0]
    runs = [(BASELINE, first, "equal batches", sizes.equal_batch), (OURS, first, "equal batches", sizes.equal_batch)]
    runs += [(OURS, precision, "large batches", sizes.large_batch) for precision in sizes.precisions]
    found: dict[str, dict[str, float]] = {}
    for contender, precision, batch, settings in runs:
        log = f"run.log_every={sizes.log_every}"
        lines = trained(contact, contender, f"1_{precision}", sizes.timed_steps, *sizes.model, log, *settings)
        for name, value in medians(lines or []).items():
            case = f"{batch}, {precision}: {name}"
            others = {other: value / theirs for other, theirs in found.get(case, {}).items() if theirs}
            contact.figure(case, contender, value, UNITS[name], ratio_to=others)
            found.setdefault(case, {})[contender] = value
    return 0


UNITS = {
    "tokens_per_second": "real tokens/s",
    "tflops_per_device": "TFLOP/s",
    "utilisation": "of the peak",
    "peak_memory_gb": "GB",
}


def medians(lines: list[Line]) -> dict[str, float]:
    """Of the lines after the first, which has the first allocations; of memory the most."""
    timed = lines[1:]
    found = {name: median(line[name] for line in timed if name in line) for name in UNITS if timed and name in timed[0]}
    return {**found, **({"peak_memory_gb": max(line["peak_memory_gb"] for line in lines)} if lines else {})}


def curves(contact: Contact) -> int:
    """The losses of one model on the same batches in every precision and ZeRO stage, beside fp32's."""
    sizes, ends = sizes_of(contact), dict[str, float]()
    for deepspeed in sizes.curves:
        # At ZeRO 3 one micro-step would have it gather nothing ahead.
        micro_steps = "batch.micro_steps=2" if deepspeed.startswith("3") else "batch.micro_steps=1"
        model = sizes.model if contact.rehearse else ()
        lines = trained(contact, OURS, deepspeed, sizes.curve_steps, *model, *SHORT, micro_steps)
        if not lines:
            continue
        ends[deepspeed] = own = fmean(total_loss(line) for line in lines[-LAST:])
        more: dict[str, Any] = {"skipped_steps": lines[-1]["skipped_steps"], "curve": [total_loss(x) for x in lines]}
        beside = {f"ZeRO {other}": own / theirs for other, theirs in ends.items() if other != deepspeed}
        name = f"loss, mean of the last {LAST} of {sizes.curve_steps} steps"
        contact.figure(name, f"ZeRO {deepspeed}", own, "nats", ratio_to=beside, **more)
    return 0


def resume(contact: Contact) -> int:
    """A run that goes on beside the straight one, and its export beside Hugging Face's own model."""
    sizes, folder = sizes_of(contact), contact.record.path.parent
    steps, precision = sizes.saved_step + 5, sizes.precisions[0]
    straight, resumed = folder / "straight", folder / "resumed"
    settings = [f"data.path={contact.data}", f"deepspeed=ds_configs/zero1_{precision}.json", *sizes.model]
    settings += [*sizes.equal_batch, f"run.steps={steps}", f"run.save_every={sizes.saved_step}"]
    start(settings, straight)
    saved = checkpoint.folder_of(straight) / checkpoint.tag_of(sizes.saved_step)
    start(settings, resumed, "--resume", str(saved))
    expected, found = (read_metrics(out).train for out in (straight, resumed))
    differences = [abs(total_loss(found[step]) / total_loss(expected[step]) - 1) for step in sorted(found)]
    same = len(differences) == 5 and max(differences) < 1e-2
    detail = f"largest relative difference of the loss in {len(differences)} steps: {max(differences):.2e}"
    contact.check("a resumed run goes on as the straight one", same, detail)
    if not contact.time_is_up("export"):
        check_export(contact, straight, folder / "model")
    return 0


def start(settings: list[str], out: Path, *more: str) -> None:
    """Train by the loop's own command."""
    script = [str(shipped.PACKAGE / "train.py"), "--config", str(CONFIG), *more]
    subprocess.run([*ranks_command(1), *script, *settings, f"run.out={out}"], check=True, env=dict(os.environ))


def check_export(contact: Contact, trained: Path, model: Path) -> None:
    """The exported model's hidden states by Hugging Face's code beside ours, in fp32."""
    from transformers import AutoModel

    # Not isolated, as commands are elsewhere: the packages may be carried, and found by PYTHONPATH.
    subprocess.run([sys.executable, "-m", "pipeline", "export", str(trained), str(model)], check=True)
    encoder, tokenizer = load_model(model)
    assert isinstance(tokenizer, Tokenizer)
    ids_L = torch.arange(5, 29) % tokenizer.vocab_size
    device = torch.device(contact.device)
    with torch.no_grad():
        own_LD = encoder.to(device).eval()(pack([ids_L.tolist()]).to(device))
        theirs = AutoModel.from_pretrained(model).to(device).eval()
        expected_LD = theirs(ids_L[None].to(device)).last_hidden_state[0]
    difference = float((own_LD - expected_LD).abs().max())
    contact.check(
        "exported hidden states are ours", difference < MOST_HIDDEN_DIFFERENCE, f"at most {difference:.1e} off"
    )
