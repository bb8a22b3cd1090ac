"""`./launch.sh check CONFIG`: is this machine fit for this run? Everything that can be looked at before ranks start.

The checks of `start_check` one by one, and what the run will take of this machine. Starts nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.cluster.options import Options
from pipeline.estimate.dry_run import DryRun, dry_run
from pipeline.host import ports
from pipeline.host.agent import count_gpus, free_bytes
from pipeline.settings.deepspeed_json import load_deepspeed_json, offloads
from pipeline.settings.schema import Config, load_config
from pipeline.training import start_check
from pipeline.watch.wandb_sink import check_wandb

SHARED_MEMORY = 70 << 20
"""What DeepSpeed's communication on CPUs takes of /dev/shm for a rank."""
BYTES_PER_PARAMETER = 16
"""Of a checkpoint, at most: weights, two moments and a master copy in fp32."""
PAIR_TOKENS = 64  # of a mean pair; with data there, they are counted
NOT_CHECKED = "not checked"

Check = Callable[[], str]


class HostCheck:
    """The checks of one machine for one config; each returns what it found, or raises ValueError."""

    def __init__(self, config: Config, options: Options, device: str) -> None:
        self.config, self.options, self.device = config, options, device
        self.ranks = options.ranks or (count_gpus() or 1 if device == "cuda" else 1)

    def checks(self) -> dict[str, Check]:
        """By name, in their order."""
        return {
            "DeepSpeed JSON": lambda: start_check.check_deepspeed(self.config, self.device),
            "devices": self.devices,
            "batch": lambda: start_check.check_batch(self.config, self.ranks),
            "data": self.data,
            "validation": self.validation,
            "run.out": lambda: start_check.check_folder(self.config, self.options.resume),
            "disk": self.disk,
            "memory": self.memory,
            "port": self.port,
            "/dev/shm": self.shared_memory,
            "compiler": self.compiler,
            "W&B": self.wandb,
        }

    def devices(self) -> str:
        if self.device == "cpu":
            cores = len(os.sched_getaffinity(0))
            return f"no GPU: {self.ranks} ranks on {cores} cores"
        found = count_gpus()
        if found is not None and found < self.ranks:
            raise ValueError(f"{self.ranks} ranks are asked for, there are {found} GPUs; lower --num_accelerators")
        return f"{self.ranks} ranks, {found if found is not None else 'an unknown number of'} GPUs"

    def data(self) -> str:
        manifest = start_check.check_data(self.config)
        start_check.check_model(self.config, manifest)
        return (
            f"{len(manifest.shards)} shards, {len(manifest.mono)} languages, {len(manifest.pairs)} pairs of languages"
        )

    def validation(self) -> str:
        return start_check.check_validation(self.config, start_check.check_data(self.config))

    def disk(self) -> str:
        config, free = self.config, free_bytes(str(self.config.run.out.absolute()))
        needed = self._estimate().parameters["total"] * BYTES_PER_PARAMETER * (config.run.keep + 1)
        if free < needed:
            raise ValueError(
                f"{free / 1e9:.1f} GB free for up to {needed / 1e9:.1f} GB of checkpoints; make room, or lower run.keep"
            )
        return f"{free / 1e9:.1f} GB free, checkpoints take up to {needed / 1e9:.1f} GB"

    def memory(self) -> str:
        estimate = self._estimate()
        parts = estimate.memory[estimate.stage]
        needed = f"{parts['total'] / 1e9:.1f} GB a rank and {parts['host'] / 1e9:.1f} GB of the host's for each"
        free = psutil.virtual_memory().available
        wanted = self.ranks * (parts["total"] if self.device == "cpu" else parts["host"])
        if free < wanted:
            raise ValueError(
                f"{wanted / 1e9:.1f} GB of memory are needed, {free / 1e9:.1f} GB are free; raise batch.micro_steps, or see "
                "the parts in `python -m pipeline dry-run`"
            )
        if self.device == "cuda" and (largest := _gpu_bytes()) is not None and largest < parts["total"]:
            raise ValueError(
                f"{parts['total'] / 1e9:.1f} GB a rank are needed, the smallest GPU has {largest / 1e9:.1f} GB; raise "
                "batch.micro_steps, take another ZeRO stage, or see the parts in `python -m pipeline dry-run`"
            )
        return f"{needed}; {free / 1e9:.1f} GB free on the host"

    def port(self) -> str:
        ports.check_port(self.options.master_port)
        given = "" if self.options.given.master_port else " (any free one is taken)"
        return f"{self.options.master_port} is free{given}"

    def shared_memory(self) -> str:
        free, wanted = free_bytes("/dev/shm"), SHARED_MEMORY * self.ranks
        if self.device == "cpu" and free < wanted:
            raise ValueError(
                f"{free >> 20} MB free, {wanted >> 20} are needed; remove what ended runs left there, or enlarge it"
            )
        return f"{free >> 20} MB free"

    def compiler(self) -> str:
        """DeepSpeed compiles its communication on CPUs, and its Adam for GPUs, at the first start."""
        compiler = os.environ.get("CXX", "c++")
        own_adam = self.config.optimizer.adam == "deepspeed" or offloads(load_deepspeed_json(self.config.deepspeed))
        needed = self.device == "cpu" or own_adam
        if shutil.which(compiler) is None:
            if needed:
                raise ValueError(f"no {compiler}; apt-get install g++, or set CXX")
            return f"no {compiler}, and none is needed"
        return str(shutil.which(compiler))

    def wandb(self) -> str:
        check_wandb(self.config)
        return "not asked for" if self.config.run.wandb is None else "installed"

    def _estimate(self) -> DryRun:
        device = "cpu" if self.device == "cpu" else "h100"  # which decides about days, that nobody asks for here
        return dry_run(self.config, device, self.ranks, 1.0, PAIR_TOKENS)


def check_here(options: Options, device: str, console: Console) -> int:
    """Make all checks, show them as a table and a line for each thing to put right; the exit code.

    Raises:
        ValueError: there is no such config, or it is wrong in itself.
    """
    assert options.config is not None
    config = load_config(options.config, options.overrides)
    table = Table(title=f"{options.config}: this machine", title_justify="left")
    for column in ("check", "result", "found"):
        table.add_column(column, overflow="fold")
    table.add_row("config", "ok", f"{config.run.steps:,} steps")
    failures: dict[str, str] = {}
    for name, check in HostCheck(config, options, device).checks().items():
        try:
            table.add_row(name, "ok", escape(check()))
        except (ValueError, OSError) as error:
            if str(error) in failures.values():
                table.add_row(name, NOT_CHECKED, "for the same reason")
                continue
            failures[name] = str(error)
            table.add_row(name, "[bold red]FAILED[/]", escape(str(error)))
    console.print(table)
    for name, what in failures.items():
        print(f"error: {name}: {what}", file=sys.stderr)
    return 1 if failures else 0


def _gpu_bytes() -> int | None:
    """Memory of the smallest GPU; None where nvidia-smi does not say."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        return min(int(line) for line in answer.split()) << 20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
