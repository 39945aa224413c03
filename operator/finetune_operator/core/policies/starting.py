"""A gang that can't start whole within its time gives back what it holds, and tries again later."""

from datetime import timedelta

from finetune_api.report import FailureClass
from finetune_operator.core.situation import Finding, Situation, Verdict
from finetune_operator.cost.pods import PodView

_IMAGE_WORDS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


def starting(situation: Situation) -> Finding | None:
    """End an attempt whose pods don't all run within ``policy.startTimeoutSeconds``.

    Counted from the newest release of a pod, whether or not the others could be let go too; a pod
    that holds a device while another waits for one costs, and two gangs that wait for each other
    would wait for ever.
    """
    attempt = situation.running
    if attempt is None or attempt.state != "Starting":
        return None
    pods = situation.pods_of(attempt.number)
    released = [pod.released_at for pod in pods if pod.released_at is not None]
    if not released:
        return None
    limit = situation.observed.job.spec.policy.start_timeout_seconds
    if situation.now - max(released) < timedelta(seconds=limit):
        return None
    waiting = [pod for pod in pods if pod.live and pod.started_at is None]
    if not waiting:
        return None
    pod = waiting[0]
    return Finding(
        verdict=Verdict.END_ATTEMPT,
        reason=_failure(pod),
        message=f"{len(waiting)} of {len(pods)} workers did not start within "
        f"policy.startTimeoutSeconds ({limit}); worker {pod.worker}: "
        f"{pod.waiting or 'no reason is given'}",
    )


def _failure(pod: PodView) -> FailureClass:
    if any(word in (pod.waiting or "") for word in _IMAGE_WORDS):
        return FailureClass.IMAGE_PULL
    return FailureClass.UNSCHEDULABLE
