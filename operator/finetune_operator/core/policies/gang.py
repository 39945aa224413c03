"""The gang starts and dies as one: any pod that ended badly ends the rest."""

from finetune_api.report import ExitCode
from finetune_operator.core.situation import Finding, Situation, Verdict


def gang(situation: Situation) -> Finding | None:
    """End the attempt when a pod of it failed, was disrupted or is being taken away."""
    attempt = situation.running
    if attempt is None:
        return None
    pods = situation.pods_of(attempt.number)
    for pod in pods:
        ended_badly = not pod.live and pod.exit_code != ExitCode.DONE
        taken = pod.live and pod.disrupted is not None
        if ended_badly or taken:
            how = pod.disrupted or (
                "vanished" if pod.exit_code is None else f"ended with {pod.exit_code}"
            )
            return Finding(
                verdict=Verdict.END_ATTEMPT,
                reason="",
                message=f"Worker {pod.worker} {how}; the rest of the gang is stopped.",
            )
    return None
