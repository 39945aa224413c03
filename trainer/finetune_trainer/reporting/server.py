"""Serves ``/progress`` (JSON) and ``/metrics`` (Prometheus) from a thread of worker 0's launcher.

Read only, without secrets, and up before anything heavy is loaded. The operator pulls.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from finetune_trainer.errors import UsageError
from finetune_trainer.reporting.metrics import render_metrics
from finetune_trainer.reporting.progress import ProgressLog

_SILENT_CLIENT_SECONDS = 5


@contextmanager
def serving(listen: str | None, log: ProgressLog) -> Iterator[None]:
    """Serve on ``HOST:PORT`` while the block runs; nothing is served where ``listen`` is None.

    Raises
    ------
    UsageError
        If ``listen`` names no address of this machine, or one that is taken.
    """
    if listen is None:
        yield
        return
    host, _, port = listen.rpartition(":")
    try:
        server = _Server((host.strip("[]"), int(port)), _handler_for(log))
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"FINETUNE_LISTEN is {listen!r}: can't serve progress there ({error}); "
            "it must be HOST:PORT, free on this machine"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A client that never reads must not hold up the end of training.
    block_on_close = False


def _handler_for(log: ProgressLog) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _SILENT_CLIENT_SECONDS
        server_version = "finetune-trainer"
        sys_version = ""

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/progress":
                    body = log.snapshot().model_dump_json(by_alias=True, exclude_none=True)
                    self._answer(200, "application/json", body.encode())
                case "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, render_metrics(log.snapshot))
                case _:
                    self._answer(404, "text/plain", b"/progress or /metrics\n")

        def _answer(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep polls out of the pod's log."""

    return Handler
