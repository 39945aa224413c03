"""A finished job stays finished (I6): nothing is started, and what is left is sealed."""

from finetune_api.phases import TERMINAL
from finetune_operator.core.situation import Finding, Situation, Verdict


def finished(situation: Situation) -> Finding | None:
    """Rest, once the status says Complete or Failed."""
    status = situation.status
    if status.phase not in TERMINAL:
        return None
    return Finding(verdict=Verdict.REST, reason=status.reason or "", message=status.message or "")
