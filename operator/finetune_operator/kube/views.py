"""A pod of the API server as the core's view of it. Pure: called by the engine at every look.

Only what the API server says about a pod is used for money: its conditions and its container's
states, written by scheduler and kubelet. Its own message says what it did, never how long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import ValidationError

from finetune_api.report import TERMINATION_LIMIT_BYTES, Step, Termination
from finetune_api.times import parse_time
from finetune_api.usage import EndEvidence
from finetune_operator.cost.pods import PodView
from finetune_operator.kube.names import (
    ATTEMPT_ANNOTATION,
    ATTEMPT_LABEL,
    GATE,
    INDEX_ANNOTATION,
    POD_FINALIZER,
    RELEASED_AT_ANNOTATION,
    RUN_DIGEST_ANNOTATION,
    STEP_LABEL,
    TRAINER_CONTAINER,
)
from finetune_operator.kube.nodes import NodeLife, life_of
from finetune_operator.kube.placement import placement_of
from finetune_operator.kube.resources import Json

_LAST_WORDS = 2000
_UNKNOWN_END = "ContainerStatusUnknown"
"""The kubelet came back and found the container gone: its exit code is made up."""


@dataclass(frozen=True, kw_only=True)
class _End:
    """When a pod held nothing any more, and how that is known."""

    at: datetime
    evidence: EndEvidence
    confirmed: bool = True
    may_change: bool = False
    """Its node is there and silent: should it come back, it tells the end, or goes on."""


def pod_view(pod: Json, node: Json | None, now: datetime, node_lost: timedelta) -> PodView:
    """One pod as it is now.

    Parameters
    ----------
    pod
        As the API server has it.
    node
        The node that it is bound to, if it is bound and the node is there.
    now
        The moment of the look.
    node_lost
        How long a node may be silent until its pods count as ended.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    annotations = metadata.get("annotations", {})
    labels = metadata["labels"]
    bound_at = _bound_at(pod)
    life = life_of(node) if bound_at is not None else None
    container = _trainer_state(pod)
    terminated = container.get("terminated", {})
    end = _end(pod, bound_at, life, now, node_lost)
    step = Step(labels[STEP_LABEL])
    attempt = int(annotations.get(ATTEMPT_ANNOTATION) or labels[ATTEMPT_LABEL])
    worker = int(annotations[INDEX_ANNOTATION])
    message = str(terminated.get("message") or "")
    termination = _termination(message, step, attempt, worker)
    unknown = terminated.get("reason") == _UNKNOWN_END
    return PodView(
        uid=metadata["uid"],
        step=step,
        attempt=attempt,
        worker=worker,
        created_at=parse_time(metadata["creationTimestamp"]),
        released=not any(gate["name"] == GATE for gate in spec.get("schedulingGates", [])),
        released_at=_moment(annotations.get(RELEASED_AT_ANNOTATION)),
        run_digest=annotations.get(RUN_DIGEST_ANNOTATION),
        placement=placement_of(pod, node) if bound_at is not None else None,
        bound_at=bound_at,
        started_at=_moment((container.get("running") or terminated).get("startedAt")),
        finished_at=end.at if end else None,
        end_evidence=end.evidence if end else None,
        confirmed=end.confirmed if end else life is None or life.ready,
        silent=end is not None and end.may_change,
        exit_code=None if unknown else terminated.get("exitCode"),
        ended_as=terminated.get("reason"),
        last_words=message[-_LAST_WORDS:] if termination is None else "",
        termination=termination,
        disrupted=_disruption(pod),
        kept=POD_FINALIZER in metadata.get("finalizers", []),
        stopping="deletionTimestamp" in metadata,
        waiting=_waiting(pod, container),
    )


def _conditions(pod: Json) -> Sequence[Json]:
    found: Sequence[Json] = pod.get("status", {}).get("conditions", [])
    return found


def _condition(pod: Json, kind: str) -> Json | None:
    return next((one for one in _conditions(pod) if one["type"] == kind), None)


def _bound_at(pod: Json) -> datetime | None:
    """When the scheduler gave it its devices."""
    if not pod["spec"].get("nodeName"):
        return None
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is not None and scheduled["status"] == "True":
        return _moment(scheduled.get("lastTransitionTime"))
    # Bound by somebody who sets no condition: the kubelet's first word, or the pod's own start.
    return _moment(pod.get("status", {}).get("startTime") or pod["metadata"]["creationTimestamp"])


def _statuses(pod: Json) -> Sequence[Json]:
    found: Sequence[Json] = pod.get("status", {}).get("containerStatuses", [])
    return found


