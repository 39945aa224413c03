"""What a pod tells stands in a status: no number of it is one that a status can't hold."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.report import Marks, Progress, Termination

TEN_YEARS = 10 * 365 * 86_400_000
MOST_STEPS = 10_000_000_000

PROGRESS = {"podUid": "pod-1", "attempt": 1, "step": 1, "totalSteps": 2}
TERMINATION = {"step": "train", "attempt": 1, "worker": 0, "exitCode": 0}
RESULT = {"steps": 2, "bestStep": 1, "bestSelectLoss": 0.5, "checkpoint": "checkpoints/1/1"}

LARGEST: list[tuple[type[Marks | Progress | Termination], dict[str, Any], str, int]] = [
    (Marks, {}, "resumedFromStep", MOST_STEPS),
    (Marks, {}, "lastStep", MOST_STEPS),
    (Marks, {}, "checkpointStep", MOST_STEPS),
    (Marks, {}, "checkpointMilliseconds", TEN_YEARS),
    (Marks, {}, "evaluationMilliseconds", TEN_YEARS),
    (Marks, {}, "resumedFromAttempt", 2**31 - 1),
    (Progress, PROGRESS, "step", MOST_STEPS),
    (Progress, PROGRESS, "totalSteps", MOST_STEPS),
    (Progress, PROGRESS, "remainingCheckpoints", MOST_STEPS),
    (Progress, PROGRESS, "remainingEvaluations", MOST_STEPS),
    (Progress, PROGRESS, "attempt", 2**31 - 1),
    (Termination, TERMINATION, "attempt", 2**31 - 1),
    (Termination, TERMINATION, "worker", 2**31 - 1),
    (Termination, TERMINATION, "exitCode", 255),
]


@pytest.mark.parametrize(("kind", "rest", "field", "most"), LARGEST)
def test_a_count_beyond_its_bound_is_refused(
    kind: type[Marks | Progress | Termination], rest: dict[str, Any], field: str, most: int
) -> None:
    kind.model_validate({**rest, field: most})
    for absurd in (most + 1, 10**400, -1):
        with pytest.raises(ValidationError, match=field):
            kind.model_validate({**rest, field: absurd})


@pytest.mark.parametrize("field", ["steps", "bestStep"])
def test_a_result_of_more_steps_than_anybody_makes_is_refused(field: str) -> None:
    Termination.model_validate({**TERMINATION, "train": {**RESULT, field: MOST_STEPS}})
    with pytest.raises(ValidationError, match=field):
        Termination.model_validate({**TERMINATION, "train": {**RESULT, field: MOST_STEPS + 1}})


@pytest.mark.parametrize("field", ["loss", "learningRate", "rowsPerSecond", "secondsPerStep"])
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(field: str, text: str) -> None:
    known = '"podUid": "pod-1", "attempt": 1, "step": 1, "totalSteps": 2'
    with pytest.raises(ValidationError, match=field):
        Progress.model_validate_json(f'{{{known}, "{field}": {text}}}')
