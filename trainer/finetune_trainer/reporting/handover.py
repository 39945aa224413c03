"""Hands a step's report over: serves it until the operator says that it has kept it.

Called by ``__main__`` for prepare and evaluate. On a cluster nobody else can read the workspace's
volume, so the pod itself gives the report away before it ends.
"""

import hashlib
import logging
import threading
import time
from http import HTTPStatus
from urllib.parse import parse_qs

from finetune_trainer.reporting.server import Reply, serving
from finetune_trainer.training.stop import StopRequest

_LOOK_SECONDS = 0.1
_log = logging.getLogger(__name__)


def hand_over(listen: str, seconds: float, report: bytes) -> None:
    """Serve ``GET /report`` until ``POST /report/ack?digest=sha256:…`` names these very bytes.

    It ends without, and is none the worse for it, after ``seconds`` or when the process is asked to
    stop: the work is done, and running the step again serves the same report.

    Raises
    ------
    UsageError, NodeFaultError
        If nothing can be served on ``listen``.
    """
    digest = f"sha256:{hashlib.sha256(report).hexdigest()}"
    kept = threading.Event()
    stop = StopRequest()
    stop.install()

    def acknowledge(query: str) -> Reply:
        if parse_qs(query).get("digest") != [digest]:
            return Reply(f"the report is {digest}\n".encode(), status=HTTPStatus.CONFLICT)
        return Reply(status=HTTPStatus.NO_CONTENT, then=kept.set)

    pages = {
        "GET /report": lambda _: Reply(report, "application/json"),
        "POST /report/ack": acknowledge,
    }
    ends = time.monotonic() + seconds
    with serving(listen, pages):
        _log.info("serving the report on %s until it is kept", listen)
        while not kept.wait(_LOOK_SECONDS):
            if stop.requested or time.monotonic() > ends:
                _log.warning("nobody said that the report %s is kept", digest)
                return
