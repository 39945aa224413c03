"""The measured part of a model card: its figures, how sure they are, and on whom it fails.

Pure text, from the evaluation report. Used by ``card``.
"""

import re
from collections.abc import Iterator, Sequence

from finetune_api.evaluationreport import (
    Calibration,
    Contrast,
    CounterfactualsReport,
    EvaluationReport,
    Generalization,
    GroupsReport,
    Interval,
)
from finetune_api.run import Run
from finetune_api.tasks import BASELINES, METRICS, TASKS


def evidence(run: Run, report: EvaluationReport) -> Iterator[str]:
    """Sections from the figures on the test rows to the requirements that they met."""
    yield f"## Measured on {report.test_rows} test rows\n\n{_metrics(report)}"
    yield f"### Against baselines\n\n{_baselines(report)}"
    if report.per_class:
        yield f"### By {_noun(report)}\n\n{_classes(report)}"
    if report.confusion_matrix:
        yield f"### Confusion matrix\n\n{_confusion(report)}"
    if report.thresholds:
        yield f"### Thresholds\n\n{_thresholds(run, report)}"
    if report.calibration is not None:
        yield f"### Calibration\n\n{_calibration(report.calibration)}"
    for one in report.groups:
        yield f"### By {cell(one.column)}\n\n{_groups(report, one)}"
    if report.counterfactuals is not None:
        yield f"### Terms that should not matter\n\n{_swaps(report.counterfactuals)}"
    if report.generalization is not None:
        yield f"### On rows that it learned from\n\n{_generalization(report.generalization)}"
    if report.gate:
        yield f"## Requirements\n\n{_gate(report)}"


def _metrics(report: EvaluationReport) -> str:
    rows = [
        (METRICS[metric].name, *_interval(report.metrics[metric]))
        for metric in TASKS[report.task].metrics
        if metric in report.metrics
    ]
    return (
        table(("figure", "value", "95 % interval"), rows)
        + f"\n\nIntervals: percentiles of {report.resamples} bootstrap resamples, drawn by "
        f"{cell(report.interval_unit)}. These rows took no part in training or in choosing the "
        "checkpoint."
    )


def _baselines(report: EvaluationReport) -> str:
    task = TASKS[report.task]
    rows = []
    for scores in report.baselines:
        reduction = scores.error_reduction
        shown = _interval(reduction) if reduction else ("undefined: it makes no error", "")
        rows.append((scores.name.value, *_interval(scores.metrics[task.headline]), *shown))
    name = METRICS[task.headline].name
    head = ("baseline", name, "95 % interval", f"{task.error.noun} removed", "95 % interval")
    left_out = (
        f"\n\nNot compared with {BASELINES[one]}: {cell(reason)}."
        for one, reason in report.baselines_left_out.items()
    )
    return table(head, rows) + "".join(left_out)


def _noun(report: EvaluationReport) -> str:
    """What a line of the per-class table is of."""
    return TASKS[report.task].classes or "class"


def _classes(report: EvaluationReport) -> str:
    rows = [
        (
            scores.label,
            f"{scores.precision:.4f}",
            f"{scores.recall:.4f}",
            f"{scores.f1:.4f}",
            str(scores.support),
        )
        for scores in report.per_class
    ]
    return table((_noun(report), "precision", "recall", "F1", TASKS[report.task].support), rows)


def _confusion(report: EvaluationReport) -> str:
    rows = [
        (label, *(str(count) for count in counts))
        for label, counts in zip(report.labels, report.confusion_matrix, strict=True)
    ]
    return "Rows: the true class; columns: the predicted one.\n\n" + table(
        ("", *report.labels), rows
    )


def _thresholds(run: Run, report: EvaluationReport) -> str:
    how = "as the manifest has them"
    if run.evaluation.threshold == "tune":
        how = "chosen on the select rows for macro F1"
    rows = [(label, f"{value:.6f}") for label, value in report.thresholds.items()]
    other = ""
    if len(report.thresholds) == 1 and len(report.labels) == 2:
        other = f" Below it `{cell(report.labels[0])}` is told."
    return (
        f"{table(('label', 'told from a probability of'), rows)}\n\nThe figures above are with "
        f"these thresholds, {how}.{other} A pipeline gives probabilities and does not apply them: "
        "compare its scores with `model.model.config.thresholds`."
    )


