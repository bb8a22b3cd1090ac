"""The project's version, alone so that packaging can read it without importing torch."""

from __future__ import annotations

VERSION = "0.2.0.dev0"
