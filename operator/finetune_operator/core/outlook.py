"""Where the job is, when it will be done, and what it costs: the figures of the status.

Called by ``reconcile`` once the conditions stand.
"""

import math
from datetime import datetime, timedelta

from finetune_api.phases import TERMINAL, ConditionType
from finetune_api.report import Progress, Step
from finetune_api.run import Run, total_steps
from finetune_api.status import AttemptStatus, Estimate, JobStatus, ProgressStatus
from finetune_api.times import format_time
from finetune_api.usage import UsageRecord
from finetune_operator.core.bookkeeping import currency_of
from finetune_operator.core.conditions import is_true
from finetune_operator.core.observed import Observed
from finetune_operator.core.resolve import memory_needed, run_for
from finetune_operator.cost.forecast import (
    Forecast,
    remaining,
    remaining_cost,
    seconds_per_step,
    seconds_to_first_step,
)
from finetune_operator.cost.ledger import burn_rate, cost_status, totals

_MINUTE = 60
_HOUR = 3600


def with_progress(status: JobStatus, observed: Observed, now: datetime) -> JobStatus:
    """The status with the newest progress and the estimate that follows from it."""
    if status.resolved is None or status.data is None:
        return status
    run = run_for(observed.job, Step.TRAIN, status.resolved, None)
    total = total_steps(run.training, status.data.train_rows)
    live = live_progress(status, observed)
    forecast = _forecast(status, live, total)
    return status.model_copy(
        update={
            "progress": _progress(live, forecast, now) if live else _halted(status, total),
            "estimate": _estimate(status, run, total, forecast),
        }
    )


def with_cost(
    status: JobStatus, observed: Observed, records: tuple[UsageRecord, ...], now: datetime
) -> JobStatus:
    """The status with what was used so far, and what it will come to if all of it has a price."""
    if not records:
        return status
    currency = currency_of(observed, records, now)
    sums = totals(records, currency, now)
    if sums.unpriced_milliseconds:
        return status.model_copy(update={"cost": cost_status(sums)})
    total = status.estimate.total_steps if status.estimate else None
    forecast = _forecast(status, live_progress(status, observed), total or 0)
    if forecast is None:
        over = status.phase in TERMINAL
        return status.model_copy(
            update={"cost": cost_status(sums, sums.spent.amount if over else None)}
        )
    median, high = remaining_cost(forecast, burn_rate(records, currency).amount)
    spent = sums.spent.amount
    return status.model_copy(update={"cost": cost_status(sums, spent + median, spent + high)})


def live_progress(status: JobStatus, observed: Observed) -> Progress | None:
    """The progress of the training attempt that runs, if it has said any."""
    row = _training_row(status)
    told = observed.progress
    return told if row is not None and told is not None and told.attempt == row.number else None


def short_duration(seconds: float) -> str:
    """A duration for a narrow column: 40s, 3m20s, 2h05m."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m{whole % _MINUTE:02d}s"
    return f"{whole // _HOUR}h{whole % _HOUR // _MINUTE:02d}m"


def _training_row(status: JobStatus) -> AttemptStatus | None:
    row = status.attempts[-1] if status.attempts else None
    if row is None or row.state == "Ended" or row.step is not Step.TRAIN:
        return None
    return row


def _forecast(status: JobStatus, live: Progress | None, total: int) -> Forecast | None:
    """Of a training that runs: from what it measured, or else from the attempts before it."""
    row = _training_row(status)
    if row is None or (live is None and row.state != "Running"):
        return None
    marks = [attempt.marks for attempt in status.attempts if attempt.marks is not None]
    paces = [pace for pace in map(seconds_per_step, marks) if pace is not None]
    starts = [start for start in map(seconds_to_first_step, marks) if start is not None]
    saved = max((mark.checkpoint_step or 0 for mark in marks), default=0)
    return remaining(
        live if live is not None and live.total_steps else None,
        steps_left=max(0, total - saved),
        earlier_seconds_per_step=paces[-1] if paces else None,
        startup_seconds=starts[-1] if starts else 0.0,
        failures=status.charged_failures,
    )


def _progress(live: Progress, forecast: Forecast | None, now: datetime) -> ProgressStatus:
    ratio = live.step / live.total_steps if live.total_steps else 0.0
    done_at = now + timedelta(seconds=forecast.seconds_p50) if forecast else None
    return ProgressStatus(
        step=live.step,
        total_steps=live.total_steps,
        percent=f"{math.floor(ratio * 100)}%",
        eta=short_duration(forecast.seconds_p50) if forecast else None,
        estimated_completion_time=format_time(done_at) if done_at else None,
        loss=shown(live.loss),
        rows_per_second=live.rows_per_second,
        tokens_per_second=live.tokens_per_second,
        curve=live.curve,
        warnings=live.warnings,
    )


def shown(loss: float | None) -> float | None:
    """A loss as a column of `kubectl get` can hold it: four significant digits."""
    return None if loss is None else float(f"{loss:.4g}")


def _halted(status: JobStatus, total: int) -> ProgressStatus | None:
    if status.progress is None:
        return None
    # What rank 0 last told may be of a time when it had not counted its steps yet.
    update: dict[str, object] = {"eta": None, "estimated_completion_time": None}
    if not is_true(status.conditions, ConditionType.TRAINED):
        update["total_steps"] = total
    return status.progress.model_copy(update=update)


def _estimate(status: JobStatus, run: Run, total: int, forecast: Forecast | None) -> Estimate:
    trained = is_true(status.conditions, ConditionType.TRAINED)
    median = math.ceil(forecast.seconds_p50) if forecast else None
    high = math.ceil(forecast.seconds_p90) if forecast else None
    return Estimate(
        total_steps=total,
        memory_bytes_per_rank=memory_needed(run, status.model) if status.model else None,
        remaining_seconds_p50=0 if trained else median,
        remaining_seconds_p90=0 if trained else high,
    )
