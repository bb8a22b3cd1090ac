"""`./launch.sh train` and `./launch.sh check`: from a command line to ranks on one host or on many, and their end.

Whatever a config, its files and its folders forbid is said here, before ranks are started.
"""

from __future__ import annotations

import os
import signal
import sys

from rich.console import Console

from data_prep.quiet import VERBOSE
from pipeline.cluster.check_here import check_here
from pipeline.cluster.options import Options, parse
from pipeline.cluster.this_host import train_here
from pipeline.host.process import Interrupts, device_of
from pipeline.host.stop import outlive_terminal
from pipeline.settings.schema import load_config
from pipeline.training.start_check import check_start


def check_config(options: Options) -> None:
    """ValueError where the config, its files or its folders do not allow a start, before the seconds that ranks take."""
    assert options.config is not None
    config = load_config(options.config, options.overrides)
    check_start(config, options.resume, options.ranks, device_of(os.environ))


def main() -> None:
    outlive_terminal()
    try:
        options = parse(sys.argv[1:])
        if options.verbose:
            os.environ[VERBOSE] = "1"
        device_of(os.environ)
        code = _run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)


def _run(options: Options) -> int:
    if options.check and options.hostfile is None:
        return check_here(options, device_of(os.environ), Console())
    if not options.check:
        check_config(options)
    if not (options.check or options.over_ssh):
        return train_here(options)
    from pipeline.cluster.supervise import check, supervise  # which read models, and with that need PyTorch

    return check(options, Console()) if options.check else supervise(options, Console(), Interrupts())


if __name__ == "__main__":
    main()