def _calibration(found: Calibration) -> str:
    before, after = found.before, found.after
    pairs = [
        ("negative log-likelihood", before.loss, after and after.loss),
        (
            "expected calibration error",
            before.expected_calibration_error,
            after and after.expected_calibration_error,
        ),
        ("Brier score", before.brier, after and after.brier),
    ]
    rows = [
        (name, f"{one:.4f}", "" if other is None else f"{other:.4f}") for name, one, other in pairs
    ]
    told = "The select rows are too few, or too few of them wrong, to choose a temperature."
    if found.temperature is not None:
        told = (
            f"The temperature {found.temperature:.4f} was chosen by the {found.select_rows} select "
            "rows. This model does not apply it: its probabilities are those before. To have those "
            f"after, divide the logits by it before the softmax. It changes no class."
        )
    return f"{table(('figure', 'as exported', 'with the temperature'), rows)}\n\n{told}"


def _groups(report: EvaluationReport, groups: GroupsReport) -> str:
    first = TASKS[report.task].by_group[0]
    rows = []
    for group in groups.groups:
        told = {one.metric: one for one in group.contrasts}
        against = _interval(told[first].difference) if first in told else ("too few rows", "")
        found = [_found(one) for one in group.contrasts if one.found]
        rows.append(
            (group.group, f"{group.rows}", *_interval(group.figure), *against, "; ".join(found))
        )
    name = METRICS[first].name
    head = ("group", "rows", name, "95 % interval", "less the rest's", "95 % interval", "found")
    return (
        table(head, rows)
        + "\n\nFound is what is more than chance at 5 % for all comparisons together (Holm)."
    )


def _found(one: Contrast) -> str:
    of = f" of {one.label}" if one.label is not None else ""
    return f"{METRICS[one.metric].name}{of} {one.difference.value:+.4f}"


def _gate(report: EvaluationReport) -> str:
    rows = [
        (
            one.name,
            one.metric
            + (f" against {one.against}" if one.against else "")
            + (f", shortfall of any {one.column}" if one.column else ""),
            "value" if one.bound == "Point" else f"{one.bound.lower()} end of the interval",
            ("at most " if one.column or METRICS[one.metric].lower_is_better else "at least ")
            + f"{one.required:g}",
            "undefined" if one.measured is None else f"{one.measured:.4f}",
            "passed" if one.passed else "failed",
        )
        for one in report.gate
    ]
    return table(("requirement", "figure", "held to", "required", "measured", "result"), rows)


def _swaps(report: CounterfactualsReport) -> str:
    named = [*((one.name, one) for one in report.swaps), ("neutral words", report.neutral)]
    flips = any(one.flip_rate is not None for _, one in named)
    of_flips = ("answers that change", "95 % interval") if flips else ()
    head = ("swapped", "rows", "mean change", "95 % interval", *of_flips, "found")
    rows = [
        (
            name,
            str(one.rows),
            *_known(one.change),
            *(_known(one.flip_rate) if flips else ()),
            "too few rows" if one.insufficient else "yes" if one.found else "",
        )
        for name, one in named
    ]
    return (
        table(head, rows)
        + "\n\nEach row that holds a term was asked again with the terms swapped. Found is what "
        "does more than neutral words do, beyond chance at 5 % for all swaps together (Holm)."
    )


def _known(one: Interval | None) -> tuple[str, str]:
    return ("", "") if one is None else _interval(one)


def _generalization(found: Generalization) -> str:
    rows = [
        (f"{found.train_rows} training rows", *_interval(found.train_loss)),
        (f"{found.select_rows} select rows", *_interval(found.select_loss)),
        ("the gap", *_interval(found.gap)),
    ]
    return (
        table(("rows", "mean loss", "95 % interval"), rows)
        + "\n\nAbove 0 the gap says that it knows the rows it saw better than others."
    )


def _interval(one: Interval) -> tuple[str, str]:
    low = "?" if one.low is None else f"{one.low:.4f}"
    high = "?" if one.high is None else f"{one.high:.4f}"
    known = one.low is not None or one.high is not None
    return f"{one.value:.4f}", f"{low} to {high}" if known else "too few units"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def cell(text: str) -> str:
    """A text that stays within its cell: labels and names are people's own."""
    return re.sub(r"\s+", " ", text).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
