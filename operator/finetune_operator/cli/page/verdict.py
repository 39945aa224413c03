"""The page's first sentences: what came of the job, and what to do where it did not come through.

Also the short figures beneath them. Called by ``render``.
"""

from dataclasses import dataclass
from enum import StrEnum

from finetune_api.evaluationreport import BaselineScores, EvaluationReport, GateResult, Interval
from finetune_api.phases import Phase, Reason
from finetune_api.report import FailureClass
from finetune_api.status import CostStatus, JobStatus
from finetune_api.tasks import BASELINES, METRICS, TASKS, ErrorWords, Metric
from finetune_operator.cli.page import figures
from finetune_operator.cli.page.costs import spent
from finetune_operator.cli.page.facts import PageFacts

_ANEW = "then start it as a new job (in a local run: with another workspace)."
_NEXT: dict[str, str] = {
    FailureClass.USER_ERROR: f"Mend what the message names, {_ANEW}",
    FailureClass.DATA_ERROR: f"Mend the rows or the dataset settings that it names, {_ANEW}",
    FailureClass.STORAGE: f"See that the volume is there, writable and has room, {_ANEW}",
    Reason.GATE_FAILED: "The tables of the test rows and the data report show where it falls "
    f"short. More or cleaner rows, or another recipe, may help; {_ANEW}",
    Reason.BACKOFF_LIMIT_EXCEEDED: "The attempts below say what ended each one. Mend that, or "
    f"raise policy.backoffLimit, {_ANEW}",
    Reason.DEADLINE_EXCEEDED: f"Raise policy.activeDeadlineSeconds, {_ANEW}",
    Reason.SUSPENDED_BY_USER: "Its work is saved. Set suspend: false to go on.",
    Reason.INTERRUPTED: "Its work is saved. Run the same command again to go on.",
    Reason.BUDGET_EXCEEDED: "Its work is saved. Raise the limit in budget to go on.",
    Reason.BASELINE_PASSES: "Its work is saved. Set policy.onBaselinePasses: Continue to go on.",
    Reason.INVALID_SPEC: "Mend the manifest and apply it again.",
    Reason.RATE_MISSING: "Add an entry for this device to a rate card, or take the money limit "
    "out of budget.",
    Reason.CURRENCY_MISMATCH: "Give budget and rate card the same currency.",
    Reason.BUDGET_TOO_SMALL: "Raise the limit in budget, or make the job smaller.",
}
_WHILE = {
    Phase.PREPARING: "The rows are being prepared.",
    Phase.EVALUATING: "The test rows are being scored.",
}


class Tone(StrEnum):
    """How the verdict looks; its word says the same."""

    GOOD = "good"
    BAD = "bad"
    WAITING = "waiting"


@dataclass(frozen=True)
class Verdict:
    """What is said first. ``advice`` is what to do next, where there is something to do."""

    tone: Tone
    word: str
    sentence: str
    reason: str | None = None
    advice: str | None = None


@dataclass(frozen=True)
class Tile:
    """One figure that is read at a glance."""

    title: str
    figure: str
    note: str


def verdict(facts: PageFacts) -> Verdict:
    """The verdict on a job in whatever phase it is."""
    status = facts.status
    advice = _NEXT.get(status.reason or "")
    match status.phase:
        case Phase.COMPLETE:
            return Verdict(Tone.GOOD, "Complete", _evidence(facts.evaluation) or _said(status))
        case Phase.FAILED:
            return Verdict(Tone.BAD, "Failed", _failure(facts), status.reason, advice)
        case Phase.SUSPENDED:
            sentence = f"Suspended{_at(status)}. {_said(status)}".rstrip()
            return Verdict(Tone.WAITING, "Suspended", sentence, status.reason, advice)
        case Phase.TRAINING:
            return Verdict(Tone.WAITING, "Training", f"Training{_at(status)}.", status.reason)
        case phase:
            sentence = _WHILE.get(phase) or _said(status) or "Nothing has started yet."
            return Verdict(Tone.WAITING, phase, sentence, status.reason, advice)


def tiles(facts: PageFacts) -> tuple[Tile, ...]:
    """The figures under the verdict, as far as there are any."""
    status, found = facts.status, []
    if facts.evaluation is not None:
        headline, measured = _headline(facts.evaluation)
        note = f"95{figures.NO_BREAK_SPACE}%{figures.bounds(measured)}"
        rows = f"{figures.count(facts.evaluation.test_rows)} test rows"
        found.append(Tile(title(headline), figures.score(measured.value), f"{note}, {rows}"))
        against = _conventional(facts.evaluation)
        if against is not None and against.error_reduction is not None:
            error = TASKS[facts.evaluation.task].error
            found.append(_errors_tile(error, against, against.error_reduction))
    if status.cost is not None:
        found.append(Tile("Cost", spent(status.cost), _cost_note(status.cost, status)))
    if status.start_time is not None and status.completion_time is not None:
        taken = figures.between(status.start_time, status.completion_time).total_seconds()
        attempts = f"from start to end, in {figures.counted(status.attempt, 'attempt')}"
        found.append(Tile("Time", figures.seconds(taken), attempts))
    return tuple(found)


