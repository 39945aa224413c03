"""From the ends of a pod's ranks to one exit code and the first failure. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.report import ExitCode, Failure, FailureClass
from finetune_trainer.training.failure import MESSAGE_LIMIT, TRACEBACK_LIMIT, failure_of_death
from finetune_trainer.training.rankprocess import RankEnd

STACK_MARK = "Stack (most recent call first)"
"""What a stack begins with that a rank was asked for (faulthandler's words)."""
_IN_ORDER = (ExitCode.DONE, ExitCode.STOPPED)


@dataclass(frozen=True)
class PodEnd:
    """How the pod ends; ``failure`` is None when it is done or was stopped."""

    exit_code: int
    failure: Failure | None = None


def pod_end(ends: Sequence[RankEnd], *, out_of_memory: bool) -> PodEnd:
    """The verdict over all ranks of a pod.

    The first failing rank is the earliest that failed by itself. One that only lost its peers is
    not it, nor one that the launcher killed: because another had failed, or because a stop was
    requested before there was anything to save. ``out_of_memory`` says that the kernel killed
    something in this pod for its memory.
    """
    failed = [end for end in ends if not ended_in_order(end) and not end.killed_here]
    if not failed:
        done = all(end.returncode == ExitCode.DONE for end in ends)
        return PodEnd(ExitCode.DONE if done else ExitCode.STOPPED)
    first = min(failed, key=_order)
    if first.told is not None:
        return PodEnd(first.told.exit_code, _naming_the_stalled(first.told.failure, ends))
    failure, exit_code = failure_of_death(
        first.returncode, first.last_lines, first.rank, out_of_memory=out_of_memory
    )
    return PodEnd(exit_code, _naming_the_stalled(failure, ends))


def ended_in_order(end: RankEnd) -> bool:
    """Whether a rank ended as it should: done, or stopped on request."""
    return end.returncode in _IN_ORDER


def hung(end: RankEnd) -> bool:
    """Whether a rank gave up waiting for another one."""
    return end.told is not None and end.told.failure.failure_class is FailureClass.COLLECTIVE_HANG


def _naming_the_stalled(failure: Failure, ends: Sequence[RankEnd]) -> Failure:
    """Of a hang, the rank that others waited for: it said nothing, and went on until it was killed.

    Its traceback is where it was, if it could still say.
    """
    stalled = [end for end in ends if end.killed_here and end.told is None]
    if failure.failure_class is not FailureClass.COLLECTIVE_HANG or not stalled:
        return failure
    first = min(stalled, key=lambda end: end.rank)
    message = f"rank {first.rank} stalled: rank {failure.rank} waited for it. {failure.message}"
    _, mark, stack = first.last_lines.rpartition(STACK_MARK)
    return failure.model_copy(
        update={
            "rank": first.rank,
            "message": message[:MESSAGE_LIMIT],
            "traceback": (mark + stack)[:TRACEBACK_LIMIT] if mark else failure.traceback,
        }
    )


def _order(end: RankEnd) -> tuple[bool, float]:
    by_peer = end.told is not None and end.told.failure.by_peer
    return by_peer, end.told.at if end.told else end.at
