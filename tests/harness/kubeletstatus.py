"""The status of a pod in a kubelet's words, from what has happened to its container. Pure.

Written after what the real kubelet of Kubernetes 1.34 reports. All moments are whole seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_api.times import format_time
from harness.clusterclient import Object
from harness.kubeletscript import Ending

MESSAGE_LIMIT_BYTES = 4096
NODE_ADDRESS = "127.0.0.1"
_UNKNOWN = {
    "exitCode": 137,
    "reason": "ContainerStatusUnknown",
    "message": "The container could not be located when the pod was terminated",
}


@dataclass(frozen=True, kw_only=True)
class Life:
    """What has become of a pod's container so far."""

    began: datetime
    """When the kubelet took the pod."""
    waiting: tuple[str, str] = ("ContainerCreating", "")
    """Reason and message, before it has started."""
    ip: str = ""
    started: datetime | None = None
    ready: bool = False
    finished: datetime | None = None
    ending: Ending | None = None


def whole_now() -> datetime:
    """The present second, as Kubernetes writes moments."""
    return datetime.now(UTC).replace(microsecond=0)


def pod_status(
    pod: Object, life: Life, before: Mapping[str, Object]
) -> tuple[Object, dict[str, Object]]:
    """Return the status to report, and its conditions by type.

    A condition whose status is that of `before` keeps its moment.
    """
    conditions = {one["type"]: one for one in _conditions(life)}
    for kind, condition in conditions.items():
        old = before.get(kind)
        same = old is not None and old["status"] == condition["status"]
        condition["lastTransitionTime"] = (
            old["lastTransitionTime"] if old is not None and same else format_time(whole_now())
        )
    status: Object = {
        "phase": _phase(life),
        "hostIP": NODE_ADDRESS,
        "hostIPs": [{"ip": NODE_ADDRESS}],
        "startTime": format_time(life.began),
        "conditions": list(conditions.values()),
        "containerStatuses": [container_status(pod, life)],
    }
    if life.ip:
        status |= {"podIP": life.ip, "podIPs": [{"ip": life.ip}]}
    if life.ending is not None and life.ending.evicted:
        status |= {"reason": "Evicted", "message": life.ending.evicted}
    return status, conditions


def container_status(pod: Object, life: Life) -> Object:
    """Return the status of the pod's one container."""
    container = pod["spec"]["containers"][0]
    running = life.started is not None and life.ending is None
    status: Object = {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"{container['image']}@simulated" if life.started else "",
        "ready": running and life.ready,
        "started": running,
        "restartCount": 0,
        "lastState": {},
        "state": _state(pod, life),
    }
    if life.started is not None:
        status["containerID"] = _container_id(pod)
    return status


def _state(pod: Object, life: Life) -> Object:
    if life.ending is not None:
        if life.started is None:
            return {"terminated": dict(_UNKNOWN)}
        return {"terminated": _terminated(pod, life, life.ending, life.started)}
    if life.started is not None:
        return {"running": {"startedAt": format_time(life.started)}}
    reason, message = life.waiting
    return {"waiting": {"reason": reason, "message": message} if message else {"reason": reason}}


def _terminated(pod: Object, life: Life, ending: Ending, started: datetime) -> Object:
    state: Object = {
        "exitCode": ending.exit_code,
        "reason": ending.reason or ("Completed" if ending.exit_code == 0 else "Error"),
        "containerID": _container_id(pod),
        "startedAt": format_time(started),
    }
    if ending.moment_known and life.finished is not None:
        state["finishedAt"] = format_time(life.finished)
    message = ending.message
    policy = pod["spec"]["containers"][0].get("terminationMessagePolicy")
    if not message and ending.exit_code != 0 and policy == "FallbackToLogsOnError":
        message = ending.log
    if message:
        tail = message.encode()[-MESSAGE_LIMIT_BYTES:]
        state["message"] = tail.decode(errors="replace")
    return state


def _container_id(pod: Object) -> str:
    return f"simulated://{pod['metadata']['uid']}"


def _phase(life: Life) -> str:
    if life.ending is not None:
        done = life.started is not None and life.ending.exit_code == 0 and not life.ending.evicted
        return "Succeeded" if done else "Failed"
    return "Pending" if life.started is None else "Running"


def _conditions(life: Life) -> list[Object]:
    phase = _phase(life)
    over = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}.get(phase)
    up = life.started is not None and life.ending is None
    ready = _condition("Ready", holds=up and life.ready, otherwise=over or "ContainersNotReady")
    conditions = [
        _condition("PodReadyToStartContainers", holds=up),
        _condition("Initialized", holds=True, told="PodCompleted" if phase == "Succeeded" else ""),
        ready,
        {**ready, "type": "ContainersReady"},
    ]
    if life.ending is not None and life.ending.evicted:
        conditions.append(
            {
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "TerminationByKubelet",
                "message": life.ending.evicted,
            }
        )
    return conditions


def _condition(kind: str, *, holds: bool, otherwise: str = "", told: str = "") -> Object:
    reason = told if holds else otherwise
    # In a patch, null takes away what was said before.
    return {"type": kind, "status": "True" if holds else "False", "reason": reason or None}
