"""All that needs a GPU, in one run of ten minutes: are kernels and training right there, and how near to the limit are they.

    python pipeline/benchmark/first_contact.py --data DATA_DIR --out OUT [--minutes 10] [--wheels DIR] [--triton-cache DIR]
    python pipeline/benchmark/first_contact.py --table OUT/record.jsonl

Every item is a process of its own with a time of its own: one that fails, hangs or is killed leaves what it found, and the next
begins. OUT/record.jsonl has a line a figure, on the disk when it is made. No network, git or ssh is needed. On a machine that
lacks packages, carry them: `--wheels` takes a folder of wheels (deepspeed with hjson, pydantic and what these need); those that
are missing are installed below OUT. `--triton-cache` takes a folder of compiled kernels. DATA_DIR should have the vocabulary
that is trained with, as XLM-R's 250,002 words: with a small one the head, a quarter of the operations, would not be measured.
`--rehearse` does all of it small, on the CPU and in Triton's interpreter; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

if __name__ == "__main__":
    # Started as a file: put the repository on the path instead of this folder, whose names are not top-level modules.
    # With PYTHONSAFEPATH the folder is not there, and nothing is replaced.
    sys.path[: 0 if getattr(sys.flags, "safe_path", False) else 1] = [str(Path(__file__).resolve().parents[2])]

from pipeline.benchmark.contact_record import Contact, Record, environment, read, table

REPOSITORY = Path(__file__).resolve().parents[2]
ITEMS = {
    "ceilings": 25,
    "kernels right": 60,
    "kernels repeatable": 30,
    "kernels speed": 55,
    "kernels beside peers": 60,
    "kernels tuning": 30,
    "products": 25,
    "training speed": 150,
    "loss curves": 110,
    "resume": 60,
    "relative attention": 45,
    "memory check": 60,
}
"""The most seconds of each, in the order in which they are made: what tells most of what is wrong comes first."""
LAST_LINES = 5
"""Of the output of an item that failed."""
SLOWER_IN_REHEARSAL = 10


def run_items(arguments: argparse.Namespace, record: Record) -> bool:
    """Every chosen item, one after another; whether all of them ended well."""
    slower = SLOWER_IN_REHEARSAL if arguments.rehearse else 1
    end = record.started + 60 * (10 * slower if arguments.minutes is None else arguments.minutes)
    variables, all_well = carried(arguments), True
    for item in arguments.only or ITEMS:
        own = Record(record.path, item, record.started)
        seconds = min(float(ITEMS[item] * slower), end - time.time())
        if seconds <= 0:
            own.add("left out", {"what": f"{item}: the time is up"})
            continue
        print(f"{time.time() - record.started:5.0f} s  {item}", flush=True)
        problem = run_item(item, arguments, variables, seconds)
        if problem:
            all_well = False
            print(f"FAILED {item}: {problem}", flush=True)
            own.add("left out", {"what": f"{item}, or what was left of it: {problem}"})
        own.add("item", {"ended": "failed" if problem else "well"})
    return all_well


def run_item(item: str, arguments: argparse.Namespace, variables: dict[str, str], seconds: float) -> str:
    """One item as a process group that ends with its time; what went wrong in one line, or nothing."""
    log = arguments.out / f"{item.replace(' ', '_')}.log"
    command = [sys.executable, __file__, "--item", item, "--seconds", f"{seconds:.0f}", "--out", str(arguments.out)]
    command += ["--data", str(arguments.data)] if arguments.data else []
    command += ["--rehearse"] if arguments.rehearse else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"not finished after {seconds:.0f} s"
        finally:
            stop(process)
    if code == 0:
        return ""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("error: ")]
    return f"exit code {code}: " + " / ".join((told or lines)[-LAST_LINES:])


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    with contextlib.suppress(ProcessLookupError):  # all of them may have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def carried(arguments: argparse.Namespace) -> dict[str, str]:
    """The environment of every item: repository, kernels and carried packages are found, and no network is sought."""
    site = arguments.out / "packages"
    if arguments.wheels is not None:
        install_missing(arguments.wheels, site)
    cache = arguments.out / "triton_cache"
    if arguments.triton_cache is not None and not cache.exists():
        shutil.copytree(arguments.triton_cache, cache)
    paths = [str(REPOSITORY), str(REPOSITORY / "kernels"), str(site), os.environ.get("PYTHONPATH", "")]
    programs = [str(site / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": os.pathsep.join(filter(None, programs)),
        "TRITON_CACHE_DIR": str(cache),
        "HF_HUB_OFFLINE": "1",
        "STARTED": repr(arguments.started),
        **({"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"} if arguments.rehearse else {}),
    }


def install_missing(wheels: Path, site: Path) -> None:
    """Install those wheels below `site` whose packages this Python does not have.

    Raises:
        ValueError: there are no wheels, or pip refuses them.
    """
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise ValueError(f"--wheels {wheels}: no *.whl there; `pip download -d {wheels} deepspeed` gets them elsewhere")
    missing = [str(wheel) for wheel in found if not installed(wheel.name.partition("-")[0])]
    if not missing:
        return
    options = ["--quiet", "--no-index", "--no-deps", "--target", str(site)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *missing], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"--wheels {wheels}: {(done.stderr.strip().splitlines() or ['pip failed'])[-1]}")


def installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def make_item(item: str, arguments: argparse.Namespace) -> int:
    """In a process of its own: what an item is; its exit code."""
    from pipeline.benchmark import contact_items

    record = Record(arguments.out / "record.jsonl", item, float(os.environ.get("STARTED", time.time())))
    contact = Contact(record, arguments.data, arguments.rehearse, time.monotonic() + arguments.seconds)
    return contact_items.ITEMS[item](contact)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DATA_DIR", help="token files to train on")
    parser.add_argument("--out", type=Path, help="folder of the record and of what is needed meanwhile")
    parser.add_argument(
        "--minutes", type=float, help=f"nothing runs longer (default 10, of a rehearsal {10 * SLOWER_IN_REHEARSAL})"
    )
    parser.add_argument("--only", nargs="+", choices=list(ITEMS), metavar="ITEM", help=", ".join(ITEMS))
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="carried packages")
    parser.add_argument("--triton-cache", type=Path, metavar="DIR", help="carried kernels, as ~/.triton/cache has them")
    parser.add_argument("--rehearse", action="store_true", help="small, on the CPU")
    parser.add_argument("--table", type=Path, metavar="RECORD", help="print a record as Markdown, and nothing else")
    parser.add_argument("--item", choices=list(ITEMS), help=argparse.SUPPRESS)  # of the process that makes one
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def first_contact(arguments: argparse.Namespace) -> int:
    """Make all items; 0 where every one ended well.

    Raises:
        ValueError: --out is missing or holds a record already, or there is no --data.
    """
    if arguments.out is None:
        raise ValueError("--out is missing: give a folder for the record")
    if arguments.data is None and not arguments.rehearse:
        raise ValueError("--data is missing: give a DATA_DIR with the vocabulary that is trained with, or --rehearse")
    arguments.out = arguments.out.resolve()
    arguments.data = arguments.data and arguments.data.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.started = time.time()
    record = Record(arguments.out / "record.jsonl", "all", arguments.started)
    if record.path.exists():
        raise ValueError(f"{record.path}: is there already; give another --out")
    record.add("environment", {**environment(REPOSITORY), "rehearsal": arguments.rehearse, "command": sys.argv[1:]})
    if arguments.rehearse and arguments.data is None:
        arguments.data = make_data(arguments)
    all_well = run_items(arguments, record)
    print(f"{time.time() - arguments.started:5.0f} s  done: --table {record.path} prints it")
    return 0 if all_well else 1


def make_data(arguments: argparse.Namespace) -> Path:
    """A generated corpus as token files."""
    from pipeline.quickstart import binarize

    binarize(arguments.out / "corpus", seed=1)
    return Path(arguments.out / "corpus" / "data")


def main() -> int:
    arguments = parse_arguments()
    if arguments.item is not None:
        return make_item(arguments.item, arguments)
    try:
        if arguments.table is not None:
            print(table(read(arguments.table)))
            return 0
        return first_contact(arguments)
    except BrokenPipeError:  # `--table … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
