"""From the ends of a pod's ranks to one exit code and the first failure. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.report import ExitCode, Failure
from finetune_trainer.training.failure import failure_of_death
from finetune_trainer.training.rankprocess import RankEnd

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
        return PodEnd(first.told.exit_code, first.told.failure)
    failure, exit_code = failure_of_death(
        first.returncode, first.last_lines, first.rank, out_of_memory=out_of_memory
    )
    return PodEnd(exit_code, failure)


def ended_in_order(end: RankEnd) -> bool:
    """Whether a rank ended as it should: done, or stopped on request."""
    return end.returncode in _IN_ORDER


def _order(end: RankEnd) -> tuple[bool, float]:
    by_peer = end.told is not None and end.told.failure.by_peer
    return by_peer, end.told.at if end.told else end.at
