"""What a training serves: ``/progress`` (JSON) and ``/metrics`` (Prometheus).

Read only, and without secrets.
"""

from prometheus_client import CONTENT_TYPE_LATEST

from finetune_trainer.reporting.metrics import render_metrics
from finetune_trainer.reporting.progress import ProgressLog
from finetune_trainer.reporting.server import Pages, Reply


def progress_pages(log: ProgressLog) -> Pages:
    """The pages over a log, as it stands whenever one is asked for."""

    def progress(_: str) -> Reply:
        body = log.snapshot().model_dump_json(by_alias=True, exclude_none=True)
        return Reply(body.encode(), "application/json")

    def metrics(_: str) -> Reply:
        return Reply(render_metrics(log.snapshot), CONTENT_TYPE_LATEST)

    return {"GET /progress": progress, "GET /metrics": metrics}
