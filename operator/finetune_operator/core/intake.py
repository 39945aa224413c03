"""Taking in what has ended: an attempt's outcome, its results, its record. Called by reconcile.

An attempt is taken in within one status write, so that a failure is charged once and a result is
noted once, whatever dies in between.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport, Interval
from finetune_api.phases import ConditionType, Reason
from finetune_api.report import CurvePoint, FailureClass, Overfitting, ReportRef, Step, TrainResult
from finetune_api.run import LAYOUT
from finetune_api.status import (
    Artifact,
    AttemptStatus,
    EvaluationStatus,
    JobStatus,
    ProgressStatus,
)
from finetune_api.tasks import METRICS, TASKS
from finetune_api.times import format_time
from finetune_operator.core.baselines import passing, passing_sentence
from finetune_operator.core.classify import COMPLETED, Outcome, classify
from finetune_operator.core.conditions import with_condition
from finetune_operator.core.decision import Event
from finetune_operator.core.failures import (
    RESPONSES,
    Response,
    failures_in_a_row,
    retry_delay,
)
from finetune_operator.core.groups import gate_sentence, group_differences, within_bytes
from finetune_operator.core.observed import Observed
from finetune_operator.core.outlook import shown
from finetune_operator.core.resolve import output_of
from finetune_operator.core.situation import marks_of
from finetune_operator.cost.pods import PodView

_INLINE_CLASSES = 20
_INLINE_MATRIX = 10
_CURVE_POINTS = 60


@dataclass(frozen=True, kw_only=True)
class Intake:
    """A status that knows of what has ended, and what to tell of it."""

    status: JobStatus
    ended: AttemptStatus | None = None
    events: tuple[Event, ...] = ()


def take_in(observed: Observed, status: JobStatus, now: datetime) -> Intake:
    """Take in the running attempt, if all its pods have ended (or are gone)."""
    attempt = status.attempts[-1] if status.attempts else None
    if attempt is None or attempt.state == "Ended":
        return Intake(status=status)
    pods = tuple(pod for pod in observed.pods if pod.attempt == attempt.number)
    if any(pod.live for pod in pods):
        return Intake(status=status)
    outcome = classify(attempt.step, pods, attempt.reason, attempt.message or "")
    if outcome.reason == COMPLETED:
        absorbed = _absorb(observed, status, attempt.step, pods, now)
        if isinstance(absorbed, Outcome):
            outcome = absorbed
        else:
            status = absorbed
    ended = _ended_row(observed, attempt, pods, outcome, now)
    status = status.model_copy(update={"attempts": (*status.attempts[:-1], ended)})
    status = _after_failure(observed, status, outcome, now)
    told = f"Attempt {ended.number} ({ended.step}): {outcome.message}{_last_line(outcome)}"
    return Intake(
        status=status,
        ended=ended,
        events=(
            Event(
                kind="Warning" if outcome.failure else "Normal",
                reason=str(outcome.reason),
                message=told,
            ),
        ),
    )


def _last_line(outcome: Outcome) -> str:
    """The end of what the pod said, where the message doesn't say it: a line for a narrow table."""
    lines = outcome.traceback.strip().splitlines()
    return f" {lines[-1].strip()}" if lines and lines[-1].strip() not in outcome.message else ""


def _ended_row(
    observed: Observed,
    attempt: AttemptStatus,
    pods: tuple[PodView, ...],
    outcome: Outcome,
    now: datetime,
) -> AttemptStatus:
    ends = [pod.finished_at for pod in pods if pod.finished_at is not None]
    message = outcome.message
    if outcome.traceback:
        message = f"{message}\n{outcome.traceback}"[:1024]
    return attempt.model_copy(
        update={
            "state": "Ended",
            "end_time": format_time(max(ends) if ends else now),
            "reason": str(outcome.reason),
            "message": message,
            "charged": outcome.failure is not None
            and RESPONSES[outcome.failure] is Response.RETRY_CHARGED,
            "rank": outcome.rank,
            "node": outcome.node,
            "marks": marks_of(observed, attempt),
        }
    )


def _after_failure(
    observed: Observed, status: JobStatus, outcome: Outcome, now: datetime
) -> JobStatus:
    """Charge the failure and set when to try again."""
    if outcome.failure is None:
        return status.model_copy(update={"retry_time": None})
    response = RESPONSES[outcome.failure]
    charged = status.charged_failures + (response is Response.RETRY_CHARGED)
    return status.model_copy(
        update={
            "charged_failures": charged,
            "retry_time": format_time(
                now + retry_delay(failures_in_a_row(status), _jitter(observed, status))
            ),
        }
    )


