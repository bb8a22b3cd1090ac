"""The commands that show a model at work on one pair: `show` writes pictures, `demo` serves a local page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from data_prep.files import check_output, write_text
from data_prep.standard_output import put
from pipeline.commands.options import (
    DeviceOption,
    DtypeOption,
    EncodingOption,
    LayerOption,
    MethodOption,
    ModelDir,
    TokenizerDir,
)
from pipeline.settings.align_options import Chosen, note, resolve

PORT = 8000


def show_command(
    hf_dir: ModelDir,
    source: Annotated[str, typer.Argument(help="words separated by spaces")],
    target: Annotated[str, typer.Argument(help="its translation")],
    gold: Annotated[str, typer.Option(help="gold links, i-j sure and ipj possible, from 0")] = "",
    out: Annotated[list[Path] | None, typer.Option(help="PNG or HTML file, by its suffix; may be repeated")] = None,
    layer: LayerOption = None,
    method: MethodOption = None,
    encoding: EncodingOption = None,
    raw: Annotated[bool, typer.Option("--raw", help="untokenised text: split into words first")] = False,
    tokenizer: TokenizerDir = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Draw a pair's alignment: similarities as a heat map, predicted links and gold links on it.

    Example: python -m pipeline show hf/base "the house" "das Haus" --gold "0-0 1-1" --out pair.png --out pair.html
    """
    from pipeline.model.devices import choose_place
    from pipeline.show.demo import view_pair
    from pipeline.show.fonts import MissingFontsError
    from pipeline.show.pair_view import page_html, view_html
    from pipeline.show.picture import draw_heat_map
    from pipeline.weights.loading import load

    files = out or [Path("alignment.png")]
    for path in files:
        if path.suffix not in (".png", ".html"):
            raise ValueError(f"--out {path}: pictures are .png or .html; give one of these suffixes")
        check_output(path)
    place = choose_place(device, dtype)
    loaded = load(hf_dir, tokenizer).to(place)
    options = resolve(loaded.encoder.config.layers, loaded.recorded, Chosen(layer, method, encoding))
    print(f"note: {note(options, place)}", file=sys.stderr)
    view = view_pair(loaded.encoder, loaded.tokenizer, source, target, options, raw=raw, gold=gold)
    written = []
    for path in files:
        try:
            if path.suffix == ".png":
                draw_heat_map(view, path)
                written.append(path)
                continue
        except MissingFontsError as error:
            print(f"note: {path} is written as .html: {error}", file=sys.stderr)
        written.append(path.with_suffix(".html"))
        write_text(written[-1], page_html(view_html(view)))
    put(f"{view.title}; {', '.join(map(str, dict.fromkeys(written)))}")


def demo_command(
    hf_dir: ModelDir,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = PORT,
    tokenizer: TokenizerDir = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Serve a page on this machine where one pastes a pair, picks layer and method, and sees the links.

    The page answers this machine only; of a remote one, open it through `ssh -L 8000:127.0.0.1:8000 HOST`.

    Example: python -m pipeline demo hf/base --port 8000
    """
    from pipeline.model.devices import choose_place
    from pipeline.show.demo import HOST, Demo, make_server
    from pipeline.weights.loading import load

    place = choose_place(device, dtype)
    loaded = load(hf_dir, tokenizer).to(place)
    demo = Demo(loaded.encoder, loaded.tokenizer, hf_dir.absolute().name, loaded.recorded)
    try:
        server = make_server(demo, port)
    except OSError as error:
        raise ValueError(f"--port {port}: {error.strerror}; give another, or 0 for any free one") from None
    print(f"note: unless the page says otherwise, {note(demo.options, place)}", file=sys.stderr)
    put(f"http://{HOST}:{server.server_address[1]}/ shows {hf_dir}; Ctrl-C ends it", flush=True)
    with server:
        server.serve_forever()
