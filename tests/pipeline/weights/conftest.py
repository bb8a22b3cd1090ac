"""A hub on loopback for the tests of this folder, as this process's client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import constants

from data_prep.tokenizers.hub import fetch
from tests.loopback_hub import LoopbackHub, serving

NAME = "lab/tiny"
PAIR = "the quick brown fox ||| der schnelle braune fuchs\n"


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackHub]:
    with serving() as hub:
        yield hub


@dataclass
class Hub:
    """The hub and this test's cache of it."""

    server: LoopbackHub
    cache: Path
    patch: pytest.MonkeyPatch

    def set(self, *, offline: bool = False, endpoint: str | None = None, token: str | None = None) -> None:
        """What HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN would be for a new process."""
        endpoint = endpoint or self.server.endpoint
        self.patch.setattr(constants, "HF_HUB_OFFLINE", offline)
        self.patch.setattr(constants, "ENDPOINT", endpoint)
        self.patch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        self.patch.setattr(constants, "HF_HUB_CACHE", str(self.cache))
        self.patch.setattr(constants, "HF_TOKEN_PATH", str(self.cache / "no-token"))
        self.patch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its store is a service of its own
        self.patch.delenv("HF_TOKEN", raising=False)
        if token is not None:
            self.patch.setenv("HF_TOKEN", token)
        fetch.cache_clear()
        self.server.asked.clear()


@pytest.fixture
def hub(server: LoopbackHub, hf_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server.models.clear()
    server.down, server.refused = False, ""
    server.add(NAME, hf_dir)
    hub = Hub(server, tmp_path / "cache", monkeypatch)
    hub.set()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").write_text(PAIR, encoding="utf-8")
    yield hub
    fetch.cache_clear()
