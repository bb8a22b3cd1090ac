"""`python -m pipeline.cluster.finished CONFIG [key=value …]`: exit code 0 where a run has made all its steps, 3 where not.

For batch scripts that ask for another turn. Reads the config and the `end` lines of the run's metrics.jsonl.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pipeline.run_folder import METRICS, read_metrics
from pipeline.settings.schema import Config, load_config


def finished(config: Config) -> bool:
    """Whether the run's latest `end` says so; a run that never ended by itself has not finished."""
    found = ends(config)
    return bool(found) and bool(found[-1]["finished"]) and found[-1]["step"] >= config.run.steps


def ends(config: Config) -> list[dict[str, Any]]:
    """The `end` lines of a run: one for each time that its ranks ended by themselves, finished or told to stop."""
    out = config.run.out
    return read_metrics(out).ends if (out / METRICS).exists() else []


def main() -> None:
    try:
        sys.exit(0 if finished(load_config(Path(sys.argv[1]), sys.argv[2:])) else 3)
    except IndexError:
        sys.exit("error: usage: python -m pipeline.cluster.finished CONFIG [key=value …]")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
