"""What is measured and required of a job's model: the block `evaluation` of its spec."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from finetune_api.counterfactuals import Counterfactuals
from finetune_api.evaluationreport import Interval
from finetune_api.markers import Cel, Contract, Label, ListMap, ShortText, rules
from finetune_api.tasks import METRICS, RATES, SWAPPED, Baseline, Metric


class GateBound(StrEnum):
    """Which side of the estimate has to pass: the value itself, or an end of its interval."""

    POINT = "Point"
    LOWER = "Lower"
    UPPER = "Upper"


class RowResults(StrEnum):
    """What becomes of the results of single rows once the figures are made."""

    KEEP = "Keep"
    DISCARD = "Discard"


THRESHOLD_PATTERN = "^(tune|0[.][0-9]{0,3}[1-9])$"
_FALLING = [
    metric.value
    for metric, facts in METRICS.items()
    if facts.lower_is_better and metric not in RATES
]
_SWAPPED = [metric.value for metric in SWAPPED]
_BELOW_ZERO = [metric.value for metric, facts in METRICS.items() if (facts.floor or 0) < 0]


@rules(
    Cel(
        "self.metric == 'errorReduction' || !has(self.against)",
        "evaluation.gate: against goes with metric errorReduction",
    ),
    Cel(
        "has(self.group) == has(self.maxShortfall)",
        "evaluation.gate: group and maxShortfall go together; name both, or neither",
    ),
    Cel(
        f"has(self.group) || self.metric in {_SWAPPED} || !has(self.insufficient)",
        f"evaluation.gate: insufficient goes with group and {', '.join(_SWAPPED)}; leave it out",
    ),
    Cel(
        f"self.metric in {_SWAPPED} || !has(self.swap)",
        f"evaluation.gate: swap goes with {', '.join(_SWAPPED)}; leave it out",
    ),
    Cel(
        "!has(self.maxShortfall) || (!has(self.min) && !has(self.max))",
        "evaluation.gate: maxShortfall stands instead of min and max; leave them out",
    ),
    Cel(
        f"has(self.maxShortfall) || (self.metric in {_FALLING} ? has(self.max) && !has(self.min) : "
        "has(self.min) && !has(self.max))",
        f"evaluation.gate: {', '.join(_FALLING)} are held to a max, every other metric to a min",
    ),
    Cel(
        "self.bound == 'Point' || (self.bound == 'Lower') == has(self.min)",
        "evaluation.gate: bound Lower goes with min, bound Upper with max and maxShortfall",
    ),
    Cel(
        # Resamples of rows are further from calibrated than the rows themselves.
        f"self.bound == 'Point' || self.metric != '{Metric.CALIBRATION_ERROR.value}'",
        f"evaluation.gate: {Metric.CALIBRATION_ERROR.value} has no interval; leave bound out",
    ),
    Cel(
        f"!has(self.min) || self.min >= 0.0 || self.metric in {_BELOW_ZERO}",
        f"evaluation.gate: min below 0 makes sense for {', '.join(_BELOW_ZERO)} only",
    ),
)
class GateRule(Contract):
    """One requirement: the model is exported only if every one of them holds."""

    name: Annotated[Label, Field(description="A name for reports.")]
    metric: Annotated[Metric, Field(description="What is measured on the test rows.")]
    min: Annotated[
        float | None, Field(ge=-1, le=1, description="The least that passes: more is better.")
    ] = None
    max: Annotated[
        float | None,
        Field(ge=0, le=1e12, description="The most that passes, where less is better."),
    ] = None
    bound: Annotated[
        GateBound,
        Field(
            description="Lower, Upper: the 95 % interval's lower end must reach min, its upper end "
            "stay within max, not only the value."
        ),
    ] = GateBound.POINT
    against: Annotated[
        Baseline | None,
        Field(
            description="The baseline of errorReduction. By default the conventional one: tfidf, "
            "pixels, wordFeatures, or of language models untuned."
        ),
    ] = None
    group: Annotated[
        ShortText | None,
        Field(description="A column of evaluation.groups, whose groups are all held to this."),
    ] = None
    max_shortfall: Annotated[
        float | None,
        Field(
            ge=0,
            le=1e12,
            description="The most by which a group may be worse than all other rows; of "
            "selectionRate the most by which it may differ. With bound Upper the upper end of the "
            "shortfall's interval must stay within it.",
        ),
    ] = None
    insufficient: Annotated[
        Literal["fail", "pass"] | None,
        Field(
            description="What it means where a group or a swap has too few rows to be compared "
            "(default: fail)."
        ),
    ] = None
    swap: Annotated[
        Label | None,
        Field(
            description="The one of evaluation.counterfactuals.swaps that is held to this "
            "(default: each of them)."
        ),
    ] = None

    @property
    def required(self) -> float:
        """The limit, whichever of the three it is.

        Raises
        ------
        ValueError
            If there is not one; the schema's rules ask for one.
        """
        limits = [one for one in (self.min, self.max, self.max_shortfall) if one is not None]
        if len(limits) != 1:
            raise ValueError(
                f"gate rule {self.name} has {len(limits)} limits; the schema asks for one"
            )
        return limits[0]

    def side(self, figure: Interval) -> float | None:
        """The side of a figure that has to pass; None where it has no such end."""
        sides = {
            GateBound.POINT: figure.value,
            GateBound.LOWER: figure.low,
            GateBound.UPPER: figure.high,
        }
        return sides[self.bound]

    def holds(self, measured: float) -> bool:
        """Whether a side is within the limit."""
        return measured <= self.required if self.min is None else measured >= self.required


@rules(
    Cel(
        "self.groups.all(one, self.groups.exists_one(other, other == one))",
        "evaluation.groups: a column stands there twice; name it once",
    ),
    Cel(
        "self.gate.all(g, !has(g.group) || g.group in self.groups)",
        "evaluation.gate: group names a column that is not in evaluation.groups; add it there",
    ),
    Cel(
        f"has(self.counterfactuals) || self.gate.all(g, !(g.metric in {_SWAPPED}))",
        f"evaluation.gate: {', '.join(_SWAPPED)} are measured where "
        "evaluation.counterfactuals says what is swapped; add it",
    ),
    Cel(
        "!has(self.counterfactuals) || self.gate.all(g, !has(g.swap) || "
        "self.counterfactuals.swaps.exists(one, one.name == g.swap))",
        "evaluation.gate: swap names none of evaluation.counterfactuals.swaps; add it there",
    ),
)
class Evaluation(Contract):
    """What is measured on the test rows, and what the model must reach."""

    gate: Annotated[
        tuple[GateRule, ...],
        ListMap(("name",)),
        Field(max_length=20, description="Requirements; without one, every model passes."),
    ] = ()
    groups: Annotated[
        tuple[ShortText, ...],
        Field(
            max_length=3,
            description="Columns by whose values test rows are grouped (a dialect, a source, an "
            "age bracket): is the model worse for one of them? Up to 20 values each, as names and "
            "not as numbers; rows without one are a group of their own. The names of the groups, "
            "and no row, stand in the status.",
        ),
    ] = ()
    counterfactuals: Counterfactuals | None = None
    threshold: Annotated[
        str | None,
        StringConstraints(pattern=THRESHOLD_PATTERN, max_length=6),
        Field(
            description="The probability from which a label is told, such as '0.5', or tune: for "
            "each label the one of the best F1 on the select rows. Of two classes it is that of "
            "the last, by the mean F1 of both; more than two have none. It leaves with the model, "
            "in its configuration and card. Where it is tuned the baselines get theirs by the same "
            "rule; beside a number they keep 0.5."
        ),
    ] = None
    resamples: Annotated[
        int, Field(ge=200, le=20_000, description="Bootstrap resamples behind each interval.")
    ] = 2000
    keep_predictions: Annotated[
        bool,
        Field(
            description="Keep the test rows' texts beside their predictions, and of language "
            "models some rows as they are learned and answered; ids and groups stay anyway."
        ),
    ] = True
    row_results: Annotated[
        RowResults,
        Field(
            description="Whether predictions, losses, answers and mistakes stay, row by row: "
            "Keep, as long as the workspace, so that every figure can be recomputed; Discard, "
            "until the figures are made. What was prepared of the rows lies in the workspace all "
            "the same."
        ),
    ] = RowResults.KEEP
