"""A group against the rest: fair models are not called unfair, and planted deficits are found."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune_api.evaluationreport import GroupsReport
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation.classification import RowOutputs, by_group
from finetune_trainer.evaluation.contrasts import (
    FEWEST_CLUSTERS,
    FEWEST_ROWS,
    Contrasts,
    Grouping,
    RowValues,
    contrast,
    holm,
)
from finetune_trainer.evaluation.groups import of_rows, of_sums
from finetune_trainer.evaluation.language_scores import LanguageOutputs
from finetune_trainer.evaluation.language_scores import by_group as tokens_by_group
from finetune_trainer.evaluation.likelihood import RowLikelihoods
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.evaluation.regression import NumberOutputs
from finetune_trainer.evaluation.regression import by_group as numbers_by_group
from finetune_trainer.evaluation.spans import spans_of_iob2
from finetune_trainer.evaluation.tagging import TagOutputs
from finetune_trainer.evaluation.tagging import by_group as tags_by_group

SIMULATIONS = 250
FEW_ERRORS = 0.05 + 3 * (0.05 * 0.95 / SIMULATIONS) ** 0.5
"""5 % and three standard errors of the simulation."""
HELD = (0.92, 0.98)


def outputs(
    labels: Integers, predicted: Integers, classes: int, clusters: Integers | None = None
) -> RowOutputs:
    return RowOutputs(
        names=tuple("abcdef"[:classes]),
        labels=labels,
        logits=np.eye(classes, dtype=np.float32)[predicted],
        baselines={Baseline.MAJORITY: np.eye(classes)[predicted]},
        groups=clusters,
    )


def names(group: Integers) -> list[str]:
    return [f"group {number}" for number in group]


def findings(reports: Sequence[GroupsReport]) -> int:
    return sum(
        one.found for report in reports for group in report.groups for one in group.contrasts
    )


def rows_alone(random: np.random.Generator) -> tuple[GroupsReport, ...]:
    """Three classes, 85 % right, by two columns with small and large groups."""
    labels = random.integers(0, 3, 900)
    predicted = np.where(random.random(900) < 0.85, labels, random.integers(0, 3, 900))
    columns = {
        "small": names(random.choice(4, 900, p=[0.05, 0.1, 0.25, 0.6])),
        "even": names(random.integers(0, 2, 900)),
    }
    return by_group(outputs(labels, predicted, 3), columns)


def rows_in_clusters(random: np.random.Generator) -> tuple[GroupsReport, ...]:
    """Texts of 120 authors, whose texts mostly succeed or fail together; authors are in groups."""
    author = np.repeat(np.arange(120), 6)
    labels = random.integers(0, 2, 720)
    hard, own = random.random(120) < 0.15, random.random(720) < 0.15
    wrong = np.where(random.random(720) < 0.7, hard[author], own)
    predicted = np.where(wrong, 1 - labels, labels)
    group = random.integers(0, 4, 120)[author]
    return by_group(outputs(labels, predicted, 2, author), {"group": names(group)})


def skewed_numbers(random: np.random.Generator) -> tuple[GroupsReport, ...]:
    """Errors with a long tail, in groups as small as they may be."""
    error = random.exponential(size=400)
    group = random.choice(6, 400, p=[0.1, 0.1, 0.1, 0.1, 0.1, 0.5])
    made = NumberOutputs(truth=np.zeros(400), model=error, baselines={})
    return numbers_by_group(made, {"group": names(group)})


def tokens(
    random: np.random.Generator, clusters: Integers | None, deficit: Floats
) -> LanguageOutputs:
    """Rows of 1 to some 200 tokens, which are easy or hard together; authors' rows are too."""
    rows = len(deficit)
    sizes = np.maximum(1, random.lognormal(3, 0.7, rows)).astype(np.int64)
    hard = random.beta(2, 6, rows)
    if clusters is not None:
        hard = (hard + random.beta(2, 6, rows)[clusters]) / 2
    wrong = np.minimum(hard + deficit, 1.0)
    likely = RowLikelihoods(
        nll=random.gamma(sizes / 4, 8 * wrong),
        tokens=sizes,
        right=sizes - random.binomial(sizes, wrong),
    )
    return LanguageOutputs(model=likely, base=likely, text_bytes=sizes, groups=clusters)


