"""Why an attempt ended: from its pods' ends to one outcome. Asked once per attempt.

Order of evidence: any pod's disruption, then the earliest pod that ended neither with 0 nor with
75 and did not only lose a peer, then its reason. 137 alone is no out-of-memory: a kill looks the
same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from finetune_api.report import ExitCode, FailureClass, Step
from finetune_operator.cost.pods import PodView

_NEVER = datetime.max.replace(tzinfo=UTC)

_OUT_OF_MEMORY = "OOMKilled"
COMPLETED = "Completed"
STOPPED = "Stopped"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended. ``failure`` is None when it completed or was stopped in order."""

    reason: str
    message: str
    failure: FailureClass | None = None
    rank: int | None = None
    node: str | None = None
    traceback: str = ""


_BY_EXIT_CODE: dict[int, FailureClass] = {
    ExitCode.USAGE: FailureClass.USER_ERROR,
    ExitCode.DATA: FailureClass.DATA_ERROR,
    ExitCode.DEVICE_OUT_OF_MEMORY: FailureClass.DEVICE_OOM,
    ExitCode.STORAGE: FailureClass.STORAGE,
}


_ASKED_BECAUSE_OF = frozenset(
    {FailureClass.STALLED, FailureClass.UNSCHEDULABLE, FailureClass.IMAGE_PULL}
)
"""Failures for which we ourselves end an attempt."""


def classify(
    step: Step, pods: Sequence[PodView], asked_to_stop: str | None, asked_why: str = ""
) -> Outcome:
    """The outcome of an attempt whose pods have all ended.

    ``asked_to_stop`` is the reason of our own request, if there was one, and ``asked_why`` its
    message: its consequences in the pods (75, or 137 past the grace) are no failures, except where
    the request was made because of one (a stall).
    """
    if asked_to_stop in _ASKED_BECAUSE_OF:
        return _failed(FailureClass(asked_to_stop), asked_why)
    if not pods:
        return _failed(FailureClass.NODE_FAULT, "Its pods are gone without a trace.")
    if all(pod.exit_code == ExitCode.DONE for pod in pods):
        return Outcome(reason=COMPLETED, message=f"{step.capitalize()} completed.")
    if asked_to_stop:
        return Outcome(reason=asked_to_stop, message=_stop_message(step, pods))
    return _by_evidence(step, pods)


def _failed(failure: FailureClass, message: str, node: str | None = None) -> Outcome:
    return Outcome(reason=failure, message=message, failure=failure, node=node)


def _by_evidence(step: Step, pods: Sequence[PodView]) -> Outcome:
    disrupted = next((pod for pod in pods if pod.disrupted), None)
    if disrupted is not None:
        return _failed(
            FailureClass.PREEMPTED,
            f"Worker {disrupted.worker} was disrupted: {disrupted.disrupted}.",
            _node(disrupted),
        )
    failed = [pod for pod in pods if pod.exit_code not in (ExitCode.DONE, ExitCode.STOPPED)]
    if not failed:
        return Outcome(reason=STOPPED, message=_stop_message(step, pods))
    return _failure_of(min(failed, key=_order))


def _order(pod: PodView) -> tuple[bool, datetime, int]:
    """The first to fail by itself; moments are whole seconds, in which the others may follow."""
    told = pod.termination.failure if pod.termination else None
    return told is not None and told.by_peer, pod.finished_at or _NEVER, pod.worker


def _failure_of(pod: PodView) -> Outcome:
    told = pod.termination.failure if pod.termination else None
    if told is not None:
        return Outcome(
            reason=told.failure_class,
            message=told.message,
            failure=told.failure_class,
            rank=told.rank,
            node=_node(pod),
            traceback=told.traceback,
        )
    failure = _BY_EXIT_CODE.get(pod.exit_code or 0, FailureClass.UNKNOWN)
    if pod.exit_code is None:
        how = "vanished without an exit code"
        failure = FailureClass.NODE_FAULT
    elif pod.ended_as == _OUT_OF_MEMORY:
        how = "was killed for the memory it took (compute.memory is its limit)"
        failure = FailureClass.HOST_OOM
    elif pod.exit_code > 128:
        how = f"was ended by signal {pod.exit_code - 128}"
    else:
        how = f"ended with exit code {pod.exit_code}"
    return Outcome(
        reason=failure,
        message=f"Worker {pod.worker} {how} and left no message.",
        failure=failure,
        node=_node(pod),
        traceback=pod.last_words,
    )


def _node(pod: PodView) -> str | None:
    return pod.placement.node if pod.placement else None


def _stop_message(step: Step, pods: Sequence[PodView]) -> str:
    if step is not Step.TRAIN:
        return "Stopped; the step begins anew when the job goes on."
    killed = [str(pod.worker) for pod in pods if (pod.exit_code or 0) > 128]
    if killed:
        return f"Stopped; worker {', '.join(killed)} did not save within the grace."
    return "Stopped, the work saved."
