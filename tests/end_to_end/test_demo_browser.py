"""The demo page in a real browser: a pair is typed, sent, and its links are drawn. Speaks WebDriver to chromedriver."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import XLMRobertaConfig, XLMRobertaModel

from data_prep.tokenizers.tokenizer import train
from tests.end_to_end.conftest import free_port

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which WebDriver hands out elements
pytestmark = pytest.mark.browser


class Browser:
    """A session of a headless chromium."""

    def __init__(self, driver: str, chromium: str, port: int) -> None:
        self._process = subprocess.Popen(
            [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._root = f"http://127.0.0.1:{port}"
        self._session = ""
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1100,1000",
            # It is to ask nobody but the demo.
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
        ]
        options = {"goog:chromeOptions": {"binary": chromium, "args": arguments}}
        for _ in range(100):
            try:
                if self.ask("GET", "/status")["ready"]:
                    break
            except OSError:
                time.sleep(0.1)
        session = self.ask("POST", "/session", capabilities={"alwaysMatch": options})
        self._session = f"/session/{session['sessionId']}"

    def ask(self, method: str, path: str, **content: Any) -> Any:
        body = json.dumps(content).encode() if method == "POST" else None
        request = urllib.request.Request(self._root + self._session + path, body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def find(self, selector: str) -> str:
        return f"/element/{self.ask('POST', '/element', using='css selector', value=selector)[ELEMENT]}"

    def type(self, selector: str, text: str) -> None:
        self.ask("POST", f"{self.find(selector)}/clear")
        self.ask("POST", f"{self.find(selector)}/value", text=text)

    def wait_for(self, selector: str) -> None:
        """Until the page that a click brings has such an element; while it loads, questions may fail."""
        end = time.monotonic() + 30
        while True:
            try:
                self.find(selector)
                return
            except urllib.error.HTTPError:
                assert time.monotonic() < end, f"no {selector} came"
                time.sleep(0.1)

    def run(self, script: str) -> Any:
        return self.ask("POST", "/execute/sync", script=script, args=[])

    def close(self) -> None:
        if self._session:
            self.ask("DELETE", "")
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if driver is None or chromium is None:
        pytest.skip("needs a browser: chromium and chromedriver are not here")
    started = Browser(driver, chromium, free_port())
    yield started
    started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running `demo` of a tiny model."""
    out = tmp_path_factory.mktemp("hf")
    tokenizer = train(["the old house is red", "das alte haus ist rot", "дом старый", "老い家"], 30, 1.0, 4096)
    tokenizer.save(out)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = XLMRobertaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=130, type_vocab_size=1, **sizes)
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(out)
    command = [sys.executable, "-m", "pipeline", "demo", str(out), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    match = re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
    assert match is not None
    yield match[0]
    process.terminate()
    process.wait(30)


def test_a_typed_pair_is_drawn(browser: Browser, address: str, tmp_path: Path) -> None:
    browser.ask("POST", "/url", url=address)
    browser.type("textarea[name=source]", "das alte Haus")
    browser.type("textarea[name=target]", "the old <b>house</b> 家")
    browser.run("document.querySelector('select[name=method]').value = 'argmax'")
    browser.run("document.querySelector('select[name=layer]').value = '1'")
    browser.ask("POST", f"{browser.find('button')}/click")
    browser.wait_for(".heat")
    links = browser.run("return document.querySelectorAll('svg line.link').length")
    assert (
        links == browser.run("return [...document.querySelectorAll('.heat td')].filter(c => c.textContent).length") > 0
    )
    words = browser.run("return [...document.querySelectorAll('svg text')].map(t => t.textContent)")
    assert words == ["das", "alte", "Haus", "the", "old", "<b>house</b>", "家"]
    assert browser.run("return document.querySelector('select[name=layer]').value") == "1"
    inside = browser.run(
        "const frame = document.querySelector('svg').getBoundingClientRect();"
        "return [...document.querySelectorAll('svg text')].every(t => {const b = t.getBoundingClientRect();"
        "return b.left >= frame.left && b.right <= frame.right && b.bottom <= frame.bottom})"
    )
    assert inside, "no word is cut off by the edge of the drawing"
    (tmp_path / "page.png").write_bytes(base64.b64decode(browser.ask("GET", "/screenshot")))
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_mistake_is_a_message_and_what_was_typed_stays(browser: Browser, address: str) -> None:
    browser.ask("POST", "/url", url=address)
    browser.type("textarea[name=source]", "")
    browser.type("textarea[name=target]", "das Haus")
    browser.ask("POST", f"{browser.find('button')}/click")
    browser.wait_for("[role=alert]")
    assert (
        browser.run("return document.querySelector('[role=alert]').textContent") == "the source has no words; give some"
    )
    assert browser.run("return document.querySelector('textarea[name=target]').value") == "das Haus"


def test_the_page_asks_nothing_of_anyone_else(browser: Browser, address: str) -> None:
    browser.ask("POST", "/url", url=address)
    asked = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in asked if not name.startswith((address, "data:"))] == []
