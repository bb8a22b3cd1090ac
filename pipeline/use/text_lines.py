"""Text files of a sentence a line, as evaluation reads them whole. Knows bytes and lines; nothing of what they hold."""

from __future__ import annotations

from pathlib import Path


def read_lines(path: Path, what: str) -> list[str]:
    r"""The lines of a file: UTF-8, a byte order mark left out, ended by `\n` or `\r\n` alone.

    Raises:
        ValueError: there is no such file (`what` it should be is said), or it is not UTF-8; names the line.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give {what}")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; give {what}") from None
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            if content.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise ValueError(f"{path}: is UTF-16; convert it: iconv -f UTF-16 -t UTF-8") from None
            raise ValueError(
                f"{path}:{number}: byte 0x{line[error.start]:02x} at {error.start} is not UTF-8; "
                "convert the file, as with iconv -f LATIN1 -t UTF-8"
            ) from None
    return texts