def _trainer_state(pod: Json) -> Json:
    """State of the trainer's container; empty before the kubelet has said anything of it."""
    status = next((one for one in _statuses(pod) if one["name"] == TRAINER_CONTAINER), {})
    state: Json = status.get("state", {})
    return state


def _end(
    pod: Json,
    bound_at: datetime | None,
    life: NodeLife | None,
    now: datetime,
    node_lost: timedelta,
) -> _End | None:
    """When it held nothing any more; None while it may still hold something.

    A deletionTimestamp is no end: it lies in the future while containers still run.
    """
    if bound_at is None:
        # Nothing binds a pod that is being deleted, or that has ended.
        gone = pod["metadata"].get("deletionTimestamp") or _ended_unbound(pod)
        return _End(at=parse_time(gone), evidence=EndEvidence.POD_GONE) if gone else None
    if _is_terminal(pod):
        return _terminal_end(pod, bound_at)
    if life is None:
        return None
    if life.gone:
        return _End(at=now, evidence=EndEvidence.NODE_GONE, confirmed=False)
    if not life.ready and life.lost_at is not None and now - life.lost_at >= node_lost:
        return _End(
            at=max(bound_at, life.lost_at),
            evidence=EndEvidence.NODE_GONE,
            confirmed=False,
            may_change=not _deleted_by_force(pod),
        )
    return None


def _deleted_by_force(pod: Json) -> bool:
    """Whether somebody said that there is nobody to wait for, who was not a kubelet."""
    metadata = pod["metadata"]
    return "deletionTimestamp" in metadata and not metadata.get("deletionGracePeriodSeconds")


def _is_terminal(pod: Json) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _ended_unbound(pod: Json) -> str | None:
    return pod["metadata"]["creationTimestamp"] if _is_terminal(pod) else None


def _terminal_end(pod: Json, bound_at: datetime) -> _End:
    """The end of a pod whose phase is final, by the best evidence there is."""
    states = [status.get("state", {}).get("terminated") for status in _statuses(pod)]
    ends = [state.get("finishedAt") for state in states if state]
    if states and len(ends) == len(states) and all(ends):
        return _End(at=max(map(parse_time, ends)), evidence=EndEvidence.CONTAINERS_TERMINATED)
    disruption = _condition(pod, "DisruptionTarget")
    if disruption is not None and disruption.get("lastTransitionTime"):
        at = parse_time(disruption["lastTransitionTime"])
        return _End(at=max(bound_at, at), evidence=EndEvidence.DISRUPTION, confirmed=False)
    # No container could say when: one that never started, or a phase set from outside. The devices
    # were free from the word that it had ended, if that is known, else from the newest sign.
    told = _phase_told_at(pod)
    moments = [one.get("lastTransitionTime") for one in _conditions(pod)]
    moments += [end for end in ends if end]
    signs = [parse_time(moment) for moment in moments if moment]
    at = max([bound_at, told] if told is not None else [bound_at, *signs])
    return _End(at=at, evidence=EndEvidence.LAST_SEEN, confirmed=False)


def _phase_told_at(pod: Json) -> datetime | None:
    """When its phase was written, by the API server's own clock and account of who wrote what."""
    for written in pod["metadata"].get("managedFields", []):
        fields = written.get("fieldsV1", {}).get("f:status", {})
        if written.get("subresource") == "status" and "f:phase" in fields:
            return _moment(written.get("time"))
    return None


def _disruption(pod: Json) -> str | None:
    condition = _condition(pod, "DisruptionTarget")
    if condition is None or condition["status"] != "True":
        return None
    return str(condition.get("reason") or "Disrupted")


def _waiting(pod: Json, container: Json) -> str | None:
    """Why it doesn't run yet, in the words of kubelet or scheduler."""
    waiting = container.get("waiting")
    if waiting is not None:
        return _words(waiting)
    scheduled = _condition(pod, "PodScheduled")
    if scheduled is not None and scheduled["status"] == "False":
        return _words(scheduled)
    return None


def _words(said: Json) -> str:
    return ": ".join(part for part in (said.get("reason"), said.get("message")) if part)


def _termination(message: str, step: Step, attempt: int, worker: int) -> Termination | None:
    """The message that the pod left; None if there is none, or one that isn't this pod's."""
    if not message or len(message.encode()) > TERMINATION_LIMIT_BYTES:
        return None
    try:
        told = Termination.model_validate_json(message)
    except ValidationError:
        return None
    return told if (told.step, told.attempt, told.worker) == (step, attempt, worker) else None


def _moment(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)
