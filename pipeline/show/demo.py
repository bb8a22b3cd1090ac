"""A local page where one pastes a pair, picks layer and method and sees the links: `python -m pipeline demo HF_DIR`.

Plain HTML made here, without scripts or anything from elsewhere; only this machine is answered. Knows a model and
`pair_view`; a mistake in the form is told in the page.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from pipeline.align.aligner import Aligner
from pipeline.align.link_files import parse_pharaoh
from pipeline.model.transformers_encoder import AnyEncoder
from pipeline.settings.align_options import ENCODINGS, METHODS, AlignOptions, Chosen, resolve
from pipeline.show.pair_view import PairView, page_html, view_html
from pipeline.texts.sentence_pairs import split_raw, split_words
from pipeline.weights.loading import AnyTokenizer

HOST = "127.0.0.1"
LARGEST_FORM = 1 << 18
"""Bytes of a form; a pair that can be shown has far fewer."""
PATIENCE_SECONDS = 30
"""How long a connection may say nothing."""
EXAMPLE = {
    "source": "Yesterday she had not seen the old house .",
    "target": "Gestern hatte sie das alte Haus nicht gesehen .",
    "gold": "",
}
FORM_STYLE = (
    "<style>form{display:grid;gap:.6rem} textarea{width:100%;font:inherit;box-sizing:border-box} label{display:block} "
    ".row{display:flex;gap:1.2rem;flex-wrap:wrap;align-items:end} button{font:inherit;padding:.2rem 1.2rem}</style>"
)


def view_pair(
    encoder: AnyEncoder,
    tokenizer: AnyTokenizer,
    source: str,
    target: str,
    options: AlignOptions,
    *,
    raw: bool = False,
    gold: str = "",
) -> PairView:
    """Align one pair and put together what is shown of it; ValueError where it cannot be."""
    aligner = Aligner(encoder, tokenizer, options)
    split = split_raw if raw else split_words
    pair = split(source), split(target)
    similarities = aligner.similarities(pair)
    (links,) = aligner.align_scored([pair])
    sure, possible = parse_pharaoh(gold)
    past = [f"{i}-{j}" for i, j in sorted(possible) if not (0 <= i < len(pair[0]) and 0 <= j < len(pair[1]))]
    if past:
        raise ValueError(f"gold link {past[0]}: the pair has {len(pair[0])} and {len(pair[1])} words, counted from 0")
    return PairView(*pair, similarities, links, sure, possible, options.describe())


@dataclass
class Demo:
    """A model and how its page looks."""

    encoder: AnyEncoder
    tokenizer: AnyTokenizer
    name: str
    recorded: AlignOptions | None = None
    """What is chosen where the page opens, if the model has a record."""

    def __post_init__(self) -> None:
        self.options = resolve(self.encoder.config.layers, self.recorded)
        self._lock = threading.Lock()  # one pair at a time: PyTorch already uses every thread for it

    def page(self, form: dict[str, str]) -> tuple[HTTPStatus, str]:
        """The page for what was filled in (nothing: an example that is not aligned yet)."""
        if not form:
            return HTTPStatus.OK, self._page(EXAMPLE, "")
        try:
            with self._lock:
                view = view_pair(
                    self.encoder,
                    self.tokenizer,
                    form.get("source", ""),
                    form.get("target", ""),
                    self._options(form),
                    raw="raw" in form,
                    gold=form.get("gold", ""),
                )
        except ValueError as error:
            return HTTPStatus.BAD_REQUEST, self._page(form, message_html(str(error)))
        return HTTPStatus.OK, self._page(form, view_html(view))

    def _options(self, form: dict[str, str]) -> AlignOptions:
        text = form.get("layer", "")
        if text and not text.isdecimal():
            raise ValueError(f"layer {text!r}: choose a number")
        chosen = Chosen(int(text) if text else None, form.get("method"), form.get("encoding"))
        return resolve(self.encoder.config.layers, self.options, chosen)

    def _page(self, form: dict[str, str], below: str) -> str:
        chosen = form.get("layer") or str(self.options.layer)
        method, encoding = form.get("method") or self.options.method, form.get("encoding") or self.options.encoding
        layers = [str(layer) for layer in range(self.encoder.config.layers + 1)]
        checked = " checked" if "raw" in form else ""
        return page_html(
            f"""{FORM_STYLE}<form method="post" action="/">
<label>Source<textarea name="source" rows="2" dir="auto">{escape(form.get("source", ""))}</textarea></label>
<label>Target<textarea name="target" rows="2" dir="auto">{escape(form.get("target", ""))}</textarea></label>
<label>Gold links, if there are any: i-j sure, ipj possible, from 0<textarea name="gold" rows="1">{
                escape(form.get("gold", ""))
            }</textarea></label>
<div class="row"><label>Layer {_select("layer", layers, chosen)}</label>
<label>Method {_select("method", METHODS, method)}</label>
<label>Encoding {_select("encoding", ENCODINGS, encoding)}</label>
<label><input type="checkbox" name="raw" value="1"{checked}> split raw text into words</label>
<button>Align</button></div></form>
{below}""",
            f"Word alignment with {self.name}",
        )


def _select(name: str, choices: list[str] | tuple[str, ...], chosen: str) -> str:
    options = "".join(f"<option{' selected' if choice == chosen else ''}>{choice}</option>" for choice in choices)
    return f'<select name="{name}">{options}</select>'


def message_html(text: str) -> str:
    return f'<p class="message" role="alert">{escape(text)}</p>'


def make_server(demo: Demo, port: int) -> ThreadingHTTPServer:
    """A server on the loopback address; port 0 takes a free one. OSError where the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_SECONDS

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/":
                self._send(HTTPStatus.NOT_FOUND, page_html(message_html(f"{self.path}: there is only one page, /")))
                return
            self._send(*demo.page({}))

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > LARGEST_FORM:
                text = f"the form has {length or 'an unknown number of'} bytes, at most {LARGEST_FORM:,} are read; shorten it"
                self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, page_html(message_html(text)))
                return
            body = self.rfile.read(int(length)).decode("ascii", errors="replace")
            fields = parse_qs(body, keep_blank_values=True, errors="replace")
            self._send(*demo.page({"source": "", **{name: values[-1] for name, values in fields.items()}}))

        def _send(self, status: HTTPStatus, page: str) -> None:
            content = page.encode(errors="replace")
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:")
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a line a request would bury the address."""

    return _Server((HOST, port), Handler)


class _Server(ThreadingHTTPServer):
    """Goes on, without a word, when a browser leaves before its answer."""

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]
