"""Checks of what is between the hosts: interfaces, ports and firewalls, and an all-reduce over all ranks."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

from pipeline.cluster.preflight.findings import Findings

REDUCED_BYTES = 16 << 20
REDUCE = """import json, os, time, torch, torch.distributed as dist
from datetime import timedelta
backend = os.environ["CHECK_BACKEND"]
device = "cpu" if backend == "gloo" else f"cuda:{os.environ['LOCAL_RANK']}"
if device != "cpu": torch.cuda.set_device(device)
dist.init_process_group(backend, timeout=timedelta(seconds=int(os.environ["CHECK_SECONDS"])))
values, times = torch.ones(int(os.environ["CHECK_BYTES"]) // 4, device=device), []
for _ in range(4):
    values.fill_(1)
    if device != "cpu": torch.cuda.synchronize()
    began = time.perf_counter()
    dist.all_reduce(values)
    right = bool((values == dist.get_world_size()).all())
    times.append(time.perf_counter() - began)
if dist.get_rank() == 0: print(json.dumps({"seconds": min(times[1:]), "right": right}), flush=True)
os._exit(0)"""


def interface(on: Findings) -> str:
    names = [host for host in on.job.hosts if host in on.crew.hosts]
    if not names:
        return ""
    first, second = names[0], names[1] if len(names) > 1 else names[0]
    each = {host: {"host": first} for host in names} | {first: {"host": second}}
    on.routes = on.ask("route", each)
    wanted = on.job.environment.get(on.job.interface_variable)
    for host, route in on.routes.items():
        if "error" in route:
            on.fail(
                host,
                f"cannot resolve {each[host]['host']} ({route['error']})",
                "name all hosts in its /etc/hosts or DNS",
            )
            continue
        addresses = on.facts.get(host, {}).get("interfaces", {})
        if wanted and wanted.isalnum():
            has = ", ".join(f"{name} {address}" for name, address in addresses.items() if address)
            route["interface"], route["address"] = wanted, addresses.get(wanted)
            if route["address"] is None:
                on.fail(
                    host,
                    f"{on.job.interface_variable}={wanted}: no such interface with an address ({has})",
                    "unset it",
                )
                continue
        if str(route["address"]).startswith("127.") and len(names) > 1:
            what = f"{route['interface'] or 'lo'} ({route['address']}) is how it would reach {each[host]['host']}"
            on.fail(
                host,
                what,
                f"other hosts cannot answer there: unset {on.job.interface_variable}, or correct /etc/hosts",
            )
    shown = Counter(str(route.get("interface")) for route in on.routes.values())
    return ", ".join(f"{name} on {count}" for name, count in shown.items()) + (", as set" if wanted else ", by route")


def ports(on: Findings) -> str:
    """Each host listens at a port of its own, the first also at the master's, and each tries those of some others."""
    good = {
        host: route["address"] for host, route in on.routes.items() if route.get("address") and host in on.crew.hosts
    }
    names = [host for host in good if host not in on.unfit]
    if not names:
        return ""
    first, port = names[0], on.job.master_port
    each = {host: {"address": good[host], "ports": [0, port] if host == first else [0]} for host in names}
    heard = on.ask("listen", each)
    for host, answer in heard.items():
        if "error" in answer:
            what = f"port {answer['port']}: {str(answer['error']).lower()}"
            on.fail(host, what, "end what holds it (ss -ltnp), or start with --master_port PORT")
    targets = {}
    for place, host in enumerate(names):
        # rank 0's host and the next ones in a ring: all pairs in a small cluster, O(hosts) connections in a large one
        others = dict.fromkeys([first, *(names + names)[place + 1 : place + 9]])
        targets[host] = [(o, good[o], p) for o in others if o != host for p in heard.get(o, {}).get("ports", [])]
    for host, answer in on.ask("reach", {host: {"targets": list(each)} for host, each in targets.items()}).items():
        for place, (target, reason) in enumerate(answer["failures"].items()):
            if place == 0:
                more = f" (and {len(answer['failures']) - 1} more)" if len(answer["failures"]) > 1 else ""
                what = f"cannot connect to {target}: {reason.lower()}{more}"
                on.fail(host, what, "open all TCP ports between the hosts in their firewalls")
    on.ask("hush")
    return f"{sum(map(len, targets.values()))} connections, {port} on {first} free"


def all_reduce(on: Findings) -> str:
    world, rank = sum(map(len, on.job.hosts.values())), 0
    seconds = int(on.deadline - time.monotonic()) - 3
    shared = {
        "MASTER_ADDR": on.master_address(), "MASTER_PORT": str(on.job.master_port), "WORLD_SIZE": str(world),
        "CHECK_BACKEND": "gloo" if on.job.on_cpu else "nccl", "CHECK_BYTES": str(REDUCED_BYTES),
        "CHECK_SECONDS": str(seconds), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    each = {}
    for host, slots in on.job.hosts.items():
        own = {**shared, on.job.interface_variable: str(on.routes[host]["interface"])}
        each[host] = {"ranks": [{**own, "RANK": str(rank + i), "LOCAL_RANK": str(s)} for i, s in enumerate(slots)]}
        rank += len(slots)
    answers = on.crew.ask("reduce", each, seconds + 2, script=REDUCE, seconds=seconds)
    for host, answer in answers.items():
        for error in answer["errors"][:1]:
            on.fail(host, f"all-reduce: {error}", "set NCCL_DEBUG=INFO, and check again")
    return summary_of_reduce(answers, world)


def summary_of_reduce(answers: dict[str, dict[str, Any]], world: int) -> str:
    """Bus bandwidth from rank 0's line: what each rank sends and receives, 2 (n-1)/n of the data, over the time."""
    lines = [line for answer in answers.values() for output in answer["outputs"] for line in output.splitlines()]
    results = [json.loads(line) for line in lines if line.startswith("{")]
    if not results:
        return "no result"
    rate = 2 * (world - 1) / world * REDUCED_BYTES / results[0]["seconds"]
    return f"{REDUCED_BYTES >> 20} MiB over {world} ranks in {results[0]['seconds'] * 1e3:.0f} ms: {rate / 1e9:.3f} GB/s a rank"
