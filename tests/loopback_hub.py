"""A hub on loopback: real sockets and the hub's own protocol, as huggingface_hub speaks it, over models in memory.

Names, revisions, files over a redirect as the hub hands out large ones, ranges, tokens, gates; creating, LFS uploads, commits.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN, READ_TOKEN = "hf_loopback", "hf_reads"
USER, ORGANIZATION = "alice", "lab"
_LARGE = (".safetensors", ".bin", ".model")
Files = dict[str, bytes]


@dataclass
class Model:
    """A repository: commits, refs, and who may read it."""

    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    claimed_size: int | None = None
    """Of every file, in what the hub says of it; None: its own."""

    def commit(self, files: Files, ref: str = "main") -> str:
        """Add a commit with these files beside those that the ref had; returns its hash."""
        content = {**self.commits.get(self.refs.get(ref, ""), {}), **files}
        digest = hashlib.sha1(
            repr((len(self.commits), sorted(content.items()))).encode(), usedforsecurity=False
        ).hexdigest()
        self.commits[digest], self.refs[ref] = content, digest
        return digest


class LoopbackHub(ThreadingHTTPServer):
    """Its models by name, and what was asked of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, Model] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.down = False
        self.refused = ""
        """What is in the paths of requests that it says no to."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def store(self) -> str:
        """Where large files lie: another host for a client, as it is with the hub."""
        return f"http://localhost:{self.server_address[1]}"

    def add(self, name: str, folder: Path, **traits: Any) -> Model:
        """Serve a folder's files as the main branch of a model."""
        model = self.models[name] = Model(**traits)
        model.commit({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
        return model


@contextmanager
def serving() -> Iterator[LoopbackHub]:
    """A hub that answers until the block ends."""
    with LoopbackHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class RefusedError(Exception):
    """What the hub says no with."""

    def __init__(self, status: int, code: str = "", message: str = "", **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackHub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path} {self.headers.get('Range') or ''}".rstrip())
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.server.down:
                raise RefusedError(503)
            if self.server.refused and self.server.refused in path:
                raise RefusedError(403, message="the storage of this account is full")
            for pattern, method in _ROUTES:
                if found := re.fullmatch(pattern, path):
                    method(self, body, **found.groupdict())
                    return
            raise RefusedError(404)
        except RefusedError as refused:
            self._send(
                refused.status,
                json.dumps({"error": refused.message, **refused.more}).encode(),
                {"X-Error-Code": refused.code, "X-Error-Message": refused.message},
            )

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    @property
    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _check_token(self, *accepted: str) -> None:
        if self._token is not None and self._token not in (TOKEN, READ_TOKEN):
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        if accepted and self._token is None:
            raise RefusedError(401, message="Invalid username or password.")
        if accepted and self._token not in accepted:
            raise RefusedError(403, message="You don't have the rights to create a model under this namespace")

    def _model(self, name: str) -> Model:
        self._check_token()
        model = self.server.models.get(name)
        if model is None or (model.private and self._token is None):
            raise RefusedError(404 if self._token else 401, "RepoNotFound", "Repository not found")
        return model

    def _commit(self, name: str, rev: str | None) -> tuple[Model, str]:
        model, rev = self._model(name), rev or "main"
        found = rev if rev in model.commits else model.refs.get(rev)
        if found is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {rev}")
        return model, found

    def info(self, body: bytes, name: str, rev: str | None = None) -> None:
        model, commit = self._commit(name, rev)
        files = model.commits[commit]
        siblings = [
            {"rfilename": path, "size": model.claimed_size or len(content), "blobId": git_oid(content)}
            for path, content in files.items()
        ]
        self._json(
            {
                "_id": "0",
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": model.private,
                "gated": "manual" if model.gated else False,
                "siblings": siblings,
            }
        )

    def tree(self, body: bytes, name: str, rev: str) -> None:
        model, commit = self._commit(name, rev)
        entries: list[dict[str, Any]] = []
        for path, content in model.commits[commit].items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
            if path.endswith(_LARGE):
                entry["lfs"] = {
                    "oid": hashlib.sha256(content).hexdigest(),
                    "size": len(content),
                    "pointerSize": 134,
                }
            entries.append(entry)
        self._json(entries)

    def resolve(self, body: bytes, name: str, rev: str, path: str) -> None:
        model, commit = self._commit(name, rev)
        if model.gated and self._token != TOKEN:
            raise RefusedError(403 if self._token else 401, "GatedRepo", f"Access to model {name} is restricted")
        content = model.commits[commit].get(path)
        if content is None:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not path.endswith(_LARGE):
            self._content(content, {**headers, "ETag": f'"{git_oid(content)}"'})
            return
        digest = hashlib.sha256(content).hexdigest()
        self.server.objects[digest] = content
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self._send(302, b"", {**headers, **linked, "Location": f"{self.server.store}/objects/{digest}"})

    def get_object(self, body: bytes, oid: str) -> None:
        self._content(self.server.objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted is None:
            self._send(200, content, headers)
            return
        first, size = int(wanted[1]), len(content)
        self._send(206, content[first:], {**headers, "Content-Range": f"bytes {first}-{size - 1}/{size}"})

    def whoami(self, body: bytes) -> None:
        self._check_token(TOKEN, READ_TOKEN)
        role = "read" if self._token == READ_TOKEN else "write"
        self._json(
            {
                "type": "user",
                "name": USER,
                "orgs": [{"type": "org", "name": ORGANIZATION}],
                "auth": {"type": "access_token", "accessToken": {"displayName": "test", "role": role}},
            }
        )

    def create(self, body: bytes) -> None:
        self._check_token(TOKEN)
        asked = json.loads(body)
        owner = asked.get("organization") or USER
        if owner not in (USER, ORGANIZATION):
            raise RefusedError(403, message="You don't have the rights to create a model under this namespace")
        name = f"{owner}/{asked['name']}"
        if name in self.server.models:
            raise RefusedError(409, message="You already created this model repo", url=f"{self.server.endpoint}/{name}")
        model = self.server.models[name] = Model(
            private=asked.get("visibility") == "private" or asked.get("private", False)
        )
        model.commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self._json({"url": f"{self.server.endpoint}/{name}"})

    def validate(self, body: bytes) -> None:
        found = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
        if found is None:
            raise RefusedError(400, message="no metadata")
        self._json({"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, rev: str) -> None:
        self._check_token(TOKEN)
        self._model(name)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(_LARGE) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def batch(self, body: bytes, name: str) -> None:
        self._check_token(TOKEN)
        href = f"{self.server.store}/objects/"
        objects = [
            {**each, "actions": {"upload": {"href": href + each["oid"]}}} for each in json.loads(body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def put_object(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusedError(400, message="another content than was announced")
        self.server.objects[oid] = body
        self._send(200, b"")

    def object(self, body: bytes, oid: str) -> None:
        (self.put_object if self.command == "PUT" else self.get_object)(body, oid)

    def commit(self, body: bytes, name: str, rev: str) -> None:
        self._check_token(TOKEN)
        model, files = self._model(name), {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        oid = model.commit(files, rev)
        self._json({"commitUrl": f"{self.server.endpoint}/{name}/commit/{oid}", "commitOid": oid, "hookOutput": ""})


_NAME = r"(?P<name>[^/]+/[^/]+)"
_ROUTES: list[tuple[str, Any]] = [
    (rf"/api/models/{_NAME}", _Handler.info),
    (rf"/api/models/{_NAME}/revision/(?P<rev>.+)", _Handler.info),
    (rf"/api/models/{_NAME}/tree/(?P<rev>[^/]+)", _Handler.tree),
    (rf"/api/models/{_NAME}/preupload/(?P<rev>.+)", _Handler.preupload),
    (rf"/api/models/{_NAME}/commit/(?P<rev>.+)", _Handler.commit),
    (r"/api/repos/create", _Handler.create),
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/validate-yaml", _Handler.validate),
    (r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.batch),
    (r"/objects/(?P<oid>[0-9a-f]{64})", _Handler.object),
    (rf"/{_NAME}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
