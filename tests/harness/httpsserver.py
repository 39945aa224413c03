"""A real HTTPS server on a folder, with an authority of its own; used by the tests of `https://`.

`/moved/…` redirects to another address on it, `/downgraded/…` to plain HTTP, `/refused` and
`/broken` answer 403 and 503, `/cut` ends before the length that it promised.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tools.cluster.certificates import make_certificates


@dataclass(frozen=True)
class HttpsServer:
    """Where it answers, and the PEM file of the authority that a client has to trust."""

    url: str
    authority: Path


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        host = self.headers["Host"]
        path = self.path.partition("?")[0]
        if path.startswith("/moved/"):
            self._redirect(f"https://{host}/{path.removeprefix('/moved/')}")
        elif path.startswith("/downgraded/"):
            self._redirect(f"http://{host}/{path.removeprefix('/downgraded/')}")
        elif path.startswith("/refused"):
            self.send_error(403)
        elif path.startswith("/broken"):
            self.send_error(503)
        elif path.startswith("/cut"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"text,label\n")
        else:
            super().do_GET()

    def _redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is inherited
        """Say nothing: the tests' output is theirs."""


@contextmanager
def running_https_server(folder: Path, certificates: Path) -> Iterator[HttpsServer]:
    """Serve `folder` until the block ends; keys are written to `certificates`."""
    made = make_certificates(certificates, addresses=("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.server_certificate, made.server_key)

    def handler(*arguments: Any) -> _Handler:
        return _Handler(*arguments, directory=str(folder))

    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield HttpsServer(f"https://127.0.0.1:{server.server_port}", made.authority)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