def _jitter(observed: Observed, status: JobStatus) -> float:
    """A share from 0 to 1 that differs between jobs and attempts; the core itself has no dice."""
    seed = f"{observed.job.metadata.uid}-{status.attempt}"
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4]) / 2**32


def _absorb(
    observed: Observed,
    status: JobStatus,
    step: Step,
    pods: tuple[PodView, ...],
    now: datetime,
) -> JobStatus | Outcome:
    """The status with a completed step's results, or a failure if they can't be read."""
    told = min(pods, key=lambda pod: pod.worker).termination
    if told is None:
        return _unreadable(step, "its termination message is missing")
    generation = observed.job.metadata.generation
    if told.train is not None:
        return _trained(status, told.train, now, generation)
    ref = told.report
    stored = next((report for report in observed.reports if report.ref == ref), None)
    if ref is not None and stored is not None:
        if step is Step.PREPARE and stored.prepare is not None:
            return _prepared(observed, status, stored.prepare, now)
        if step is Step.EVALUATE and stored.evaluation is not None:
            return _evaluated(observed, status, stored.evaluation, ref, now)
    if ref is None:
        return _unreadable(step, "its termination message names no report")
    return Outcome(
        reason=FailureClass.REPORT_MISSED,
        message=f"{step.capitalize()} completed, but its report {ref.path} was not received.",
        failure=FailureClass.REPORT_MISSED,
    )


def _unreadable(step: Step, what: str) -> Outcome:
    return Outcome(
        reason=FailureClass.STORAGE,
        message=f"{step.capitalize()} ended with 0, but {what}.",
        failure=FailureClass.STORAGE,
    )


def _prepared(
    observed: Observed, status: JobStatus, report: PrepareReport, now: datetime
) -> JobStatus:
    generation = observed.job.metadata.generation
    data = report.data
    message = (
        f"{data.kept_rows} of {data.read_rows} rows kept: {data.train_rows} train, "
        f"{data.select_rows} select, {data.test_rows} test."
    )
    status = _with_passing_baseline(observed, status, report, now)
    return status.model_copy(
        update={
            "data": data,
            "model": report.model,
            "labels": report.labels,
            "conditions": with_condition(
                status.conditions,
                ConditionType.PREPARED,
                "True",
                Reason.PREPARED,
                message,
                now=now,
                generation=generation,
            ),
        }
    )


def _with_passing_baseline(
    observed: Observed, status: JobStatus, report: PrepareReport, now: datetime
) -> JobStatus:
    """The status with a warning where a baseline meets the gate; a smoke run has none."""
    gate = observed.job.spec.evaluation.gate
    found = passing(gate, report.baselines)
    if found is None or (status.resolved is not None and status.resolved.smoke):
        return status
    conditions = with_condition(
        status.conditions,
        ConditionType.BASELINE_PASSES,
        "True",
        Reason.BASELINE_PASSES,
        passing_sentence(gate, found, report.data.select_rows),
        now=now,
        generation=observed.job.metadata.generation,
    )
    return status.model_copy(update={"conditions": conditions})


def _trained(status: JobStatus, result: TrainResult, now: datetime, generation: int) -> JobStatus:
    why = "it overfitted" if result.overfitting else "it did not get better any more"
    early = f", stopped early as {why}" if result.stopped_early else ""
    message = (
        f"{result.steps} steps{early}; the best checkpoint is of step {result.best_step}, with "
        f"loss {result.best_select_loss:.4f} on the select rows."
    )
    if result.packed_fill is not None:
        message += f" Packed rows filled {result.packed_fill:.0%} of their sequences."
    elif status.resolved is not None and status.resolved.packing:
        message += " Rows were not packed: the model would have seen over their borders."
    if result.overfitting is not None:
        status = status.model_copy(
            update={
                "conditions": with_condition(
                    status.conditions,
                    ConditionType.OVERFITTING,
                    "True",
                    Reason.SELECT_LOSS_RISES,
                    _overfitted(result.overfitting),
                    now=now,
                    generation=generation,
                )
            }
        )
    return status.model_copy(
        update={
            "best_checkpoint": result.checkpoint,
            "progress": _finished_curve(status.progress or _untold(result), result),
            "conditions": with_condition(
                status.conditions,
                ConditionType.TRAINED,
                "True",
                Reason.TRAINED,
                message,
                now=now,
                generation=generation,
            ),
        }
    )


