"""Which files a path, a folder, a glob or a URL names, in their order, and whether they can be read.

Knows names; opens files for their first bytes only.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from pathlib import Path
from typing import cast

from data_prep.text.compression import uncompressed_name
from data_prep.text.content import LOOKED_AT
from data_prep.text.readers import check_regular, open_text
from data_prep.text.stored import RemoteFile, StoredFile, parse_location, remote_errors

GLOB = re.compile(r"[*?\[]")
NOT_PARTS = (".", "_")  # hidden files, and what Hadoop and its kin leave beside parts
SHOWN_SKIPPED = 5


def expand(pattern: str) -> list[str]:
    """The files that a path, a folder, a URL or a glob names, sorted; of a folder all within.

    Raises:
        ValueError: a glob that no file matches, or a folder without files.
    """
    remote = isinstance(parse_location(pattern), RemoteFile)
    # a question mark in a URL begins its query
    if (remote and "*" not in pattern) or not GLOB.search(pattern) or os.path.exists(pattern):
        return files_in(pattern)
    if remote:
        from fsspec.core import url_to_fs

        with remote_errors(pattern):
            file_system, path = url_to_fs(pattern)
            found = [cast(str, file_system.unstrip_protocol(name)) for name in file_system.glob(path)]
    else:
        found = glob.glob(pattern.removeprefix("file://"), recursive=True)
    if not found:
        raise ValueError(f"{pattern}: no file matches; check the pattern")
    if "**" in pattern:  # what lies within folders is matched by itself
        return sorted(name for name in found if not os.path.isdir(name))
    return [file for name in sorted(found) for file in files_in(name)]


def files_in(location: str) -> list[str]:
    """All files within a folder, sorted by their paths; a location that is no folder is itself.

    Names that begin with a dot or an underscore are no parts; it is said which were left out.

    Raises:
        ValueError: a folder without files.
    """
    folder = parse_location(location)
    if isinstance(folder, RemoteFile) or not folder.is_dir():
        return [location]
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    parts = [path for path in paths if not any(name.startswith(NOT_PARTS) for name in path.relative_to(folder).parts)]
    if not parts:
        raise ValueError(f"{location}: a folder without files; give one with text or leave it out")
    if skipped := [str(path.relative_to(folder)) for path in paths if path not in set(parts)]:
        more = ", …" if len(skipped) > SHOWN_SKIPPED else ""
        shown = ", ".join(skipped[:SHOWN_SKIPPED]) + more
        print(f"note: {location}: {len(parts)} files are read; {len(skipped)} are no parts: {shown}", file=sys.stderr)
    return list(map(str, parts))


def check_present(file: StoredFile) -> None:
    """See that a file is there, can be read twice and is not empty, before others are read.

    Raises:
        ValueError: it is not.
    """
    if isinstance(file, RemoteFile):
        file.details()
    elif str(file) == "-":
        raise ValueError("-: standard input cannot be read twice, as is needed; write it to a file and give that")
    else:
        check_regular(file)


def head_of(file: StoredFile) -> bytes:
    """The beginning of a file's text; empty where it cannot be read, of which its reader tells."""
    try:
        with open_text(file) as stream:
            return stream.read(LOOKED_AT)
    except (ValueError, OSError):
        return b""


def stem_of(location: str) -> str:
    """A file's name without compression and language."""
    return Path(uncompressed_name(parse_location(location).name)).stem
