"""A regressor's figures: scikit-learn's and scipy's, also where a row weighs twice."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation.regression import NumberOutputs, figures, score, weighted_ranks


def outputs(seed: int = 3, rows: int = 200) -> NumberOutputs:
    random = np.random.default_rng(seed)
    truth = np.round(random.normal(50, 10, rows))  # with ties
    return NumberOutputs(
        truth=truth,
        model=truth + random.normal(0, 3, rows),
        baselines={
            Baseline.MEAN: np.full(rows, 50.0),
            Baseline.TFIDF: truth + random.normal(0, 6, rows),
        },
    )


def test_figures_agree_with_scikit_learn_and_scipy() -> None:
    one = outputs()
    found = figures(one.truth, one.model[None], np.ones((1, len(one.truth))))
    expected = {
        Metric.RMSE: root_mean_squared_error(one.truth, one.model),
        Metric.MAE: mean_absolute_error(one.truth, one.model),
        Metric.R_SQUARED: r2_score(one.truth, one.model),
        Metric.SPEARMAN: spearmanr(one.truth, one.model).statistic,
        Metric.ERROR_REDUCTION: 0.0,
    }
    assert {name: float(values[0, 0]) for name, values in found.items()} == pytest.approx(expected)


def test_a_row_that_weighs_twice_counts_as_two_rows() -> None:
    one, random = outputs(rows=40), np.random.default_rng(1)
    times = random.multinomial(40, np.full(40, 1 / 40))
    weighed = figures(one.truth, one.model[None], times[None].astype(float))
    repeated = figures(
        np.repeat(one.truth, times), np.repeat(one.model, times)[None], np.ones((1, 40))
    )
    for name, values in weighed.items():
        assert values == pytest.approx(repeated[name]), name


def test_the_explained_share_is_right_far_from_zero() -> None:
    one = outputs()
    far = figures(one.truth + 1e9, one.model[None] + 1e9, np.ones((1, len(one.truth))))
    assert far[Metric.R_SQUARED][0, 0] == pytest.approx(r2_score(one.truth, one.model), abs=1e-6)


def test_ranks_of_equal_values_are_their_middle_one() -> None:
    values = np.array([3.0, 1.0, 3.0, 2.0, 3.0])
    assert weighted_ranks(values, np.ones((1, 5)))[0].tolist() == rankdata(values).tolist()


def test_intervals_hold_their_value_and_differences_keep_their_pairing() -> None:
    scores = score(outputs(), 400, seed=1)
    for interval in scores.metrics.values():
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < interval.value < interval.high
    mean, tfidf = scores.baselines
    assert mean.error_reduction is not None
    assert tfidf.error_reduction is not None
    assert (tfidf.error_reduction.low or 0) > 0.6
    assert mean.metrics[Metric.SPEARMAN].value == 0


def test_the_order_of_the_rows_changes_no_figure() -> None:
    one = outputs()
    other = np.random.default_rng(2).permutation(len(one.truth))
    again = NumberOutputs(
        truth=one.truth[other],
        model=one.model[other],
        baselines={name: values[other] for name, values in one.baselines.items()},
    )
    assert score(again, 200, seed=1) == score(one, 200, seed=1)


def test_rows_of_one_group_are_drawn_together() -> None:
    one = outputs(rows=200)
    alike = NumberOutputs(
        truth=np.repeat(one.truth[:20], 10),
        model=np.repeat(one.model[:20], 10),
        baselines={},
        groups=np.repeat(np.arange(20), 10),
    )

    def width(it: NumberOutputs) -> float:
        rmse = score(it, 400, seed=1).metrics[Metric.RMSE]
        assert rmse.low is not None
        assert rmse.high is not None
        return rmse.high - rmse.low

    ungrouped = NumberOutputs(truth=alike.truth, model=alike.model, baselines={})
    assert width(alike) > 2 * width(ungrouped)


def test_a_baseline_that_is_never_wrong_leaves_the_reduction_undefined() -> None:
    one = outputs()
    perfect = NumberOutputs(one.truth, one.model, {Baseline.TFIDF: one.truth})
    (baseline,) = score(perfect, 100, seed=1).baselines
    assert baseline.error_reduction is None
