"""Sources behind a URL: the same shards as of local files, and one line where they cannot be fetched."""

import functools
import gzip
import http.server
import lzma
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from data_prep.text.stored import parse_location
from data_prep.token_files.manifest import Manifest
from data_prep.tokenizers.tokenizer import Tokenizer
from tests.data_prep.source_kit import make_pairs

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A local HTTP server of the folder `served`."""
    (tmp_path / "served").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_a_remote_file_gives_the_same_shards_as_a_local_copy(
    server: str, mono_file: Path, mono: Run, run: Run, tokenizer_dir: Path, tmp_path: Path, files_under: Callable
) -> None:
    archive = lzma.compress(mono_file.read_bytes())
    (tmp_path / "served" / "de.txt.xz").write_bytes(archive)
    (tmp_path / "de.txt.xz").write_bytes(archive)
    with fsspec.open("memory://corpora/de.txt.xz", "wb") as file:
        file.write(archive)
    assert mono(tmp_path / "de.txt.xz")[0] == 0
    local = files_under(tmp_path / "data")
    for number, url in enumerate([f"{server}/de.txt.xz", "memory://corpora/de.txt.xz", f"file://{tmp_path}/de.txt.xz"]):
        out = tmp_path / f"remote{number}"
        code, _, err = run("mono", url, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", out)
        assert code == 0, err
        assert files_under(out) == local


def test_remote_archives_and_records_are_read_too(
    server: str, parallel: Run, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    for kind in ("zip", "tmx", "parquet"):
        path, *options = make_pairs(kind, tmp_path / "served")
        code, _, err = parallel(f"{server}/{path.name}", *options, "--add")
        assert code == 0, err
    assert len(Manifest.load(tmp_path / "data").sources) == 3


def test_what_cannot_be_fetched_is_one_line(server: str, mono: Run, tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/x.txt"
    (tmp_path / "served" / "empty.txt").write_bytes(b"")
    (tmp_path / "served" / "wrong.xz").write_bytes(b"plain\n")
    for url, part in [
        (f"{server}/none.txt", "no such file"),
        (closed, "cannot be fetched"),
        ("memory://none.txt", "no such file"),
        ("nowhere://x/y.txt", "rotocol"),
        (f"{server}/empty.txt", "empty file"),
        (f"{server}/wrong.xz", "named as .xz"),
    ]:
        code, _, err = mono(url)
        assert (code, err.count("error:")) == (1, 1), err
        assert url in err
        assert part in err


def test_names_of_urls_are_their_last_part() -> None:
    names = [parse_location(url).name for url in ("https://x.org/a/b.tmx?download=1", "s3://bucket/c.zst", "/d/e.txt")]
    assert names == ["b.tmx", "c.zst", "e.txt"]


@pytest.fixture
def coded_server() -> Iterator[Callable[[dict[str, tuple[str, bytes]]], str]]:
    """Serve bodies, each with the Content-Encoding that it is given."""
    bodies: dict[str, tuple[str, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            coding, body = bodies[self.path]
            self.send_response(200)
            self.send_header("Content-Encoding", coding)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    def serve(new: dict[str, tuple[str, bytes]]) -> str:
        bodies.update(new)
        return f"http://127.0.0.1:{httpd.server_port}"

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield serve
        httpd.shutdown()


def test_an_archive_that_a_server_labels_as_coded_is_the_archive(
    coded_server: Callable, mono: Run, run: Run, tokenizer_dir: Path, tmp_path: Path, files_under: Callable
) -> None:
    text = b"the cat\n" * 300
    archive = gzip.compress(text)
    url = coded_server(
        {
            "/labelled/x.txt.gz": ("gzip", archive),
            "/twice/x.txt.gz": ("gzip", gzip.compress(archive)),
            "/plain/x.txt": ("gzip", archive),
            "/plain/x.txt.xz": ("x-gzip", gzip.compress(lzma.compress(text))),
            "/wrong/x.txt": ("gzip", text),
        }
    )
    for name, content in (("x.txt.gz", archive), ("x.txt", text), ("x.txt.xz", lzma.compress(text))):
        (tmp_path / name).write_bytes(content)
    for number, remote in enumerate(
        ["labelled/x.txt.gz", "twice/x.txt.gz", "plain/x.txt", "plain/x.txt.xz", "wrong/x.txt"]
    ):
        local = tmp_path / remote.split("/")[1]
        found, wanted = tmp_path / f"remote{number}", tmp_path / f"local{number}"
        for source, out in ((f"{url}/{remote}", found), (local, wanted)):
            code, _, err = run("mono", source, "--lang", "de", "--tokenizer", tokenizer_dir, "--out", out)
            assert code == 0, err
        assert files_under(found) == files_under(wanted), remote


def test_a_coding_that_is_not_known_is_one_line(coded_server: Callable, mono: Run) -> None:
    url = coded_server({"/x.txt": ("br", b"\x0b\x02\x80abc\x03")})
    code, _, err = mono(f"{url}/x.txt")
    assert (code, err.count("error:")) == (1, 1)
    assert "is sent with Content-Encoding: br; download it" in err
