"""Figures of several labels: scikit-learn's, also where a row weighs twice."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, log_loss

from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation.multilabel import LabelOutputs, figures, score, sigmoid

NAMES = ("a", "b", "c", "never")


def outputs(seed: int = 4, rows: int = 200) -> LabelOutputs:
    """Three labels of different frequency, and one that no row has and nobody tells."""
    random = np.random.default_rng(seed)
    truth = random.random((rows, 4)) < [0.5, 0.3, 0.1, 0.0]
    logits = np.where(truth, 1.0, -1.0) + random.normal(0, 1, truth.shape)
    logits[:, 3] = -5
    return LabelOutputs(
        names=NAMES,
        truth=truth,
        logits=logits.astype(np.float32),
        baselines={Baseline.MAJORITY: np.tile([0.5, 0.3, 0.1, 0.0], (rows, 1))},
    )


def test_figures_agree_with_scikit_learn() -> None:
    one = outputs()
    told = one.answers[0]
    scores = score(one, 100, seed=1)
    assert {name: scores.metrics[name].value for name in scores.metrics} == pytest.approx(
        {
            Metric.MICRO_F1: f1_score(one.truth, told, average="micro"),
            # A label that is nowhere says nothing, and does not lower the mean.
            Metric.MACRO_F1: f1_score(one.truth[:, :3], told[:, :3], average="macro"),
            Metric.EXACT_MATCH: accuracy_score(one.truth, told),
            Metric.LABEL_ACCURACY: 1 - hamming_loss(one.truth, told),
            Metric.LOSS: log_loss(one.truth.ravel(), one.probabilities.ravel()),
        }
    )
    assert all(one.low is not None for one in scores.metrics.values())
    wrong = [float((answers != one.truth).mean()) for answers in one.answers]
    (baseline,) = scores.baselines
    assert baseline.error_reduction is not None
    assert baseline.error_reduction.value == pytest.approx(1 - wrong[0] / wrong[1])


def test_each_label_has_its_own_scores() -> None:
    one = outputs()
    found = score(one, 100, seed=1).per_class
    assert tuple(label.label for label in found) == NAMES
    for place, label in enumerate(found[:3]):
        truth, told = one.truth[:, place], one.answers[0][:, place]
        assert label.f1 == pytest.approx(f1_score(truth, told))
        assert label.support == truth.sum()
    assert (found[3].precision, found[3].recall, found[3].f1, found[3].support) == (0, 0, 0, 0)


def test_a_row_that_weighs_twice_counts_as_two_rows() -> None:
    one = outputs(rows=40)
    times = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40))
    weighed = figures(one.truth, one.answers, times[None].astype(float))
    again = np.repeat(np.arange(40), times)
    repeated = figures(one.truth[again], one.answers[:, again], np.ones((1, 40)))
    for name, values in weighed.items():
        assert values == pytest.approx(repeated[name]), name


def test_the_order_of_the_rows_changes_no_figure_but_the_last_digits_of_the_loss() -> None:
    one = outputs()
    other = np.random.default_rng(2).permutation(len(one.truth))
    again = LabelOutputs(
        names=one.names,
        truth=one.truth[other],
        logits=one.logits[other],
        baselines={name: values[other] for name, values in one.baselines.items()},
    )
    first, second = score(one, 200, seed=1), score(again, 200, seed=1)
    assert first.baselines == second.baselines
    assert first.per_class == second.per_class
    for name in first.metrics.keys() - {Metric.LOSS}:
        assert first.metrics[name] == second.metrics[name]
    assert first.metrics[Metric.LOSS].value == pytest.approx(second.metrics[Metric.LOSS].value)


def test_probabilities_of_extreme_logits_are_finite() -> None:
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