def _overfitted(found: Overfitting) -> str:
    rose = f"{found.best_select_loss:.4f} at step {found.best_step} to {found.select_loss:.4f}"
    fell = f"{found.train_loss_at_best:.4f} to {found.train_loss:.4f}"
    return (
        f"The loss on the select rows rose, {rose} at step {found.step}, while the training loss "
        f"fell, {fell}; the checkpoint of step {found.best_step} is kept."
    )


def _untold(result: TrainResult) -> ProgressStatus:
    """The progress of a training that was over before rank 0 was ever asked for it."""
    return ProgressStatus(step=result.steps, total_steps=result.steps, percent="100%")


def _finished_curve(progress: ProgressStatus, result: TrainResult) -> ProgressStatus:
    """The progress at the end of training, which rank 0 may not have lived to serve."""
    points = {point.step: point for point in progress.curve}
    last = points.get(result.steps, CurvePoint(step=result.steps, loss=result.final_loss))
    points[result.steps] = last
    best = points.get(result.best_step, CurvePoint(step=result.best_step))
    points[result.best_step] = best.model_copy(update={"select_loss": result.best_select_loss})
    curve = [points[step] for step in sorted(points)]
    surplus = max(0, len(curve) - _CURVE_POINTS)
    loss = progress.loss if result.final_loss is None else shown(result.final_loss)
    return progress.model_copy(
        update={
            "step": result.steps,
            "total_steps": result.steps,
            "percent": "100%",
            "curve": (curve[0], *curve[1 + surplus :]),
            "loss": loss,
        }
    )


def _evaluated(
    observed: Observed, status: JobStatus, report: EvaluationReport, ref: ReportRef, now: datetime
) -> JobStatus:
    small = len(report.labels) <= _INLINE_MATRIX
    evaluation = EvaluationStatus(
        passed=report.passed,
        test_rows=report.test_rows,
        checkpoint_step=report.checkpoint_step,
        metrics=report.metrics,
        baselines=report.baselines,
        gate=report.gate,
        groups=group_differences(report),
        counterfactuals=report.counterfactuals,
        generalization=report.generalization,
        temperature=None if report.calibration is None else report.calibration.temperature,
        per_class=report.per_class[:_INLINE_CLASSES],
        confusion_matrix=report.confusion_matrix if small else (),
        report=ref.path,
        report_digest=ref.digest,
    )
    return status.model_copy(
        update={
            "evaluation": within_bytes(evaluation),
            "artifacts": _artifacts(report, ref, observed, status),
            "conditions": with_condition(
                status.conditions,
                ConditionType.EVALUATION_PASSED,
                "True" if report.passed else "False",
                Reason.GATE_PASSED if report.passed else Reason.GATE_FAILED,
                verdict(report),
                now=now,
                generation=observed.job.metadata.generation,
            ),
        }
    )


def verdict(report: EvaluationReport) -> str:
    """The verdict in a sentence or two: the measure, then each requirement that doesn't hold."""
    headline = TASKS[report.task].headline
    measured = report.metrics[headline]
    name = METRICS[headline].name
    text = (
        f"{name[0].upper()}{name[1:]} {measured.value:.3f}{_span(measured)} on "
        f"{report.test_rows} test rows."
    )
    for result in report.gate:
        if result.passed:
            continue
        if result.column is not None:
            text += f" Gate {result.name} ({result.bound}): {gate_sentence(result)}"
        else:
            found = "undefined" if result.measured is None else f"{result.measured:.4f}"
            limit = "at most" if METRICS[result.metric].lower_is_better else "at least"
            of = f" of swap {result.swap}" if result.swap is not None else ""
            text += (
                f" Gate {result.name}: {result.metric}{of} ({result.bound}) is {found}, required "
                f"{limit} {result.required:g}."
            )
    return text


def _span(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f" [{interval.low:.3f}, {interval.high:.3f}]"


def _artifacts(
    report: EvaluationReport, ref: ReportRef, observed: Observed, status: JobStatus
) -> tuple[Artifact, ...]:
    workspace = observed.engine.workspace
    output = output_of(observed.job, status.resolved).uri if status.resolved else None
    made = {"evaluation": (f"{workspace}{ref.path}", ref.digest)}
    if report.predictions is not None:
        predictions = report.predictions
        made["predictions"] = (f"{workspace}{predictions.path}", predictions.digest)
    if report.model is not None:
        made["model"] = (f"{workspace}{LAYOUT.output_model}", report.model.digest)
        if output is not None:
            made["published"] = (output, report.model.digest)
    return tuple(
        Artifact(name=name, uri=uri, digest=digest) for name, (uri, digest) in made.items()
    )