def tokens_of_rows(random: np.random.Generator) -> tuple[GroupsReport, ...]:
    """A language model's rows, in large and small groups of two columns."""
    columns = {
        "small": names(random.choice(4, 400, p=[0.1, 0.15, 0.25, 0.5])),
        "even": names(random.integers(0, 2, 400)),
    }
    return tokens_by_group(tokens(random, None, np.zeros(400)), columns)


def tokens_of_authors(random: np.random.Generator) -> tuple[GroupsReport, ...]:
    """The same of 100 authors, each in one group."""
    author = np.repeat(np.arange(100), 5)
    group = random.integers(0, 3, 100)[author]
    return tokens_by_group(tokens(random, author, np.zeros(500)), {"group": names(group)})


def tags(random: np.random.Generator, deficit: Floats) -> TagOutputs:
    """Rows of some spans among 3 to 30 words, told wrong together: missed, or of another type."""
    truth, told = [], []
    for more in deficit:
        words = int(random.integers(1, 11))
        row = [tag for _ in range(words) for tag in ("O", "B-A", "I-A")[: random.integers(1, 4)]]
        wrong = random.random(len(row)) < min(1.0, random.beta(1, 6) + more)
        truth.append(row)
        told.append(
            [
                random.choice(["O", "B-A", "B-B"]) if w else t
                for t, w in zip(row, wrong, strict=True)
            ]
        )
    return TagOutputs(truth=truth, told=(told,), baselines=(), finding=spans_of_iob2)


def spans_of_rows(random: np.random.Generator) -> tuple[GroupsReport, ...]:
    """A tagger's rows, in large and small groups."""
    group = random.choice(4, 400, p=[0.1, 0.15, 0.25, 0.5])
    return tags_by_group(tags(random, np.zeros(400)), {"small": names(group)})


@pytest.mark.parametrize(
    "draw",
    [
        rows_alone,
        rows_in_clusters,
        skewed_numbers,
        tokens_of_rows,
        tokens_of_authors,
        spans_of_rows,
    ],
)
def test_groups_drawn_at_random_are_called_unequal_in_no_more_than_5_of_100_reports(
    draw: Callable[[np.random.Generator], tuple[GroupsReport, ...]],
) -> None:
    random = np.random.default_rng(3)
    wrongly = sum(findings(draw(random)) > 0 for _ in range(SIMULATIONS))
    assert wrongly / SIMULATIONS <= FEW_ERRORS


@pytest.mark.parametrize("clustered", [False, True])
def test_a_planted_deficit_is_found_with_its_sign_and_no_other(*, clustered: bool) -> None:
    random = np.random.default_rng(4)
    found = right_sign = elsewhere = 0
    for _ in range(100):
        group = np.repeat([0, 1, 2], [300, 450, 450])
        labels = random.integers(0, 2, 1200)
        wrong = random.random(1200) < np.where(group == 0, 0.30, 0.10)
        authors = np.arange(1200) // 3 if clustered else None
        made = outputs(labels, np.where(wrong, 1 - labels, labels), 2, authors)
        (report,) = by_group(made, {"dialect": names(group)})
        accuracy = [group.contrasts[0] for group in report.groups]
        assert [one.metric for one in accuracy] == [Metric.ACCURACY] * 3
        found += accuracy[0].found
        right_sign += accuracy[0].difference.value < 0 < accuracy[0].shortfall.value
        elsewhere += any(one.found and one.difference.value < 0 for one in accuracy[1:])
    assert found >= 98
    assert right_sign == 100
    assert elsewhere <= 5


def test_a_planted_deficit_of_tokens_is_found_by_both_figures_and_nowhere_else() -> None:
    random = np.random.default_rng(12)
    found = {Metric.TOKEN_ACCURACY: 0, Metric.LOSS: 0}
    elsewhere = 0
    for _ in range(60):
        group = np.repeat([0, 1, 2], [150, 200, 250])
        (report,) = tokens_by_group(
            tokens(random, None, np.where(group == 0, 0.12, 0.0)), {"dialect": names(group)}
        )
        for one in report.groups[0].contrasts:
            found[one.metric] += one.found and one.shortfall.value > 0
        elsewhere += any(
            one.found and one.shortfall.value > 0
            for other in report.groups[1:]
            for one in other.contrasts
        )
    assert min(found.values()) >= 57
    assert elsewhere <= 3


