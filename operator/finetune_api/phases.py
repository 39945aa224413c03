"""The one table of phases, conditions, reasons and transitions.

The core derives phases from it, the CRD's enums come from it, and the reference page prints it.
"""

from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a job is, in one word, for people; derived from the conditions."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


TERMINAL = frozenset({Phase.COMPLETE, Phase.FAILED})

_WORKING = (Phase.PREPARING, Phase.TRAINING, Phase.EVALUATING)
TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.PENDING: frozenset({Phase.PREPARING, Phase.SUSPENDED, Phase.FAILED}),
    Phase.PREPARING: frozenset({Phase.TRAINING, Phase.SUSPENDED, Phase.FAILED}),
    Phase.TRAINING: frozenset({Phase.EVALUATING, Phase.SUSPENDED, Phase.FAILED}),
    Phase.EVALUATING: frozenset({Phase.COMPLETE, Phase.SUSPENDED, Phase.FAILED}),
    Phase.SUSPENDED: frozenset({Phase.PENDING, *_WORKING, Phase.FAILED}),
    Phase.COMPLETE: frozenset(),
    Phase.FAILED: frozenset(),
}
"""From each phase, those that may come next (besides itself)."""


class ConditionType(StrEnum):
    """What can be said of a job, each True, False or Unknown with a reason."""

    ADMITTED = "Admitted"
    PREPARED = "Prepared"
    BASELINE_PASSES = "BaselinePasses"
    RUNNING = "Running"
    SUSPENDED = "Suspended"
    TRAINED = "Trained"
    OVERFITTING = "Overfitting"
    EVALUATION_PASSED = "EvaluationPassed"
    COMPLETE = "Complete"
    FAILED = "Failed"


class Reason(StrEnum):
    """Why a condition is as it is. Failure classes of ``report`` are reasons of Failed too."""

    ADMITTED = "Admitted"
    INVALID_SPEC = "InvalidSpec"
    RATE_MISSING = "RateMissing"
    CURRENCY_MISMATCH = "CurrencyMismatch"
    BUDGET_TOO_SMALL = "BudgetTooSmall"
    PREPARED = "Prepared"
    BASELINE_PASSES = "BaselinePasses"
    STARTING = "Starting"
    RUNNING = "Running"
    STOPPING = "Stopping"
    RETRYING = "Retrying"
    NOT_RUNNING = "NotRunning"
    GANG_BLOCKED = "GangBlocked"
    SUSPENDED_BY_USER = "SuspendedByUser"
    INTERRUPTED = "Interrupted"
    BUDGET_EXCEEDED = "BudgetExceeded"
    RESUMED = "Resumed"
    TRAINED = "Trained"
    SELECT_LOSS_RISES = "SelectLossRises"
    GATE_PASSED = "GatePassed"
    GATE_FAILED = "GateFailed"
    EXPORTED = "Exported"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    DELETED = "Deleted"


@dataclass(frozen=True)
class Meaning:
    """One row of the reference: a condition's state and what it tells."""

    condition: ConditionType
    status: str
    reasons: tuple[str, ...]
    meaning: str


MEANINGS: tuple[Meaning, ...] = (
    Meaning(ConditionType.ADMITTED, "True", (Reason.ADMITTED,), "The spec holds and is frozen."),
    Meaning(
        ConditionType.ADMITTED,
        "False",
        (
            Reason.INVALID_SPEC,
            Reason.RATE_MISSING,
            Reason.CURRENCY_MISMATCH,
            Reason.BUDGET_TOO_SMALL,
        ),
        "Nothing runs until the manifest, the rate card or the budget is mended.",
    ),
    Meaning(
        ConditionType.PREPARED, "True", (Reason.PREPARED,), "Rows are cleaned, split, tokenized."
    ),
    Meaning(
        ConditionType.BASELINE_PASSES,
        "True",
        (Reason.BASELINE_PASSES,),
        "A conventional baseline meets every requirement of the gate on the select rows: the task "
        "as it is asked needs no GPU. policy.onBaselinePasses says what follows.",
    ),
    Meaning(ConditionType.RUNNING, "True", (Reason.RUNNING,), "An attempt's pods run."),
    Meaning(
        ConditionType.RUNNING,
        "False",
        (Reason.STARTING, Reason.STOPPING, Reason.RETRYING, Reason.NOT_RUNNING),
        "No attempt runs now: it starts, stops, waits for its next try, or there is none.",
    ),
    Meaning(
        ConditionType.RUNNING,
        "False",
        (Reason.GANG_BLOCKED,),
        "The cluster refuses to make the next attempt's pods, for a quota or a policy; the message "
        "says which. It goes on once they come.",
    ),
    Meaning(
        ConditionType.SUSPENDED,
        "True",
        (
            Reason.SUSPENDED_BY_USER,
            Reason.INTERRUPTED,
            Reason.BUDGET_EXCEEDED,
            Reason.BASELINE_PASSES,
            Reason.INVALID_SPEC,
        ),
        "The work is saved and waits: for suspend: false, for another run, for a larger budget, "
        "for onBaselinePasses: Continue, for workers that can share its claims.",
    ),
    Meaning(ConditionType.SUSPENDED, "False", (Reason.RESUMED,), "It goes on."),
    Meaning(ConditionType.TRAINED, "True", (Reason.TRAINED,), "The best checkpoint is chosen."),
    Meaning(
        ConditionType.OVERFITTING,
        "True",
        (Reason.SELECT_LOSS_RISES,),
        "From the best checkpoint on the select rows' loss rose while the training loss fell; the "
        "best checkpoint is kept.",
    ),
    Meaning(
        ConditionType.EVALUATION_PASSED,
        "True",
        (Reason.GATE_PASSED,),
        "The test rows are scored, and every requirement holds.",
    ),
    Meaning(
        ConditionType.EVALUATION_PASSED,
        "False",
        (Reason.GATE_FAILED,),
        "A requirement does not hold: nothing is exported.",
    ),
    Meaning(ConditionType.COMPLETE, "True", (Reason.EXPORTED,), "The model is exported."),
    Meaning(
        ConditionType.FAILED,
        "True",
        (
            Reason.GATE_FAILED,
            Reason.BACKOFF_LIMIT_EXCEEDED,
            Reason.DEADLINE_EXCEEDED,
            Reason.DELETED,
            "UserError",
            "DataError",
        ),
        "The job is over without an export; the message says what to do.",
    ),
)
