"""What comes with the package and is found by name from any folder: configs, DeepSpeed JSONs, experiments.

A file that the user has wins over one that is shipped. In the repository the JSONs lie in ds_configs/ beside the package, in
an installed package within it. Knows names and folders; reads nothing.
"""

from __future__ import annotations

import difflib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CONFIGS, EXPERIMENTS = PACKAGE / "configs", PACKAGE / "experiments"
DEEPSPEED_JSONS = next(
    (folder for folder in (PACKAGE / "ds_configs", PACKAGE.parent / "ds_configs") if folder.is_dir()),
    PACKAGE / "ds_configs",
)


def config_path(given: Path) -> Path:
    """The config that is meant: a file of the user's, or a shipped one, as xlm_align_base or pipeline/configs/mlm.yaml.

    Raises:
        ValueError: there is neither; the line names the nearest shipped ones.
    """
    return _found(given, CONFIGS, "config")


def experiment_path(given: Path) -> Path:
    """The same for an experiment, as generated or pipeline/experiments/generated.yaml."""
    return _found(given, EXPERIMENTS, "experiment")


def deepspeed_json(given: Path, base: Path) -> Path:
    """The DeepSpeed JSON that is meant: relative to `base`, else a shipped one, as ds_configs/zero1_fp16.json or zero1_fp16.

    Where there is neither, the path below `base`, so that whoever reads it can say so.
    """
    own = base / given
    return own if own.is_file() else _shipped(given, DEEPSPEED_JSONS, ".json") or own


def names(folder: Path, suffix: str = ".yaml") -> list[str]:
    """What is shipped in one of these folders, without suffixes."""
    return sorted(path.stem for path in folder.glob(f"*{suffix}"))


def _found(given: Path, folder: Path, what: str) -> Path:
    if given.is_file():
        return given
    if (shipped := _shipped(given, folder, ".yaml")) is not None:
        return shipped
    if given.is_dir():
        raise ValueError(f"{given}: is a folder; give the path of the {what}'s YAML file")
    known = names(folder)
    near = difflib.get_close_matches(given.stem, known, 3, 0.5) or known
    raise ValueError(f"{given}: no such {what}, neither as a file nor by name; shipped are {', '.join(near)}")


def _shipped(given: Path, folder: Path, suffix: str) -> Path | None:
    """A shipped file by its name, with or without suffix, alone or below its folder's name in the repository."""
    if given.is_absolute() or given.suffix not in ("", suffix):
        return None
    parents = Path(*folder.relative_to(PACKAGE.parent).parts[-2:])
    if given.parent not in (Path(), Path(folder.name), parents):
        return None
    path = folder / f"{given.stem}{suffix}"
    return path if path.is_file() else None
