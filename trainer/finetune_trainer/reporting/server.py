"""Serves a process's few pages from a thread of its own: what the operator pulls.

The train step's launcher serves its progress, the other steps the report that they made. It is up
before anything heavy is loaded or, for a report, once there is one.
"""

import errno
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from finetune_trainer.errors import NodeFaultError, UsageError

_SILENT_CLIENT_SECONDS = 5


@dataclass(frozen=True)
class Reply:
    """What is answered, and what is then done: once the client has been sent all of it."""

    body: bytes = b""
    content_type: str = "text/plain"
    status: HTTPStatus = HTTPStatus.OK
    then: Callable[[], None] = lambda: None


Pages = Mapping[str, Callable[[str], Reply]]
"""By method and path, such as ``GET /progress``: what answers. It is given the query."""


@contextmanager
def serving(listen: str | None, pages: Pages) -> Iterator[None]:
    """Serve on ``HOST:PORT`` while the block runs; nothing is served where ``listen`` is None.

    Raises
    ------
    UsageError
        If ``listen`` names no address of this machine.
    NodeFaultError
        If something else listens there; another attempt gets another place.
    """
    if listen is None:
        yield
        return
    host, _, port = listen.rpartition(":")
    try:
        server = _Server((host.strip("[]"), int(port)), _handler_for(pages))
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise NodeFaultError(
                f"FINETUNE_LISTEN is {listen!r}, and something else listens there"
            ) from error
        raise UsageError(
            f"FINETUNE_LISTEN is {listen!r}: can't serve there ({error}); "
            "it must be HOST:PORT of this machine"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="pages", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A client that never reads must not hold up the end of the step.
    block_on_close = False


def _handler_for(pages: Pages) -> type[BaseHTTPRequestHandler]:
    named = " or ".join(pages)

    class Handler(BaseHTTPRequestHandler):
        timeout = _SILENT_CLIENT_SECONDS
        server_version = "finetune-trainer"
        sys_version = ""

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path, _, query = self.path.partition("?")
            page = pages.get(f"{self.command} {path}")
            reply = (
                Reply(f"{named}\n".encode(), status=HTTPStatus.NOT_FOUND)
                if page is None
                else page(query)
            )
            self.send_response(reply.status)
            if reply.status is not HTTPStatus.NO_CONTENT:
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(reply.body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(reply.body)
            reply.then()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep polls out of the pod's log."""

    return Handler
