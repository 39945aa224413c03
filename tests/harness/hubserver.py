"""The protocol of the Hugging Face Hub on this machine, for its own client to talk to.

Repositories are folders, each at one commit, which is its branch's head too. As on the hub, large
files lie apart: their address redirects, and the listing has their digests. What may not be read is
refused by the hub's codes.
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

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_BYTES = 100_000
BRANCH = "main"
_WRITTEN = re.compile(r"/api/models/([^/]+/[^/]+)/(auth-check/write|preupload/main|commit/main)")
_BATCH = re.compile(r"/([^/]+/[^/]+)[.]git/info/lfs/objects/batch")
_UPLOAD = re.compile(r"/upload/([0-9a-f]{64})")
_TREE = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/?]+)")
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_APART = re.compile(r"/apart/(models|datasets)/([^/]+/[^/]+)/(.+)")


@dataclass(frozen=True)
class Repository:
    """A folder that is served, and what reading it takes."""

    folder: Path
    token: str | None = None
    gated: bool = False
    writer: str | None = None
    """Whose token may write; nobody's if unset."""


@dataclass
class HubServer:
    """What is served, by kind and name, and what was asked for."""

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    """Paths of the files whose bytes went out."""
    status: int | None = None
    """Answered to everything, if set."""
    digest_of_others: str | None = None
    """Told of every large file, if set."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    """Large files that came, by their digests; a commit puts them into a repository."""
    commits: list[list[str]] = field(default_factory=list)
    """Of each commit what it did to which path."""
    refuse_commits: bool = False
    """Whether they are answered by 503, with nothing done."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif found := _BATCH.fullmatch(path):
            if self._writable(found[1]):
                self._batch(json.loads(sent))
        elif (found := _WRITTEN.fullmatch(path)) is None:
            self._refuse(404, "")
        elif (folder := self._writable(found[1])) is None:
            return
        elif found[2].startswith("preupload"):
            files = json.loads(sent)["files"]
            self._json({"files": [_upload_mode(one) for one in files]})
        elif self.hub.refuse_commits:
            self._refuse(503, "")
        else:
            self._commit(found[1], folder, [json.loads(line) for line in sent.splitlines()])

    def do_PUT(self) -> None:
        found = _UPLOAD.fullmatch(self.path)
        assert found is not None
        content = self.rfile.read(int(self.headers["Content-Length"]))
        assert hashlib.sha256(content).hexdigest() == found[1]
        self.hub.uploads[found[1]] = content
        self._start(200, 0, {})

    def _writable(self, name: str) -> Path | None:
        folder = self._readable("models", name, BRANCH)
        if folder is None:
            return None
        told = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if told and told == self.hub.repositories["models", name].writer:
            return folder
        self._refuse(403, "")
        return None

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.hub.uploads:
                href = f"{self.hub.url}/upload/{one['oid']}"
                answer["actions"] = {"upload": {"href": href}}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, folder: Path, lines: list[dict[str, Any]]) -> None:
        done = []
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "header":
                continue
            path = folder / value["path"]
            if key == "deletedFile":
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(
                    self.hub.uploads[value["oid"]]
                    if key == "lfsFile"
                    else base64.b64decode(value["content"])
                )
            done.append(f"{key} {value['path']}")
        self.hub.commits.append(done)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _json(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self._start(200, len(content), {"Content-Type": "application/json"})
        self.wfile.write(content)

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        if self.hub.status is not None:
            self._refuse(self.hub.status, "")
        elif found := _WRITTEN.fullmatch(path):
            if self._writable(found[1]):
                self._start(200, 0, {})
        elif found := _TREE.fullmatch(path):
            self._tree(*found.groups())
        elif found := _APART.fullmatch(path):
            kind, name, inside = found.groups()
            self._bytes(self.hub.repositories[kind, name].folder / inside, body=body)
        elif found := _FILE.fullmatch(path):
            kind = "datasets" if found[1] else "models"
            self._file(kind, found[2], found[3], found[4], body=body)
        else:
            self._refuse(404, "")

    def _readable(self, kind: str, name: str, commit: str) -> Path | None:
        repository = self.hub.repositories.get((kind, name))
        told = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository is None or (repository.token not in {None, told}):
            self._refuse(401, "RepoNotFound")
        elif repository.gated:
            self._refuse(403, "GatedRepo")
        elif commit not in {COMMIT, BRANCH}:
            self._refuse(404, "RevisionNotFound")
        else:
            return repository.folder
        return None

    def _tree(self, kind: str, name: str, commit: str) -> None:
        folder = self._readable(kind, name, commit)
        if folder is None:
            return
        inside = folder.rglob("*") if "recursive=true" in self.path.lower() else folder.iterdir()
        told = self.hub.digest_of_others
        self._json([_entry(one, folder, told) for one in sorted(inside)])

    def _file(self, kind: str, name: str, commit: str, inside: str, *, body: bool) -> None:
        folder = self._readable(kind, name, commit)
        if folder is None:
            return
        file = folder / inside
        if not file.is_file():
            self._refuse(404, "EntryNotFound")
            return
        size = file.stat().st_size
        if size < LARGE_BYTES:
            self._bytes(file, body=body)
            return
        self._start(
            302,
            0,
            {
                "Location": f"{self.hub.url}/apart/{kind}/{name}/{inside}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(size),
                "X-Linked-ETag": f'"{_sha256(file)}"',
            },
        )

    def _bytes(self, file: Path, *, body: bool) -> None:
        content = file.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_sha256(file)}"'}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        status = 200
        if asked:
            status, begin = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            content = content[begin:]
        self._start(status, len(content), headers)
        if body:
            self.hub.sent.append(file.name)
            self.wfile.write(content)

    def _refuse(self, status: int, code: str) -> None:
        self._start(status, 0, {"X-Error-Code": code} if code else {})

    def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        """Say nothing: the tests' output is theirs."""


def _entry(path: Path, folder: Path, told: str | None) -> dict[str, Any]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
    size = path.stat().st_size
    entry = {"type": "file", "path": name, "size": size, "oid": _sha256(path)[:40]}
    if size >= LARGE_BYTES:
        entry["lfs"] = {"oid": told or _sha256(path), "size": size, "pointerSize": 134}
    return entry


def _upload_mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["size"] >= LARGE_BYTES else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """Serve, on loopback, what is put into `repositories`, until the block ends."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
