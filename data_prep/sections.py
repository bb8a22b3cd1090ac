"""YAML files that people write, and the schemas that they must fit: one dialect and one kind of error for all of them.

Configs, corpus mixes and experiments are read here. Knows nothing of what their keys mean.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

PathField = Annotated[Path, Field(strict=False)]
LIMIT = 2**63  # of whole numbers, as NumPy and PyTorch have them
Whole = Annotated[int, Field(lt=LIMIT)]
Positive = Annotated[int, Field(gt=0, lt=LIMIT)]
NotNegative = Annotated[int, Field(ge=0, lt=LIMIT)]
Single = Annotated[float, Field(lt=3.4e38)]
"""Computed with in fp32, in which a larger number would be infinite."""
SHOWN_VALUE = 80

AnySection = TypeVar("AnySection", bound="Section")


class Section(BaseModel):
    """A part of such a file: an unknown key or a wrong type is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: `no` is Norwegian and 1e-4 a number, 12:30 and 2026-01-31 are text, 010 is ten.

    A key that stands twice in a mapping is an error, where YAML's own loader keeps the last one.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML has it so)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, (str, int, float)) and key in lines:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key} stands twice, in lines {lines[key]} and {line}; keep one"
                )
            if isinstance(key, (str, int, float)):
                lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node)).replace("_", "")
        try:
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        except ValueError:  # after !!int, or of more digits than Python reads
            line = node.start_mark.line + 1
            raise yaml.constructor.ConstructorError(
                problem=f"line {line}: {shown(text)} is no whole number, or has too many digits"
            ) from None


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` or a reader of YAML 1.1 would not read as text."""


_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_PLAIN = (  # the first that fits; integers are numbers too
    ("bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"^[-+]?\d[\d_]*$|^0o[0-7]+$|^0x[0-9a-fA-F]+$"), "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
    ("null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("merge", re.compile(r"^<<$"), "<"),
)
for _kind, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, list(_first))
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


def read_yaml(path: Path, what: str) -> Any:
    """The content of a YAML file; `what` it is named in errors, as `config`.

    Raises:
        ValueError: it cannot be read, or is no YAML of one document.
    """
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"))
    except IsADirectoryError:
        raise ValueError(f"{path}: is a folder; give the path of the {what}'s YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ValueError(f"{path}: cannot read the {what} ({reason}); give the path of a YAML file") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def parse_yaml(text: str) -> Any:
    """One YAML value, in the dialect of `read_yaml`; yaml.YAMLError where it is none."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except (ValueError, LookupError, AttributeError) as error:  # PyYAML's, of `!!float x`, `!!bool x`, `!!timestamp x`
        raise yaml.YAMLError(f"a value is not what its tag says ({error})") from None
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def dump_yaml(content: Any, *, one_line: bool = False) -> str:
    """YAML that `read_yaml` reads back, keys in their order."""
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=one_line)
    return text.split("\n...")[0].strip() if one_line else text


def checked(schema: type[AnySection], content: Any, name: str) -> AnySection:
    """`content` as a section.

    Raises:
        ValueError: it does not fit; one line that begins with `name`, tells field and value, and the nearest key.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{name}: {_explain(error, schema)}") from None


def _explain(error: ValidationError, schema: type[Section]) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _field_names(schema)
        near = difflib.get_close_matches(field, known, 1, 0.5) or difflib.get_close_matches(
            field.split(".")[-1], [name.split(".")[-1] for name in known], 1, 0.5
        )
        return f"unknown key {field}" + (f"; did you mean {near[0]}?" if near else "") + more
    if not field:
        return str(first["ctx"]["error"] if first["type"] == "value_error" else first["msg"]) + more
    if first["type"] == "model_type":
        return f"{field} = {shown(first['input'])}: must be a mapping of keys to values{more}"
    if first["type"] == "value_error":
        return f"{field}: {first['ctx']['error']}{more}"
    value = "" if first["type"] == "missing" else f" = {shown(first['input'])}"
    return f"{field}{value}: {first['msg'][0].lower()}{first['msg'][1:]}{more}"


def shown(value: Any) -> str:
    """A value as a message quotes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_VALUE else f"{text[:SHOWN_VALUE]}…"


def _field_names(section: type[BaseModel], prefix: str = "") -> list[str]:
    names = []
    for name, info in section.model_fields.items():
        names.append(prefix + name)
        for kind in _kinds(info.annotation):
            names += _field_names(kind, f"{prefix}{name}.")
    return names


def _kinds(annotation: Any) -> list[type[BaseModel]]:
    """The sections in a field's type, also within lists and unions."""
    # To Python 3.10 `list[int]` is a type, of which it is an error to ask what it is a subclass of.
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _kinds(part)]
