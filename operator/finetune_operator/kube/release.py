"""The release of a gang: the fence for what a stale operator might do (design.md §6).

What is decided from a cache is checked against the API server itself once more; then the gates go,
pod by pod, each patch bound to the pod as it was read.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from finetune_api.times import format_time, parse_time
from finetune_operator.core.decision import ReleaseGang
from finetune_operator.cost.pods import PodView
from finetune_operator.engine import EngineError
from finetune_operator.kube.names import ATTEMPT_ANNOTATION, GATE, RELEASED_AT_ANNOTATION
from finetune_operator.kube.resources import Json

Operation = dict[str, Any]


class NotReleasedError(EngineError):
    """A gang could not be released as it is: it is looked at anew."""


def check(action: ReleaseGang, views: Sequence[PodView], workers: int) -> None:
    """Refuse a release unless the whole gang is there and nothing of an earlier one lives (I1).

    ``views`` are all of the job's pods, read from the API server just now.
    """
    own = [pod for pod in views if pod.attempt == action.attempt and pod.step is action.step]
    others = [pod for pod in views if pod.attempt != action.attempt and pod.live and pod.released]
    if others:
        raise NotReleasedError(
            f"attempt {action.attempt} is not released: worker {others[0].worker} of attempt "
            f"{others[0].attempt} may still hold devices"
        )
    whole = {pod.worker for pod in own if pod.live and not pod.stopping}
    if whole != set(range(workers)):
        raise NotReleasedError(
            f"attempt {action.attempt} is not released: {len(whole)} of {workers} workers are there"
        )


def operations(pod: Json, attempt: int, now: datetime) -> list[Operation]:
    """The JSON patch that lets one pod go; empty if it has been let go."""
    gates = pod["spec"].get("schedulingGates", [])
    index = next((i for i, gate in enumerate(gates) if gate["name"] == GATE), None)
    if index is None:
        return []
    metadata = pod["metadata"]
    return [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {
            "op": "test",
            "path": "/metadata/resourceVersion",
            "value": metadata["resourceVersion"],
        },
        {
            "op": "add",
            "path": f"/metadata/annotations/{_escaped(ATTEMPT_ANNOTATION)}",
            "value": str(attempt),
        },
        {
            "op": "add",
            "path": f"/metadata/annotations/{_escaped(RELEASED_AT_ANNOTATION)}",
            "value": format_time(now.replace(microsecond=0)),
        },
        {"op": "remove", "path": f"/spec/schedulingGates/{index}"},
    ]


def started_at(job: Json, now: datetime) -> datetime:
    """When the clock of a batch Job's deadline began; now, if its controller hasn't begun it."""
    text = job.get("status", {}).get("startTime")
    return now if text is None else parse_time(text)


def without_finalizer(pod: Json, finalizer: str) -> list[Operation]:
    """The JSON patch that takes one finalizer from a pod, if the pod is still the one read."""
    metadata = pod["metadata"]
    index = list(metadata["finalizers"]).index(finalizer)
    path = f"/metadata/finalizers/{index}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]},
        {"op": "test", "path": path, "value": finalizer},
        {"op": "remove", "path": path},
    ]


def _escaped(key: str) -> str:
    """A key as a token of a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
