"""Figures of a classifier: against scikit-learn, by hand, and under changes that may not matter."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from finetune_api.tasks import Baseline, Metric
from finetune_trainer.evaluation import metrics
from finetune_trainer.evaluation.classification import RowOutputs, score
from finetune_trainer.evaluation.metrics import Floats, Integers


@st.composite
def labeled_rows(draw: st.DrawFn) -> tuple[int, Integers, Integers]:
    classes = draw(st.integers(2, 5))
    pairs = draw(
        st.lists(
            st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)),
            min_size=1,
            max_size=60,
        )
    )
    rows = np.array(pairs, dtype=np.int64)
    return classes, rows[:, 0], rows[:, 1]


def random_outputs(seed: int, rows: int = 300, classes: int = 3) -> RowOutputs:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    logits = random.normal(size=(rows, classes)).astype(np.float32)
    logits[np.arange(rows), labels] += 1.0
    weak = random.dirichlet(np.ones(classes), size=rows)
    return RowOutputs(
        names=tuple("abcdefgh"[:classes]),
        labels=labels,
        logits=logits,
        baselines={Baseline.TFIDF: weak},
    )


@given(labeled_rows())
def test_what_a_confusion_matrix_determines_agrees_with_scikit_learn(
    rows: tuple[int, Integers, Integers],
) -> None:
    classes, labels, predicted = rows
    confusion = metrics.confusion_matrix(labels, predicted, classes)
    present = np.unique(labels)
    assert np.array_equal(
        confusion, reference.confusion_matrix(labels, predicted, labels=range(classes))
    )
    assert metrics.accuracy(confusion) == pytest.approx(reference.accuracy_score(labels, predicted))
    assert metrics.error_rate(confusion) == pytest.approx(1 - metrics.accuracy(confusion))
    recall = reference.recall_score(labels, predicted, labels=present, average="macro")
    assert metrics.balanced_accuracy(confusion) == pytest.approx(recall)
    assert metrics.macro_f1(confusion) == pytest.approx(
        reference.f1_score(labels, predicted, average="macro")
    )
    assert metrics.matthews(confusion) == pytest.approx(
        reference.matthews_corrcoef(labels, predicted)
    )


@given(labeled_rows())
def test_a_stack_of_matrices_gives_each_matrix_its_own_figure(
    rows: tuple[int, Integers, Integers],
) -> None:
    classes, labels, predicted = rows
    first = metrics.confusion_matrix(labels, predicted, classes)
    second = metrics.confusion_matrix(predicted, labels, classes) * 3
    stack = np.stack([np.stack([first, second]), np.stack([second, first])])
    for figure in (
        metrics.accuracy,
        metrics.balanced_accuracy,
        metrics.macro_f1,
        metrics.matthews,
        metrics.error_rate,
    ):
        one, other = float(figure(first)), float(figure(second))
        assert figure(stack).tolist() == [[one, other], [other, one]]


@given(labeled_rows())
def test_each_class_has_the_figures_that_scikit_learn_gives_it(
    rows: tuple[int, Integers, Integers],
) -> None:
    classes, labels, predicted = rows
    names = tuple(f"class {index}" for index in range(classes))
    scores = metrics.class_scores(metrics.confusion_matrix(labels, predicted, classes), names)
    expected = reference.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), zero_division=0
    )
    assert [one.label for one in scores] == list(names)
    assert [one.precision for one in scores] == pytest.approx(expected[0].tolist())
    assert [one.recall for one in scores] == pytest.approx(expected[1].tolist())
    assert [one.f1 for one in scores] == pytest.approx(expected[2].tolist())
    assert [one.support for one in scores] == expected[3].tolist()


def test_a_constant_prediction_has_no_correlation() -> None:
    labels = np.array([0, 1, 0, 1])
    confusion = metrics.confusion_matrix(labels, np.zeros(4, dtype=np.int64), 2)
    assert metrics.matthews(confusion) == 0.0
    assert metrics.balanced_accuracy(confusion) == 0.5


@pytest.mark.parametrize(
    ("probabilities", "labels", "loss", "brier"),
    [
        # -ln 0.8; (0.8 - 1)² + 0.2²
        ([[0.8, 0.2]], [0], 0.22314355131420976, 0.08),
        ([[0.8, 0.2]], [1], 1.6094379124341003, 1.28),
        # Mean of ln 2 and ln 4; mean of 0.25 + 0.25 and 0.0625 + 0.5625.
        ([[0.5, 0.5], [0.75, 0.25]], [0, 1], 1.0397207708399179, 0.8125),
    ],
)
def test_loss_and_brier_are_those_worked_out_by_hand(
    probabilities: list[list[float]], labels: list[int], loss: float, brier: float
) -> None:
    given_probabilities, true = np.array(probabilities), np.array(labels)
    log_probability = metrics.log_probabilities(np.log(given_probabilities))
    assert np.exp(log_probability) == pytest.approx(given_probabilities)
    assert metrics.negative_log_likelihood(log_probability, true).mean() == pytest.approx(loss)
    assert metrics.brier_score(given_probabilities, true).mean() == pytest.approx(brier)


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, -1e4], [-3e4, 3e4]], dtype=np.float32)
    log_probability = metrics.log_probabilities(logits)
    assert np.isfinite(log_probability).all()
    assert metrics.negative_log_likelihood(log_probability, np.array([1, 1])).mean() == 1e4


def two_classes(confidence: list[float]) -> Floats:
    top = np.array(confidence)
    return np.stack([top, 1 - top], axis=1)


def test_calibration_error_is_the_weighted_gap_of_equal_bins() -> None:
    # Two bins of two: |0.65 - 0.5| and |0.85 - 1|, each with half of the rows.
    probabilities, labels = two_classes([0.6, 0.7, 0.8, 0.9]), np.array([0, 1, 0, 0])
    error = metrics.expected_calibration_error(probabilities, labels, bins=2)
    assert error == pytest.approx(0.15)


def test_a_calibrated_constant_has_no_calibration_error_in_any_order() -> None:
    # 30 equal confidences of 0.8 with 24 hits: fixed-size bins would find gaps where none are.
    labels = np.array([0] * 24 + [1] * 6)
    for seed in range(5):
        shuffled = np.random.default_rng(seed).permutation(labels)
        error = metrics.expected_calibration_error(two_classes([0.8] * 30), shuffled)
        assert error == pytest.approx(0.0, abs=1e-12)


def test_bins_hold_equal_shares_of_distinct_confidences() -> None:
    # All wrong: every bin's gap is its mean confidence, whatever the bins, so the sum is the mean.
    confidence = np.linspace(0.51, 0.99, 150)
    labels = np.ones(150, dtype=np.int64)
    error = metrics.expected_calibration_error(two_classes(confidence.tolist()), labels)
    assert error == pytest.approx(confidence.mean())
    # Right in the upper half alone: the middle bin of 15 is mixed, the others are pure.
    labels = (confidence < np.median(confidence)).astype(np.int64)
    right = labels == 0
    expected = sum(
        abs(confidence[start : start + 10].mean() - right[start : start + 10].mean()) * 10 / 150
        for start in range(0, 150, 10)
    )
    error = metrics.expected_calibration_error(two_classes(confidence.tolist()), labels)
    assert error == pytest.approx(expected)


@given(st.permutations(range(3)), st.integers(0, 5))
def test_the_order_of_the_classes_changes_no_overall_figure(order: list[int], seed: int) -> None:
    outputs = random_outputs(seed)
    place = np.argsort(order)
    other = RowOutputs(
        names=tuple(outputs.names[index] for index in order),
        labels=place[outputs.labels],
        logits=outputs.logits[:, order],
        baselines={name: values[:, order] for name, values in outputs.baselines.items()},
    )
    one, two = score(outputs, 200, seed=0), score(other, 200, seed=0)
    for figure in (Metric.ACCURACY, Metric.BALANCED_ACCURACY, Metric.MACRO_F1, Metric.MCC):
        assert math.isclose(one.metrics[figure].value, two.metrics[figure].value, abs_tol=1e-12)
    assert math.isclose(one.metrics[Metric.LOSS].value, two.metrics[Metric.LOSS].value)
    assert math.isclose(one.metrics[Metric.BRIER].value, two.metrics[Metric.BRIER].value)
    assert {scores.label: scores for scores in one.per_class} == {
        scores.label: scores for scores in two.per_class
    }
    permuted = np.array(one.confusion_matrix)[np.ix_(order, order)]
    assert np.array_equal(permuted, np.array(two.confusion_matrix))


@given(st.integers(0, 100))
def test_the_order_of_the_rows_changes_nothing_at_all(seed: int) -> None:
    outputs = random_outputs(3)
    order = np.random.default_rng(seed).permutation(len(outputs.labels))
    groups = np.arange(len(outputs.labels)) // 4
    for grouping in (None, groups):
        one = RowOutputs(outputs.names, outputs.labels, outputs.logits, outputs.baselines, grouping)
        two = RowOutputs(
            outputs.names,
            outputs.labels[order],
            outputs.logits[order],
            {name: values[order] for name, values in outputs.baselines.items()},
            None if grouping is None else grouping[order],
        )
        first, second = score(one, 200, seed=1), score(two, 200, seed=1)
        assert first.metrics[Metric.ACCURACY] == second.metrics[Metric.ACCURACY]
        assert first.metrics[Metric.MCC] == second.metrics[Metric.MCC]
        assert first.baselines == second.baselines
        assert math.isclose(
            first.metrics[Metric.CALIBRATION_ERROR].value,
            second.metrics[Metric.CALIBRATION_ERROR].value,
        )
