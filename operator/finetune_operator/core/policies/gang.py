"""The gang starts and dies as one: any pod that ended badly ends the rest."""

from finetune_api.report import ExitCode
from finetune_api.status import AttemptStatus
from finetune_operator.core.situation import Finding, Situation, Verdict
from finetune_operator.cost.pods import PodView


def gang(situation: Situation) -> Finding | None:
    """End the attempt when a pod of it failed, was disrupted or is being taken away."""
    attempt = situation.running
    if attempt is None:
        return None
    pods = situation.pods_of(attempt.number)
    for pod in pods:
        ended_badly = not pod.live and pod.exit_code != ExitCode.DONE
        taken = pod.live and (pod.disrupted is not None or _taken_away(attempt, pod))
        if ended_badly or taken:
            how = pod.disrupted or _how(pod)
            return Finding(
                verdict=Verdict.END_ATTEMPT,
                reason="",
                message=f"Worker {pod.worker} {how}; the rest of the gang is stopped.",
            )
    return None


def _taken_away(attempt: AttemptStatus, pod: PodView) -> bool:
    """Whether somebody else deletes it: we ask only once the attempt is noted as stopping."""
    return pod.stopping and attempt.state != "Stopping"


def _how(pod: PodView) -> str:
    if pod.live:
        return "is being deleted"
    return "vanished" if pod.exit_code is None else f"ended with exit code {pod.exit_code}"
