"""The pages of docs/ as a site: every link leads somewhere, and the Python reference is made from docstrings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def test_the_site_is_built_without_a_warning_and_holds_the_reference(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    for name in (
        "pipeline.align.aligner.Aligner.load",
        "pipeline.align.aligner.Aligner.stream",
        "sinkhorn_align.api.align",
    ):
        assert f'id="{name}"' in reference
    assert "two of its subwords" in reference or "cosine" in reference, "docstrings are there, not names alone"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert {page for page in pages if f" {page}\n" not in navigation} == set()


def test_every_record_is_among_the_records() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    written = {path.stem for path in (ROOT / "benchmarks").glob("2*.md")}
    figures = {path.stem for path in (ROOT / "benchmarks").glob("2*.json")}
    records = written | {name for name in figures if not name.startswith(tuple(written))}
    assert {record for record in records if f"`{record}`" not in page} == set()