def test_a_planted_deficit_of_spans_is_found() -> None:
    random, group = np.random.default_rng(15), np.repeat([0, 1, 2], [150, 200, 250])
    found = 0
    for _ in range(20):
        made = tags(random, np.where(group == 0, 0.12, 0.0))
        (report,) = tags_by_group(made, {"dialect": names(group)})
        found += all(one.found and one.shortfall.value > 0 for one in report.groups[0].contrasts)
    assert found >= 19


Drawn = tuple[RowValues, Grouping, Floats]


def shares(random: np.random.Generator) -> Drawn:
    group = np.repeat(np.arange(3), [60, 200, 600])
    chance = np.array([0.75, 0.95, 0.9])
    right = (random.random(860) < chance[group]).astype(np.float64)
    sizes = np.array([60, 200, 600])
    rest = ((sizes * chance).sum() - sizes * chance) / (860 - sizes)
    return _all(right, is_share=True), Grouping(group=group, groups=3), chance - rest


def shares_in_clusters(random: np.random.Generator) -> Drawn:
    cluster = np.repeat(np.arange(150), 6)
    hard = random.random(150) < 0.85
    right = np.where(random.random(900) < 0.7, hard[cluster], random.random(900) < 0.85)
    group = (np.arange(150) % 3)[cluster]
    grouping = Grouping(group=group, groups=3, cluster=cluster)
    return _all(right.astype(np.float64), is_share=True), grouping, np.zeros(3)


def numbers_across_clusters(random: np.random.Generator) -> Drawn:
    cluster = np.repeat(np.arange(60), 10)
    group = random.integers(0, 3, 600)
    values = random.normal(size=60)[cluster] + random.normal(size=600) + 2.0 * group
    grouping = Grouping(group=group, groups=3, cluster=cluster)
    sizes = np.bincount(group)
    rest = ((2.0 * sizes * np.arange(3)).sum() - 2.0 * sizes * np.arange(3)) / (600 - sizes)
    return _all(values, is_share=False), grouping, 2.0 * np.arange(3) - rest


def shares_of_many(random: np.random.Generator) -> Drawn:
    made, group = tokens(random, None, np.zeros(600)), np.repeat(np.arange(3), [60, 140, 400])
    sizes = made.model.tokens.astype(np.float64)
    rows = of_sums(Metric.TOKEN_ACCURACY, made.model.right, sizes, is_share=True).rows
    return rows, Grouping(group=group, groups=3), np.zeros(3)


def _all(values: Floats, *, is_share: bool) -> RowValues:
    return RowValues(values=values, counted=np.ones(len(values), dtype=np.bool_), is_share=is_share)


@pytest.mark.parametrize(
    "draw", [shares, shares_in_clusters, numbers_across_clusters, shares_of_many]
)
def test_intervals_of_differences_hold_in_95_of_100_samples(
    draw: Callable[[np.random.Generator], Drawn],
) -> None:
    random = np.random.default_rng(5)
    held = []
    for _ in range(SIMULATIONS):
        rows, grouping, truth = draw(random)
        one = contrast(rows, grouping)
        assert one.comparable.all()
        held.append((one.low <= truth) & (truth <= one.high))
    assert HELD[0] <= np.mean(held) <= HELD[1]


def _brute_force(rows: RowValues, group: Integers, draws: int) -> Floats:
    """Twice the share of permutations that go as far, to the nearer side."""
    random = np.random.default_rng(6)
    permuted = np.stack([random.permutation(rows.values) for _ in range(draws)])
    result = []
    for number in range(group.max() + 1):
        mine = group == number
        sums, at = permuted[:, mine].sum(axis=1), rows.values[mine].sum()
        result.append(2 * min((sums <= at + 1e-9).mean(), (sums >= at - 1e-9).mean()))
    return np.minimum(result, 1.0)


def test_p_values_are_those_of_permuted_groups() -> None:
    random = np.random.default_rng(7)
    group = np.repeat(np.arange(3), [40, 60, 300])
    error = random.exponential(size=400)
    right = (random.random(400) < 0.9).astype(np.float64)
    for values, is_share in ((right, True), (error, False)):
        values[group == 0] = np.sort(values)[::-1][::8][:40]
        rows = _all(values, is_share=is_share)
        found = contrast(rows, Grouping(group=group, groups=3)).p_values
        expected = _brute_force(rows, group, 20_000)
        # A score test may only add to it, where a group varies more than the rest.
        assert (found >= expected - 0.012).all()
        assert (found[expected > 0.02] <= expected[expected > 0.02] + 0.06).all()