def title(metric: Metric) -> str:
    """A metric's name as a heading or at the start of a line."""
    name = METRICS[metric].name
    return f"{name[0].upper()}{name[1:]}"


def compared(error: ErrorWords, baseline: BaselineScores) -> str:
    """How the model's errors compare with a baseline's, with the interval where there is one."""
    against, reduction = BASELINES[baseline.name], baseline.error_reduction
    if reduction is None:
        return f"can make no {error.fewer} {error.noun} than {against}, which makes none"
    share, low, high = reduction.value, reduction.low, reduction.high
    if share == low == high == 0:
        return f"makes exactly as {error.many} {error.noun} as {against}"
    fewer = error.fewer if share >= 0 else "more"
    difference = f"{figures.with_percent(abs(share))} {fewer} {error.noun}"
    if low is None or high is None:
        return f"makes {difference} than {against}"
    if low > 0:
        span = figures.percent_range(low, high)
    elif high < 0:
        span = figures.percent_range(-high, -low)
    else:
        span = f"{figures.percent_range(low, high)} {error.fewer}"
        return f"is not shown to differ from {against}: {difference} ({span})"
    return f"makes {difference} than {against} ({span})"


def _evidence(evaluation: EvaluationReport | None) -> str:
    """Say how good it is and against what, or nothing where nothing was measured."""
    if evaluation is None:
        return ""
    headline, measured = _headline(evaluation)
    parts = [f"{figures.score(measured.value)} {METRICS[headline].name}{figures.bounds(measured)}"]
    against = _conventional(evaluation)
    if against is not None:
        parts.append(compared(TASKS[evaluation.task].error, against))
    return "; ".join(parts) + "."


def _headline(evaluation: EvaluationReport) -> tuple[Metric, Interval]:
    metric = TASKS[evaluation.task].headline
    return metric, evaluation.metrics[metric]


def _conventional(evaluation: EvaluationReport) -> BaselineScores | None:
    by_name = {baseline.name: baseline for baseline in evaluation.baselines}
    conventional = TASKS[evaluation.task].conventional
    return by_name.get(conventional) or next(iter(evaluation.baselines), None)


def _failure(facts: PageFacts) -> str:
    if facts.status.reason != Reason.GATE_FAILED or facts.evaluation is None:
        return f"Failed{_at(facts.status)}. {_said(facts.status)}".rstrip()
    missed = [requirement(result) for result in facts.evaluation.gate if not result.passed]
    against = _conventional(facts.evaluation)
    told = f"Not exported: {'; '.join(missed)}."
    if against is None:
        return told
    return f"{told} The model {compared(TASKS[facts.evaluation.task].error, against)}."


def requirement(result: GateResult) -> str:
    """A requirement and how it went, in words."""
    what = METRICS[result.metric].name
    if result.column is not None:
        required = figures.score(result.required)
        told = f"{what} by {result.column} is short by {measured_shortfall(result)}"
        return f"{told}, at most {required} is allowed"
    if result.swap is not None:
        what += f" of swap {result.swap}"
    if result.against is not None:
        what += f" against {BASELINES[result.against]}"
    if result.bound != "Point":
        what = f"the {result.bound.lower()} bound of {what}"
    least, missed = "at least", "below"
    if METRICS[result.metric].lower_is_better:
        least, missed = "at most", "above"
    required = figures.score(result.required)
    if result.measured is None:
        return f"{what} is undefined, {least} {required} is required"
    relation = least if result.passed else missed
    return f"{what} is {figures.score(result.measured)}, {relation} the required {required}"


def measured_shortfall(result: GateResult) -> str:
    """How much worse the worst group is, and which; or which one has too few rows."""
    if result.measured is None:
        who = f": {result.group}" if result.group is not None else ""
        return f"an unknown amount (too few rows{who})"
    of = f", {result.label}" if result.label is not None else ""
    return f"{figures.score(result.measured)} ({result.group}{of})"


def _said(status: JobStatus) -> str:
    message = (status.message or "").strip()
    return message if not message or message.endswith((".", "!", "?")) else f"{message}."


def _at(status: JobStatus) -> str:
    progress = status.progress
    if progress is not None and progress.total_steps:
        return f" at step {figures.count(progress.step)} of {figures.count(progress.total_steps)}"
    last = status.attempts[-1] if status.attempts else None
    return f" in the {last.step} step" if last is not None else ""


def _errors_tile(error: ErrorWords, against: BaselineScores, reduction: Interval) -> Tile:
    sign = figures.MINUS if reduction.value >= 0 else "+"
    note = f"against {BASELINES[against.name]}"
    if reduction.low is not None and reduction.high is not None:
        # As a change of the errors: fewer is negative.
        low, high = figures.percent(-reduction.high), figures.percent(-reduction.low)
        note += f", 95{figures.NO_BREAK_SPACE}% [{low}, {high}]"
    return Tile(error.noun.capitalize(), sign + figures.with_percent(abs(reduction.value)), note)


def _cost_note(cost: CostStatus, status: JobStatus) -> str:
    if cost.projected is not None and status.completion_time is None:
        return f"{figures.money(cost.projected, cost.currency)} projected"
    return f"{figures.money(cost.wasted, cost.currency)} of it wasted"
