"""The page of `demo` and the pictures of `show`: what is filled in comes back aligned, a mistake as a message."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from pipeline.align.aligner import Aligner
from pipeline.show.demo import HOST, LARGEST_FORM, Demo, make_server
from pipeline.weights.loading import load_model
from tests.pipeline.conftest import Done

Use = Callable[..., Done]
PAIR = {"source": "the quick fox", "target": "der schnelle fuchs"}


class Page:
    """Talks to a running demo."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str = "GET", path: str = "/", body: bytes = b"", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8")
        connection.close()
        return answer.status, text

    def fill_in(self, **fields: str) -> tuple[int, str]:
        return self.ask("POST", body=urlencode(fields).encode())


@pytest.fixture(scope="module")
def page(hf_dir: Path) -> Iterator[Page]:
    server = make_server(Demo(*load_model(hf_dir), "tiny <model>"), 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Page(server.server_address[1])
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_page_is_on_loopback_only_and_shows_an_example(page: Page) -> None:
    status, text = page.ask()
    assert status == 200 and "Yesterday she had not seen" in text and "<svg" not in text
    assert "tiny &lt;model&gt;" in text
    assert HOST == "127.0.0.1"


@pytest.mark.parametrize("method", ["ot-filter", "ot", "argmax"])
def test_a_pair_comes_back_with_the_links_of_the_aligner(page: Page, hf_dir: Path, method: str) -> None:
    status, text = page.fill_in(**PAIR, layer="1", method=method, encoding="separate", gold="0-0 1p1")
    (links,) = Aligner.load(hf_dir, 1, method=method, encoding="separate").align([tuple(PAIR.values())])  # type: ignore[arg-type]
    assert status == 200 and text.count("●") == len(links) + 1, "every link in the heat map, and the legend"
    assert text.count('class="sure"') == text.count('class="possible"') == 1
    assert f"<option selected>{method}</option>" in text and "<option selected>1</option>" in text


def test_raw_text_is_split(page: Page) -> None:
    assert ">quick,<" in page.fill_in(source="quick, fox", target="fuchs")[1]
    assert ">quick,<" not in page.fill_in(source="quick, fox", target="fuchs", raw="1")[1]


MISTAKES = {
    "nothing filled in": ({}, "the source has no words"),
    "no target": ({"source": "a", "target": " \t"}, "the target has no words"),
    "too long": ({**PAIR, "target": "fox " * 500}, "tokens, at most 62 can be shown; shorten it"),
    "unknown layer": ({**PAIR, "layer": "9"}, "layer 9: the model has 3 layers"),
    "layer of letters": ({**PAIR, "layer": "two"}, "layer &#x27;two&#x27;: choose a number"),
    "unknown method": ({**PAIR, "method": "<best>"}, "method &#x27;&lt;best&gt;&#x27;: choose ot-filter"),
    "unknown encoding": ({**PAIR, "encoding": "x"}, "encoding &#x27;x&#x27;: choose"),
    "gold of letters": ({**PAIR, "gold": "a-b"}, "&#x27;a-b&#x27; is not a link"),
    "gold past the end": ({**PAIR, "gold": "0-0 7-1"}, "gold link 7-1: the pair has 3 and 3 words"),
    "lone surrogate": ({"source": "\ud800", "target": "a"}, ""),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_a_message_in_the_page_with_what_was_filled_in(page: Page, mistake: str) -> None:
    fields, message = MISTAKES[mistake]
    status, text = page.ask("POST", body=urlencode(fields, errors="surrogatepass").encode())
    if not message:
        assert status in (200, 400)
        return
    assert status == 400 and 'role="alert"' in text and message in text
    assert fields.get("source", "") in text and "<textarea" in text


@pytest.mark.parametrize(
    ("body", "status"), [(b"\xff\xfe\x00=%zz&&&=;", 400), (b"source=%ff%ff&target=%00", 200), (b"a" * 999, 400)]
)
def test_no_bytes_bring_the_page_down(page: Page, body: bytes, status: int) -> None:
    assert page.ask("POST", body=body)[0] == status
    assert page.ask()[0] == 200


def test_a_form_too_large_or_of_no_size_is_not_read(page: Page) -> None:
    assert page.ask("POST", **{"Content-Length": str(LARGEST_FORM + 1)})[0] == 413
    assert page.ask("POST", **{"Content-Length": "many"})[0] == 413


def test_other_paths_are_not_found(page: Page) -> None:
    assert page.ask(path="/etc/passwd")[0] == 404


def test_show_writes_pictures(use: Use, hf_dir: Path, tmp_path: Path) -> None:
    files = tmp_path / "pair.png", tmp_path / "pair.html"
    done = use("show", hf_dir, *PAIR.values(), "--gold", "0-0", "--out", files[0], "--out", files[1], "--layer", 2)
    assert done.code == 0 and "layer 2, argmax, separate" in done.out
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in files[1].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["the fox", ""], "the target has no words"),
        (["the fox", "fuchs", "--out", "pair.gif"], "pictures are .png or .html"),
        (["the fox", "fuchs", "--gold", "0:0"], "'0:0' is not a link"),
        (["the fox", "fuchs", "--layer", "7"], "the model has 3 layers"),
    ],
)
def test_a_mistake_of_show_is_one_line(use: Use, hf_dir: Path, words: list[str], message: str) -> None:
    done = use("show", hf_dir, *words)
    assert done.code == 1 and message in done.error


def test_a_taken_port_is_one_line(use: Use, hf_dir: Path, page: Page) -> None:
    done = use("demo", hf_dir, "--port", page.port)
    assert done.code == 1 and f"--port {page.port}: Address already in use" in done.error
