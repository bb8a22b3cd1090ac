"""The commands `dry-run` and `plan`: what a training takes, before it is paid for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from data_prep.files import check_output, write_text
from data_prep.standard_output import data_console, print_table, put


def dry_run_command(
    config: Annotated[Path, typer.Argument(help="YAML config, or the name of a shipped one")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value", help="as in training")] = None,
    gpus: Annotated[int | None, typer.Option(help="ranks, one a GPU; default: 8, and 1 on a CPU")] = None,
    device: Annotated[str, typer.Option(help="h100, h100-pcie, h200, b200, a100, v100 or cpu")] = "h100",
    utilisation: Annotated[
        float,
        typer.Option(help="share of the peak that training will reach; on a CPU of the peak that is measured here"),
    ] = 0.4,
    pair_tokens: Annotated[int, typer.Option(help="tokens of a mean pair, where data.path does not exist yet")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    """Print what a config would train: parameters, memory per GPU and ZeRO stage, operations, tokens, days.

    Days on a GPU are of its data sheet's peak, on a CPU of what a product of matrices reaches on this machine just now.

    Example: python -m pipeline dry-run xlm_align_base --gpus 8 --device a100 data.path=data
    """
    from pipeline.estimate.dry_run import dry_run, table
    from pipeline.settings.schema import load_config

    ranks = gpus if gpus is not None else 1 if device == "cpu" else 8
    result = dry_run(load_config(config, overrides or []), device, ranks, utilisation, pair_tokens)
    if as_json:
        put(json.dumps(result.as_json(), indent=1))
    else:
        data_console().print(table(result))


def plan_command(
    config: Annotated[Path, typer.Argument(help="YAML config, or the name of a shipped one")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="key=value", help="settings that override it")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="hosts")] = 1,
    gpus: Annotated[int, typer.Option(min=1, help="ranks on each host")] = 8,
    tflops: Annotated[
        float, typer.Option(min=1e-6, help="what a rank makes in training, not its data sheet's")
    ] = 150.0,
    link_gbit: Annotated[float, typer.Option(min=1e-6, help="what a host sends to others, Gbit/s")] = 200.0,
    gpu_link_gbit: Annotated[float, typer.Option(min=1e-6, help="what a GPU sends within its host, Gbit/s")] = 2400.0,
    overlap: Annotated[float, typer.Option(min=0, max=1, help="share of communication hidden by computation")] = 0.0,
    pair_tokens: Annotated[int, typer.Option(help="tokens of a mean pair, where data.path does not exist yet")] = 64,
    json_file: Annotated[Path | None, typer.Option("--json", help="also write the figures to this file")] = None,
) -> None:
    """Print what a run takes on so many hosts: memory, bytes between ranks, seconds a step, days.

    Example: python -m pipeline plan xlm_align_base --nodes 4 --gpus 8 --tflops 150
    """
    from dataclasses import asdict

    from pipeline.estimate.scale import Cluster, plan, table, work_of
    from pipeline.settings.schema import load_config

    if json_file is not None:
        check_output(json_file, [config])

    work = work_of(load_config(config, overrides or []), nodes * gpus, pair_tokens)
    cluster = Cluster(nodes, gpus, tflops * 1e12, link_gbit * 1e9 / 8, gpu_link_gbit * 1e9 / 8, overlap=overlap)
    planned = plan(work, cluster)
    print_table(table(work, cluster, planned))
    if json_file is not None:
        content = {"work": asdict(work), "cluster": asdict(cluster), "plan": asdict(planned)}
        write_text(json_file, json.dumps(content, indent=1) + "\n", [config])
