"""`start_rank.py FOLDER ENVIRONMENT SHA256 ARGUMENTS…`: becomes pipeline/train.py ARGUMENTS, in the caller's folder.

DeepSpeed's launcher makes modules of what lies in the folder that it runs in, and passes variables on by command lines, which
all users of a host can read. So it runs in /, and what else the ranks need comes by this file. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
NONE = "-"  # in place of a file


def main() -> None:
    words = sys.argv[1:]
    if words[0].startswith("--local_rank="):  # by the deepspeed launcher, which says the same in LOCAL_RANK
        words.pop(0)
    folder, environment, sha256, *arguments = words
    try:
        if environment != NONE:
            os.environ.update(read_variables(Path(environment), sha256))
        os.chdir(folder)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    os.execv(sys.executable, [sys.executable, "-u", str(TRAIN), *arguments])  # noqa: S606 (no words for a shell)


def read_variables(path: Path, sha256: str) -> dict[str, str]:
    """ValueError where the file is not the one that was written for this job."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{path}: is not what this job was started with; start it again")
    variables = json.loads(content)
    assert isinstance(variables, dict)
    return variables


if __name__ == "__main__":
    main()
