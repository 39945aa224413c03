"""Bootstrap intervals: they cover what they claim to, and say so where they can't."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from finetune_api.evaluationreport import Interval
from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation import metrics
from finetune_trainer.evaluation.classification import RowOutputs, score
from finetune_trainer.evaluation.intervals import (
    FEWEST_UNITS,
    Outcomes,
    error_reduction,
    error_reduction_interval,
    interval,
    mean_interval,
    resampled_confusions,
    tail,
    with_one_more_error,
)
from finetune_trainer.evaluation.metrics import Floats, Integers
from finetune_trainer.evaluation.scores import Scores

Flags = NDArray[np.bool_]

SIMULATIONS = 500
RESAMPLES = 400
HELD = (0.92, 0.98)
"""Shares of simulations that a 95 % interval may hold: ± 3 standard errors of 500 of them."""


def sure(classes: Integers) -> Floats:
    """Outputs that choose these classes of two."""
    return np.eye(2)[classes]


def scored(
    labels: Integers, model: Integers, baseline: Integers, groups: Integers | None = None
) -> Scores:
    outputs = RowOutputs(
        names=("no", "yes"),
        labels=labels,
        logits=sure(model).astype(np.float32),
        baselines={Baseline.TFIDF: sure(baseline)},
        groups=groups,
    )
    return score(outputs, RESAMPLES, seed=7)


def wrong_where(labels: Integers, errors: Flags) -> Integers:
    return np.where(errors, 1 - labels, labels)


def paired_errors(random: np.random.Generator, rows: int) -> tuple[Flags, Flags]:
    """Errors of a model (12 %) and a baseline (20 %) that agree more often than by chance."""
    baseline = random.random(rows) < 0.20
    model = np.where(baseline, random.random(rows) < 0.40, random.random(rows) < 0.05)
    return model, baseline


TRUE_MODEL_ERROR = 0.20 * 0.40 + 0.80 * 0.05
TRUE_REDUCTION = 1 - TRUE_MODEL_ERROR / 0.20


def test_row_intervals_of_accuracy_and_error_reduction_hold_in_95_of_100_samples() -> None:
    random = np.random.default_rng(11)
    held = np.zeros(2)
    for _ in range(SIMULATIONS):
        labels = random.integers(0, 2, 400)
        model, baseline = paired_errors(random, 400)
        scores = scored(labels, wrong_where(labels, model), wrong_where(labels, baseline))
        accuracy, reduction = scores.metrics[Metric.ACCURACY], scores.baselines[0].error_reduction
        assert reduction is not None
        held[0] += _holds(accuracy, 1 - TRUE_MODEL_ERROR)
        held[1] += _holds(reduction, TRUE_REDUCTION)
    assert HELD[0] <= held[0] / SIMULATIONS <= HELD[1]
    assert HELD[0] <= held[1] / SIMULATIONS <= HELD[1]


def test_grouped_intervals_hold_where_intervals_over_rows_would_not() -> None:
    # 80 groups of 10 rows that mostly succeed or fail together, as an author's texts do.
    random = np.random.default_rng(12)
    groups = np.repeat(np.arange(80), 10)
    by_group, by_row = np.zeros(2), np.zeros(2)
    for _ in range(SIMULATIONS):
        labels = random.integers(0, 2, 800)
        hard_model, hard_baseline = paired_errors(random, 80)
        follows = random.random(800) < 0.9
        own_model, own_baseline = paired_errors(random, 800)
        model = np.where(follows, hard_model[groups], own_model)
        baseline = np.where(follows, hard_baseline[groups], own_baseline)
        chosen = wrong_where(labels, model), wrong_where(labels, baseline)
        for held, units in ((by_group, groups), (by_row, None)):
            scores = scored(labels, *chosen, units)
            reduction = scores.baselines[0].error_reduction
            assert reduction is not None
            held[0] += _holds(scores.metrics[Metric.ACCURACY], 1 - TRUE_MODEL_ERROR)
            held[1] += _holds(reduction, TRUE_REDUCTION)
    assert (by_group / SIMULATIONS >= HELD[0]).all()
    assert (by_group / SIMULATIONS <= HELD[1]).all()
    assert (by_row / SIMULATIONS < 0.80).all()


def _holds(one: Interval, truth: float) -> bool:
    assert one.low is not None
    assert one.high is not None
    return one.low <= truth <= one.high


def test_resamples_draw_as_many_units_as_there_are() -> None:
    labels = np.array([0, 0, 1, 1, 1, 0])
    predicted = np.array([[0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]])
    groups = np.array([0, 0, 0, 1, 1, 1])
    random = np.random.default_rng(0)
    for units in (None, groups):
        drawn = np.concatenate(
            list(resampled_confusions(Outcomes(labels, predicted, 2, units), 50, random))
        )
        assert drawn.shape == (50, 2, 2, 2)
        assert (drawn.sum(axis=(2, 3)) == 6).all()
        assert (drawn[:, 0].sum(axis=2) == drawn[:, 1].sum(axis=2)).all(), "not the same rows"


def test_a_group_is_drawn_whole() -> None:
    # One group is all right, the other all wrong: a resample has accuracy 0, 1/2 or 1.
    labels = np.array([0, 1] * 10)
    predicted = wrong_where(labels, np.arange(20) >= 10)[None]
    groups = np.repeat([5, 9], 10)
    (drawn,) = resampled_confusions(
        Outcomes(labels, predicted, 2, groups), 200, np.random.default_rng(0)
    )
    assert set(metrics.accuracy(drawn[:, 0]).tolist()) == {0.0, 0.5, 1.0}


def test_resampled_counts_have_the_mean_of_the_sample() -> None:
    random = np.random.default_rng(5)
    labels = random.integers(0, 3, 90)
    predicted = random.integers(0, 3, (2, 90))
    for groups in (None, random.integers(0, 30, 90)):
        chunks = resampled_confusions(Outcomes(labels, predicted, 3, groups), 20_000, random)
        mean = np.concatenate(list(chunks)).mean(axis=0)
        for index in range(2):
            expected = metrics.confusion_matrix(labels, predicted[index], 3)
            assert mean[index] == pytest.approx(expected, abs=0.25)


def test_an_interval_leaves_out_a_fortieth_at_each_end() -> None:
    drawn = np.random.default_rng(0).permutation(np.arange(4001) / 4000)
    many = 10**7
    expected = pytest.approx((0.025, 0.975), abs=0.00026)
    for one in (interval(0.5, drawn, many), error_reduction_interval(0.5, drawn, many)):
        assert one is not None
        assert (one.low, one.high) == expected


def test_chunks_do_not_change_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    outcomes = Outcomes(random.integers(0, 3, 90), random.integers(0, 3, (2, 90)), 3)
    (whole,) = resampled_confusions(outcomes, 100, np.random.default_rng(1))
    monkeypatch.setattr("finetune_trainer.evaluation.intervals._CHUNK_NUMBERS", 500)
    parts = list(resampled_confusions(outcomes, 100, np.random.default_rng(1)))
    assert len(parts) > 5
    assert np.array_equal(np.concatenate(parts), whole)


@given(st.integers(0, 1000), st.integers(40, 200))
@settings(max_examples=30)
def test_an_interval_holds_the_value_and_stays_in_range(seed: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    model, baseline = paired_errors(random, rows)
    scores = scored(labels, wrong_where(labels, model), wrong_where(labels, baseline))
    for metric in (Metric.ACCURACY, Metric.BALANCED_ACCURACY, Metric.MACRO_F1):
        one = scores.metrics[metric]
        assert one.low is not None
        assert one.high is not None
        assert 0 <= one.low <= one.value <= one.high <= 1


def test_of_a_classifiers_figures_the_calibration_error_alone_has_no_interval() -> None:
    labels = np.arange(50) % 2
    found = scored(labels, wrong_where(labels, np.arange(50) % 5 == 0), labels).metrics
    assert [name for name in found if found[name].low is None] == [Metric.CALIBRATION_ERROR]


@pytest.mark.parametrize("sure", [1.0, 3.0])
@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_of_loss_and_brier_score_hold_the_truth_as_often_as_they_say(
    sure: float, *, grouped: bool
) -> None:
    # Logits are drawn, and classes by them: with 3 most rows are sure and right, and few losses
    # are large. Rows of a group are the same ones.
    random, rows, runs = np.random.default_rng(5), 100, 600
    groups = np.repeat(np.arange(rows), 3) if grouped else None

    def draw(size: int) -> list[NDArray[np.float64]]:
        logits = random.normal(0, sure, (size, 1)) * [-0.5, 0.5]
        labels = (random.random(size) < 1 / (1 + np.exp(-logits @ [-1, 1]))).astype(np.int64)
        log_probability = metrics.log_probabilities(logits)
        return [
            metrics.negative_log_likelihood(log_probability, labels),
            metrics.brier_score(np.exp(log_probability), labels),
        ]

    truth = [values.mean() for values in draw(500_000)]
    held = np.zeros(2)
    for _ in range(runs):
        for which, values in enumerate(draw(rows)):
            one = mean_interval(np.repeat(values, 3) if grouped else values, groups)
            assert one.low is not None
            assert one.high is not None
            held[which] += one.low <= truth[which] <= one.high
    assert held.min() / runs > 0.92
    assert held.max() / runs < 0.98


def test_a_mean_of_few_rows_or_groups_has_no_interval() -> None:
    losses = np.linspace(0.1, 3.0, 60)
    assert mean_interval(losses, None).low is not None
    assert mean_interval(losses[:49], None).low is None
    assert mean_interval(losses, np.arange(60) // 2).low is None


@given(st.lists(st.floats(0.001, 100), min_size=50, max_size=80), st.integers(0, 2**32 - 1))
def test_a_mean_lies_in_its_interval_which_is_above_0_and_knows_no_order(
    losses: list[float], seed: int
) -> None:
    random = np.random.default_rng(seed)
    values, weights = np.asarray(losses), random.integers(1, 9, len(losses)).astype(np.float64)
    order = random.permutation(len(losses))
    one = mean_interval(values * weights, None, weights)
    other = mean_interval((values * weights)[order], None, weights[order])
    assert one.value == pytest.approx(np.average(values, weights=weights))
    assert one.low is not None
    assert one.high is not None
    assert 0 < one.low <= one.value <= one.high
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 150)
    outputs = RowOutputs(
        ("a", "b"),
        labels,
        random.normal(size=(150, 2)).astype(np.float32),
        {Baseline.TFIDF: sure(labels)},
    )
    assert score(outputs, 300, seed=1) == score(outputs, 300, seed=1)
    seeds = {score(outputs, 300, seed=seed).metrics[Metric.MCC].low for seed in range(6)}
    assert len(seeds) > 1


def test_a_model_equal_to_its_baseline_reduces_nothing_and_knows_it_exactly() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 100)
    chosen = wrong_where(labels, random.random(100) < 0.3)
    reduction = scored(labels, chosen, chosen).baselines[0].error_reduction
    assert reduction is not None
    assert (reduction.value, reduction.low, reduction.high) == (0, 0, 0)


def test_against_a_faultless_baseline_there_is_no_error_reduction() -> None:
    labels = np.array([0, 1] * 20)
    for model in (labels, wrong_where(labels, np.arange(40) == 3)):
        assert scored(labels, model, labels).baselines[0].error_reduction is None


def test_resamples_in_which_the_baseline_is_faultless_leave_the_low_end_open() -> None:
    # One error of the baseline in 40 rows: more than a third of the resamples miss it.
    labels = np.array([0, 1] * 20)
    model = wrong_where(labels, np.arange(40) == 3)
    baseline = wrong_where(labels, np.arange(40) == 8)
    reduction = scored(labels, model, baseline).baselines[0].error_reduction
    assert reduction is not None
    assert reduction.value == 0
    assert reduction.low is None
    assert reduction.high == 1


def test_undecided_resamples_count_against_both_ends() -> None:
    drawn = np.array([0.5] * 90 + [np.nan] * 10)
    one = error_reduction_interval(0.5, drawn, units=100)
    assert one is not None
    assert one.low is None
    assert one.high == 1
    few = np.array([0.5] * 99 + [np.nan])
    one = error_reduction_interval(0.5, few, units=100)
    assert one is not None
    assert (one.low, one.high) == (0.5, 0.5)


def test_error_reduction_says_which_way_it_is_undefined() -> None:
    faultless, faulty = np.array([[5, 0], [0, 5]]), np.array([[4, 1], [1, 4]])
    assert error_reduction(faultless, faulty) == 1
    assert error_reduction(faulty, faulty) == 0
    assert error_reduction(faulty, faultless) == -np.inf
    assert np.isnan(error_reduction(faultless, faultless))


@pytest.mark.parametrize(("rows", "exact_low"), [(20, 0.8316), (100, 0.9638), (1000, 0.99632)])
def test_a_faultless_model_is_not_certain(rows: int, exact_low: float) -> None:
    # exact_low: Clopper-Pearson, 0.025 ** (1 / n).
    labels = np.arange(rows) % 2
    baseline = wrong_where(labels, np.arange(rows) % 5 == 0)
    scores = scored(labels, labels, baseline)
    accuracy, reduction = scores.metrics[Metric.ACCURACY], scores.baselines[0].error_reduction
    assert accuracy.value == accuracy.high == 1
    assert accuracy.low is not None
    assert exact_low - 1 / rows <= accuracy.low < 1 - (1 - exact_low) / 2
    assert reduction is not None
    assert reduction.value == reduction.high == 1
    assert reduction.low is not None
    assert reduction.low < 1
    assert scores.per_class[0].recall == 1, "the figures themselves are those of the rows"
    assert np.array(scores.confusion_matrix).sum() == rows


def test_each_predictor_gets_one_error_more_and_on_the_same_row_where_it_can() -> None:
    labels = np.array([2, 0, 0, 1, 1, 1])
    predicted = np.stack([labels, np.zeros(6, dtype=np.int64), np.array([2, 0, 1, 0, 0, 0])])
    changed = with_one_more_error(Outcomes(labels, predicted, 4)).predicted
    wrong = [(one != labels).sum() for one in predicted]
    assert [(one != labels).sum() for one in changed] == [count + 1 for count in wrong]
    assert changed[0, 0] != 2, "the rarest class that has rows"
    assert changed[2, 0] != 2
    assert changed[1, 0] == 0, "already wrong there"


def test_a_predictor_that_is_never_right_gets_no_error_more() -> None:
    labels = np.array([0, 1, 0])
    outcomes = Outcomes(labels, 1 - labels[None], 2)
    assert np.array_equal(with_one_more_error(outcomes).predicted, outcomes.predicted)


def test_few_units_are_given_wider_intervals() -> None:
    # Student's quantile for 9 degrees of freedom, times the square root of 10 / 9, is 2.385.
    assert tail(10) == pytest.approx(0.00855, abs=1e-5)
    assert tail(1_000_000) == pytest.approx(0.025, abs=1e-5)
    assert tail(10) < tail(20) < tail(100) < 0.025


@pytest.mark.parametrize("rows_per_group", [None, 5])
def test_too_few_units_give_a_value_without_an_interval(rows_per_group: int | None) -> None:
    few = FEWEST_UNITS - 1
    groups = np.repeat(np.arange(few), rows_per_group) if rows_per_group else None
    rows = few * (rows_per_group or 1)
    labels = np.arange(rows) % 2
    scores = scored(labels, wrong_where(labels, np.arange(rows) == 1), 0 * labels, groups)
    assert scores.metrics[Metric.ACCURACY] == interval(1 - 1 / rows, np.zeros(1), few)
    assert scores.metrics[Metric.ACCURACY].low is None
    reduction = scores.baselines[0].error_reduction
    assert reduction is not None
    assert reduction.low is None
