"""What a file holds, told from its first bytes whatever it is called, and in which encoding its text is.

Knows bytes; nothing of options or sources.
"""

from __future__ import annotations

import json
import re

from data_prep.text.compression import compression_in

LOOKED_AT = 1 << 16  # bytes of text at a file's beginning
TAR_MAGIC = slice(257, 262)
MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
SPACES = {"UTF-16LE": (b"\n\x00", b" \x00"), "UTF-16BE": (b"\x00\n", b"\x00 ")}
SAMPLED = 1 << 12  # bytes in which they are counted
ROOT = re.compile(
    rb"(?:\s|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*(?:\[[^\]]*\])?[^>]*>)*<([A-Za-z][\w:.-]*)", re.S | re.I
)
MARKUP = re.compile(
    rb"<\?xml|<!doctype|<!--|<(?:tmx|html|xml|srcset|refset|tstset|doc|page|mediawiki|xliff)[\s>]", re.I
)
C1_CONTROLS = re.compile("[\x80-\x9f]")


def structure_of(head: bytes) -> str | None:
    """What a text that begins like this is besides plain lines: "jsonl", "json", "tmx", or words for what cannot be read.

    None: nothing speaks against plain text.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if suffix := compression_in(head):
        return f"compressed twice (within is {suffix} again)"
    if head[TAR_MAGIC] == b"ustar":
        return "a tar archive"
    if text.startswith(b"WARC/"):
        return "a web archive (WARC)"
    if MARKUP.match(text):
        root = ROOT.match(text)
        name = root[1].decode().lower() if root else "?"
        return "tmx" if name == "tmx" else "an HTML page" if name == "html" else f"markup (<{name}>)"
    return _json_of(text, cut=len(head) >= LOOKED_AT)


def _json_of(text: bytes, cut: bool) -> str | None:
    first, newline, _ = text.partition(b"\n")
    if not first.startswith((b"{", b"[")):
        return None
    try:
        return "jsonl" if isinstance(json.loads(first), dict) else None
    except (ValueError, RecursionError):
        pass
    if cut and not newline and first.startswith(b'{"'):
        return "jsonl"  # a record longer than what was read
    # one value over many lines; text may begin with a bracket too
    return "json" if re.match(rb'\{\s*"[^"\n]*"\s*:|\[\s*\{\s*"', text) else None


def other_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 (names that `iconv` knows) where a text begins in them, else None."""
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    # text of most scripts has spaces and line ends, each a zero and an ASCII byte of a character
    pairs = [head[place : place + 2] for place in range(0, min(len(head), SAMPLED) - 1, 2)]
    spaces = {name: sum(pair in both for pair in pairs) for name, both in SPACES.items()}
    name = max(spaces, key=lambda name: spaces[name])
    others = sum(head.count(byte, 0, SAMPLED) for byte in (b" ", b"\n")) - spaces[name]
    return name if spaces[name] > 2 * others else None


def single_byte_encoding(text: bytes) -> str | None:
    """What a text that is no UTF-8 is likely to be in: "LATIN1", "WINDOWS-1252", or "" for another single-byte encoding or a
    Chinese, Japanese or Korean one; None where it is UTF-8 with damage."""
    decoded = text.decode("utf-8", "replace")
    wrong = decoded.count("\ufffd")
    right = sum(character > "\x7f" for character in decoded) - wrong
    if not wrong or right > wrong:
        return None
    high = sum(byte > 0x7F for byte in text)
    letters = high + sum(byte in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" for byte in text)
    if 2 * high > letters:
        return ""
    if not C1_CONTROLS.search(text.decode("latin-1")):
        return "LATIN1"
    return "WINDOWS-1252" if not C1_CONTROLS.search(text.decode("cp1252", "replace")) else ""


def advice_on_encoding(text: bytes) -> str | None:
    """What to do about a text that is no UTF-8, if it seems to be in another encoding as a whole."""
    found = other_encoding(text)
    if found is None:
        found = single_byte_encoding(text)
    if found is None:
        return None
    if not found:
        return "the file seems to be in another encoding than UTF-8: convert it, iconv -f ENCODING -t UTF-8 FILE > NEW"
    return (
        f"the file seems to be {found.replace('LATIN1', 'Latin-1')}: convert it, iconv -f {found} -t UTF-8 FILE > NEW"
    )