def test_a_group_without_the_long_tail_of_the_rest_is_not_found_by_its_small_spread() -> None:
    random = np.random.default_rng(0)
    group, error = np.repeat([0, 1], [40, 360]), random.exponential(size=400)
    error[:40] = np.minimum(error[:40], 1.2)
    rows = _all(error, is_share=False)
    found = contrast(rows, Grouping(group=group, groups=2)).p_values
    assert found == pytest.approx(_brute_force(rows, group, 20_000), abs=0.004)
    assert found[0] > 0.015, "a t-test says 0.001"


def test_holms_correction_is_that_of_its_definition() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.7])) == pytest.approx([1.0, 1.0])
    assert holm(np.array([])).size == 0


def one_sided(hits: Sequence[int], rows: Sequence[int]) -> Contrasts:
    """Groups with so many hits of so many rows."""
    group = np.repeat(np.arange(len(rows)), rows)
    values = np.concatenate(
        [np.arange(total) < hit for hit, total in zip(hits, rows, strict=True)]
    ).astype(np.float64)
    return contrast(_all(values, is_share=True), Grouping(group=group, groups=len(rows)))


def test_a_group_with_fewer_than_30_rows_is_not_compared() -> None:
    one = one_sided([10, 10, 100], [FEWEST_ROWS - 1, FEWEST_ROWS, 200])
    assert one.comparable.tolist() == [False, True, True]
    assert one.p_values[0] == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("counted", [0, 1, 60])
