"""Conditions: set one, ask one, derive the phase. Called by ``status`` and the policies."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from finetune_api.phases import ConditionType, Phase
from finetune_api.status import Condition
from finetune_api.times import format_time

_MESSAGE_LIMIT = 4096


def find(conditions: Sequence[Condition], kind: ConditionType) -> Condition | None:
    """The condition of a type, if it was ever set."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Sequence[Condition], kind: ConditionType) -> bool:
    """Whether a condition is set and True."""
    condition = find(conditions, kind)
    return condition is not None and condition.status == "True"


def with_condition(
    conditions: Sequence[Condition],
    kind: ConditionType,
    status: Literal["True", "False", "Unknown"],
    reason: str,
    message: str,
    *,
    now: datetime,
    generation: int,
) -> tuple[Condition, ...]:
    """The conditions with one set. Its transition time moves only if its status does."""
    earlier = find(conditions, kind)
    flipped = earlier is None or earlier.status != status
    fresh = Condition(
        type=kind,
        status=status,
        reason=str(reason),
        message=message[:_MESSAGE_LIMIT],
        last_transition_time=format_time(now)
        if flipped or earlier is None
        else earlier.last_transition_time,
        observed_generation=generation,
    )
    if earlier is None:
        return (*conditions, fresh)
    return tuple(fresh if condition.type == kind else condition for condition in conditions)


_FIRST_TRUE = (
    (ConditionType.COMPLETE, Phase.COMPLETE),
    (ConditionType.FAILED, Phase.FAILED),
    (ConditionType.SUSPENDED, Phase.SUSPENDED),
)
_FIRST_MISSING = (
    (ConditionType.ADMITTED, Phase.PENDING),
    (ConditionType.PREPARED, Phase.PREPARING),
    (ConditionType.TRAINED, Phase.TRAINING),
)


def phase_of(conditions: Sequence[Condition]) -> Phase:
    """The phase, for people; the conditions are the truth."""
    for kind, phase in _FIRST_TRUE:
        if is_true(conditions, kind):
            return phase
    for kind, phase in _FIRST_MISSING:
        if not is_true(conditions, kind):
            return phase
    return Phase.EVALUATING
