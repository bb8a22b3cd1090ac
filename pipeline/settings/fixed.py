"""A mark of fields of the schema, for those who say what becomes of a setting when a run goes on."""

from __future__ import annotations

from typing import Any

FIXED: dict[str, Any] = {"fixed": True}
"""`json_schema_extra` of an objective's field that a run which goes on must not change."""