@pytest.mark.parametrize("is_share", [True, False])
@pytest.mark.parametrize("clustered", [True, False])
def test_values_that_are_all_the_same_or_hardly_there_differ_nowhere(
    counted: int, *, is_share: bool, clustered: bool
) -> None:
    rows = RowValues(values=np.ones(60), counted=np.arange(60) < counted, is_share=is_share)
    cluster = np.arange(60) // 2 if clustered else None
    one = contrast(rows, Grouping(group=np.arange(60) // 30, groups=2, cluster=cluster))
    assert one.p_values.tolist() == [1, 1]
    assert one.comparable.tolist() == [counted == 60] * 2


def test_a_faultless_group_is_not_certain() -> None:
    one = one_sided([40, 190], [40, 200])
    assert one.group.low[0] < 0.93, "Wilson's: 0.912"
    assert one.low[0] < 0 < one.difference[0]


def test_rows_that_only_repeat_their_clusters_say_no_more_than_the_clusters() -> None:
    random = np.random.default_rng(8)
    values, group = random.normal(size=90), np.repeat(np.arange(3), 30)
    alone = contrast(_all(values, is_share=False), Grouping(group=group, groups=3))
    copied = contrast(
        _all(np.repeat(values, 7), is_share=False),
        Grouping(group=np.repeat(group, 7), groups=3, cluster=np.repeat(np.arange(90), 7)),
    )
    assert copied.low == pytest.approx(alone.low)
    assert copied.high == pytest.approx(alone.high)
    assert copied.p_values == pytest.approx(alone.p_values)


@pytest.mark.parametrize("is_share", [True, False])
@pytest.mark.parametrize("clustered", [True, False])
def test_a_row_of_many_things_is_a_cluster_of_them(*, is_share: bool, clustered: bool) -> None:
    random = np.random.default_rng(13)
    sizes, group = random.integers(1, 12, 120), np.repeat(np.arange(3), 40)
    author = np.arange(120) // 2 if clustered else np.arange(120)
    row = np.repeat(np.arange(120), sizes)
    each = (random.random(len(row)) < random.random(120)[row]).astype(np.float64)
    summed = of_sums(Metric.LOSS, np.bincount(row, weights=each), sizes, is_share=is_share)
    grouping = Grouping(group=group, groups=3, cluster=author if clustered else None)
    one = contrast(summed.rows, grouping)
    apart = contrast(
        _all(each, is_share=is_share), Grouping(group=group[row], groups=3, cluster=author[row])
    )
    for name in ("difference", "low", "high", "p_values"):
        assert getattr(one, name) == pytest.approx(getattr(apart, name)), name
    assert one.group.rows.tolist() == [40, 40, 40], "what is counted are rows"


def test_few_rows_are_not_compared_however_much_they_hold() -> None:
    group = np.repeat([0, 1, 2], [FEWEST_ROWS - 1, FEWEST_ROWS, 100])
    sizes = np.full(len(group), 500)
    right = np.random.default_rng(14).binomial(sizes, 0.8)
    figure = of_sums(Metric.TOKEN_ACCURACY, right, sizes, is_share=True)
    assert contrast(figure.rows, Grouping(group=group, groups=3)).comparable.tolist() == [
        False,
        True,
        True,
    ]


def test_many_rows_of_few_clusters_are_not_compared() -> None:
    cluster = np.repeat(np.arange(FEWEST_CLUSTERS - 1 + 40), 20)
    group = (cluster < FEWEST_CLUSTERS - 1).astype(np.int64)
    values = np.random.default_rng(9).integers(0, 2, len(cluster)).astype(np.float64)
    one = contrast(_all(values, is_share=True), Grouping(group=group, groups=2, cluster=cluster))
    assert not one.comparable.any()


def test_two_groups_are_one_comparison_seen_from_both_sides() -> None:
    random = np.random.default_rng(10)
    labels, group = random.integers(0, 2, 200), np.repeat([0, 1], 100)
    predicted = np.where(random.random(200) < 0.3 * group, 1 - labels, labels)
    (report,) = by_group(outputs(labels, predicted, 2), {"side": names(group)})
    for one, other in zip(report.groups[0].contrasts, report.groups[1].contrasts, strict=True):
        assert one.metric == other.metric
        assert one.difference.value == pytest.approx(-other.difference.value)
        assert one.difference.low == pytest.approx(-(other.difference.high or 0))
        assert (one.p_value, one.found) == (other.p_value, other.found)


def _any_order(order: NDArray[np.int64]) -> tuple[GroupsReport, ...]:
    random = np.random.default_rng(11)
    labels, group = random.integers(0, 3, 300), random.integers(0, 3, 300)
    predicted = random.integers(0, 3, 300)
    made = outputs(labels[order], predicted[order], 3)
    return by_group(made, {"g": names(group[order])})


def test_the_order_of_rows_does_not_matter() -> None:
    one = _any_order(np.arange(300))
    other = _any_order(np.random.default_rng(1).permutation(300))
    assert [g.figure for g in one[0].groups] == [g.figure for g in other[0].groups]
    for left, right in zip(one[0].groups, other[0].groups, strict=True):
        assert [c.p_value for c in left.contrasts] == pytest.approx(
            [c.p_value for c in right.contrasts]
        )


def test_a_rate_counts_the_rows_that_it_is_a_share_of() -> None:
    # 40 rows in each group are b; a has 29 positives only in group 0.
    labels = np.array([0] * 29 + [1] * 40 + [0] * 60 + [1] * 40)
    predicted = labels.copy()
    predicted[:10] = 1
    group = np.repeat([0, 1], [69, 100])
    (report,) = by_group(outputs(1 - labels, 1 - predicted, 2), {"g": names(group)})
    first = report.groups[0]
    told = {one.metric: one for one in first.contrasts}
    assert first.insufficient == (Metric.TRUE_POSITIVE_RATE,)
    assert told[Metric.SELECTION_RATE].value == pytest.approx(19 / 69)
    assert told[Metric.SELECTION_RATE].label == "b", "of two classes the last"
    assert told[Metric.FALSE_POSITIVE_RATE].value == 0
    assert told[Metric.ACCURACY].rest == 1


def test_amplification_is_the_gap_in_what_is_told_less_the_gap_in_the_labels() -> None:
    group = np.repeat([0, 1], 100)
    labels = np.concatenate([np.arange(100) < 60, np.arange(100) < 40]).astype(np.int64)
    predicted = np.concatenate([np.arange(100) < 80, np.arange(100) < 20]).astype(np.int64)
    (report,) = by_group(outputs(labels, predicted, 2), {"g": names(group)})
    amplified = report.groups[0].amplification
    assert amplified is not None
    assert amplified.difference.value == pytest.approx((0.8 - 0.2) - (0.6 - 0.4))
    assert amplified.difference.low is not None
    assert amplified.difference.low > 0


def test_a_figure_over_all_rows_is_their_mean() -> None:
    figure = of_rows(Metric.MAE, np.array([1.0, 2.0, 6.0]), is_share=False)
    assert figure.rows.values.mean() == 3
    assert figure.rows.counted.all()
