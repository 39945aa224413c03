"""Every task by its facts: what its models are called, measured by, and compared with.

One entry of ``TASKS`` is all that contract, operator and page know of a task. What the trainer does
for it stands in ``finetune_trainer.tasks``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What the model learns to do."""

    TEXT_CLASSIFICATION = "text-classification"
    MULTI_LABEL_CLASSIFICATION = "multi-label-classification"
    TEXT_REGRESSION = "text-regression"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - a task
    CAUSAL_LM = "causal-lm"
    IMAGE_CLASSIFICATION = "image-classification"


class Metric(StrEnum):
    """A figure of a model on the test rows; ``METRICS`` says what each means."""

    ACCURACY = "accuracy"
    BALANCED_ACCURACY = "balancedAccuracy"
    MACRO_F1 = "macroF1"
    MCC = "mcc"
    MICRO_F1 = "microF1"
    PRECISION = "precision"
    RECALL = "recall"
    EXACT_MATCH = "exactMatch"
    LABEL_ACCURACY = "labelAccuracy"
    LOSS = "loss"
    CALIBRATION_ERROR = "expectedCalibrationError"
    BRIER = "brier"
    RMSE = "rmse"
    MAE = "mae"
    R_SQUARED = "rSquared"
    SPEARMAN = "spearman"
    PERPLEXITY = "perplexity"
    BITS_PER_BYTE = "bitsPerByte"
    TOKEN_ACCURACY = "tokenAccuracy"  # noqa: S105 - a metric
    ERROR_REDUCTION = "errorReduction"
    SELECTION_RATE = "selectionRate"
    TRUE_POSITIVE_RATE = "truePositiveRate"
    FALSE_POSITIVE_RATE = "falsePositiveRate"
    FLIP_RATE = "flipRate"
    FLIP_EXCESS = "flipExcess"
    SWAP_CHANGE = "swapChange"


RATES = (Metric.SELECTION_RATE, Metric.TRUE_POSITIVE_RATE, Metric.FALSE_POSITIVE_RATE)
"""Figures of one class against the rest; groups of rows are compared by them, models are not."""

SWAPPED = (Metric.FLIP_RATE, Metric.FLIP_EXCESS, Metric.SWAP_CHANGE)
"""Figures of ``evaluation.counterfactuals``, of each of its swaps."""


class Baseline(StrEnum):
    """A conventional method that a model is compared with; ``BASELINES`` says which."""

    MAJORITY = "majority"
    MEAN = "mean"
    TFIDF = "tfidf"
    WORD_MAJORITY = "wordMajority"
    WORD_FEATURES = "wordFeatures"
    PIXELS = "pixels"
    UNTUNED = "untuned"
    PROBE = "probe"


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """A metric in words.

    ``name`` goes within a sentence, ``meaning`` into the reference. ``floor`` is the worst value
    that a requirement can sensibly name; a metric without one has no natural end there.
    """

    name: str
    meaning: str
    lower_is_better: bool = False
    floor: float | None = 0.0


METRICS: Mapping[Metric, MetricFacts] = {
    Metric.ACCURACY: MetricFacts(name="accuracy", meaning="Share of the rows that are right."),
    Metric.BALANCED_ACCURACY: MetricFacts(
        name="balanced accuracy", meaning="Mean recall over the classes."
    ),
    Metric.MACRO_F1: MetricFacts(
        name="macro F1", meaning="Mean F1 over the classes, or the types of spans."
    ),
    Metric.MCC: MetricFacts(
        name="Matthews correlation (MCC)",
        meaning="Correlation of truth and prediction, 0 for guessing.",
        floor=-1.0,
    ),
    Metric.MICRO_F1: MetricFacts(
        name="micro F1", meaning="F1 of all labels, or all spans, of all rows together."
    ),
    Metric.PRECISION: MetricFacts(
        name="precision", meaning="Share of the spans told that are there, with their type."
    ),
    Metric.RECALL: MetricFacts(
        name="recall", meaning="Share of the spans that are found, with their type."
    ),
    Metric.EXACT_MATCH: MetricFacts(
        name="exact match", meaning="Share of the rows whose labels are all right."
    ),
    Metric.LABEL_ACCURACY: MetricFacts(
        name="label accuracy",
        meaning="Share of the yes-or-no answers, row by label, that are right.",
    ),
    Metric.LOSS: MetricFacts(
        name="loss (mean negative log-likelihood, nats)",
        meaning="Mean of -log p(truth), in nats, over rows, or over learned tokens; of several "
        "labels their mean.",
        lower_is_better=True,
    ),
    Metric.CALIBRATION_ERROR: MetricFacts(
        name="expected calibration error",
        meaning="Gap of top probability and accuracy, over 15 bins of equal mass.",
        lower_is_better=True,
    ),
    Metric.BRIER: MetricFacts(
        name="Brier score",
        meaning="Mean squared error of the probabilities, 0 to 2.",
        lower_is_better=True,
    ),
    Metric.RMSE: MetricFacts(
        name="root mean squared error (RMSE)",
        meaning="In the target's unit.",
        lower_is_better=True,
    ),
    Metric.MAE: MetricFacts(
        name="mean absolute error (MAE)",
        meaning="In the target's unit.",
        lower_is_better=True,
    ),
    Metric.R_SQUARED: MetricFacts(
        name="R²",
        meaning="Share of the test rows' variance that the model explains; below 0 it is worse "
        "than their mean.",
        floor=-1.0,
    ),
    Metric.SPEARMAN: MetricFacts(
        name="rank correlation (Spearman)",
        meaning="Correlation of the ranks of truth and prediction, 0 for guessing.",
        floor=-1.0,
    ),
    Metric.PERPLEXITY: MetricFacts(
        name="perplexity",
        meaning="exp of the mean negative log-likelihood of a learned token; 1 is certainty.",
        lower_is_better=True,
    ),
    Metric.BITS_PER_BYTE: MetricFacts(
        name="bits per byte",
        meaning="Bits that a byte of the learned text takes; comparable between tokenizers.",
        lower_is_better=True,
    ),
    Metric.TOKEN_ACCURACY: MetricFacts(
        name="token accuracy",
        meaning="Share of the learned tokens that are the model's first choice; of tags, share of "
        "the words whose tag is right.",
    ),
    Metric.ERROR_REDUCTION: MetricFacts(
        name="error reduction",
        meaning="Share of a baseline's errors that the model doesn't make; of its squared error "
        "where the target is a number.",
        floor=-1.0,
    ),
    Metric.SELECTION_RATE: MetricFacts(
        name="selection rate", meaning="Share of the rows that are called so, whatever they are."
    ),
    Metric.TRUE_POSITIVE_RATE: MetricFacts(
        name="true positive rate", meaning="Share of the rows that are so and are called so."
    ),
    Metric.FALSE_POSITIVE_RATE: MetricFacts(
        name="false positive rate",
        meaning="Share of the rows that are not so and are called so.",
        lower_is_better=True,
    ),
    Metric.FLIP_RATE: MetricFacts(
        name="flip rate",
        meaning="Share of the rows with a swapped term whose answer changes.",
        lower_is_better=True,
    ),
    Metric.FLIP_EXCESS: MetricFacts(
        name="flip rate less that of the neutral swap",
        meaning="By how much more often the answer changes than by a neutral swap.",
        lower_is_better=True,
    ),
    Metric.SWAP_CHANGE: MetricFacts(
        name="change by the swap",
        meaning="Mean absolute change of the answer by a swap: of one class half the sum over all "
        "probabilities, of several labels their mean, of a number its own.",
        lower_is_better=True,
    ),
}

BASELINES: Mapping[Baseline, str] = {
    Baseline.MAJORITY: "the majority class",
    Baseline.MEAN: "the mean of the training rows",
    Baseline.TFIDF: "tuned TF-IDF",
    Baseline.WORD_MAJORITY: "each word's most frequent tag",
    Baseline.WORD_FEATURES: "tuned logistic regression on word features",
    Baseline.PIXELS: "tuned pixels and edges",
    Baseline.UNTUNED: "the untuned model",
    Baseline.PROBE: "a head on the frozen model",
}


@dataclass(frozen=True)
class ErrorWords:
    """What errorReduction counts, and how a sentence speaks of less and of as much of it."""

    noun: str
    fewer: str
    many: str


ERRORS = ErrorWords("errors", "fewer", "many")
LABEL_ERRORS = ErrorWords("label errors", "fewer", "many")
SQUARED_ERROR = ErrorWords("squared error", "less", "much")
WRONG_TAGS = ErrorWords("wrong tags", "fewer", "many")
WRONG_TOKENS = ErrorWords("wrong tokens", "fewer", "many")


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """A task in words, and what is measured of it.

    ``metrics`` are those of a report in its order; the first is the headline, the ``compared`` ones
    are told of baselines too. Of ``baselines`` the ``conventional`` one is that to beat: a
    requirement on errorReduction goes against it by default. ``error`` is what errorReduction
    counts, and ``classes`` what one line of a report's per-class table is of; unset where there are
    none. ``support`` is what is counted there. ``learning_rate`` and ``max_length`` (tokens) are
    what a manifest that names none gets; a task on images has no tokens. ``packs`` says that
    several rows may share a sequence. Groups of rows are compared by ``by_group``, of which the
    first is said of each group. ``swapped`` are the figures of swapped
    terms, where there are texts. ``has_threshold`` says that a label is told from some probability
    on, ``weighs_classes`` that each thing that is learned has one class, by which it may weigh, and
    ``balances_rows`` that each row has.
    """

    model: str
    metrics: tuple[Metric, ...]
    compared: tuple[Metric, ...]
    baselines: tuple[Baseline, ...]
    conventional: Baseline
    error: ErrorWords
    classes: str | None
    support: str = "test rows"
    learning_rate: float
    max_length: int | None = 256
    packs: bool = False
    by_group: tuple[Metric, ...]
    swapped: tuple[Metric, ...] = ()
    has_threshold: bool = False
    weighs_classes: bool = False
    balances_rows: bool = False

    @property
    def headline(self) -> Metric:
        """The metric that is said first."""
        return self.metrics[0]


TASKS: Mapping[Task, TaskFacts] = {
    Task.TEXT_CLASSIFICATION: TaskFacts(
        model="text classifier",
        metrics=(
            Metric.ACCURACY,
            Metric.BALANCED_ACCURACY,
            Metric.MACRO_F1,
            Metric.MCC,
            Metric.LOSS,
            Metric.CALIBRATION_ERROR,
            Metric.BRIER,
        ),
        compared=(Metric.ACCURACY, Metric.MACRO_F1),
        baselines=(Baseline.MAJORITY, Baseline.TFIDF, Baseline.PROBE),
        conventional=Baseline.TFIDF,
        error=ERRORS,
        classes="class",
        learning_rate=3e-5,
        by_group=(Metric.ACCURACY, *RATES),
        swapped=SWAPPED,
        has_threshold=True,
        weighs_classes=True,
        balances_rows=True,
    ),
    Task.MULTI_LABEL_CLASSIFICATION: TaskFacts(
        model="text classifier of several labels",
        metrics=(
            Metric.MICRO_F1,
            Metric.MACRO_F1,
            Metric.EXACT_MATCH,
            Metric.LABEL_ACCURACY,
            Metric.LOSS,
        ),
        compared=(Metric.MICRO_F1, Metric.MACRO_F1),
        baselines=(Baseline.MAJORITY, Baseline.TFIDF, Baseline.PROBE),
        conventional=Baseline.TFIDF,
        error=LABEL_ERRORS,
        classes="label",
        learning_rate=3e-5,
        by_group=(Metric.LABEL_ACCURACY, *RATES),
        swapped=SWAPPED,
        has_threshold=True,
    ),
    Task.TEXT_REGRESSION: TaskFacts(
        model="text regressor",
        metrics=(Metric.RMSE, Metric.MAE, Metric.R_SQUARED, Metric.SPEARMAN),
        compared=(Metric.RMSE, Metric.SPEARMAN),
        baselines=(Baseline.MEAN, Baseline.TFIDF, Baseline.PROBE),
        conventional=Baseline.TFIDF,
        error=SQUARED_ERROR,
        classes=None,
        learning_rate=3e-5,
        by_group=(Metric.MAE,),
        swapped=(Metric.SWAP_CHANGE,),
    ),
    Task.TOKEN_CLASSIFICATION: TaskFacts(
        model="tagger of words",
        metrics=(
            Metric.MICRO_F1,
            Metric.MACRO_F1,
            Metric.PRECISION,
            Metric.RECALL,
            Metric.TOKEN_ACCURACY,
            Metric.LOSS,
        ),
        compared=(Metric.MICRO_F1, Metric.MACRO_F1, Metric.TOKEN_ACCURACY),
        baselines=(Baseline.WORD_MAJORITY, Baseline.WORD_FEATURES),
        conventional=Baseline.WORD_FEATURES,
        error=WRONG_TAGS,
        classes="type",
        support="spans",
        learning_rate=3e-5,
        by_group=(Metric.MICRO_F1, Metric.TOKEN_ACCURACY),
        weighs_classes=True,
    ),
    Task.CAUSAL_LM: TaskFacts(
        model="language model",
        metrics=(
            Metric.PERPLEXITY,
            Metric.BITS_PER_BYTE,
            Metric.TOKEN_ACCURACY,
            Metric.LOSS,
        ),
        compared=(Metric.PERPLEXITY, Metric.BITS_PER_BYTE, Metric.TOKEN_ACCURACY),
        baselines=(Baseline.UNTUNED,),
        conventional=Baseline.UNTUNED,
        error=WRONG_TOKENS,
        classes=None,
        learning_rate=1e-5,
        max_length=2048,
        packs=True,
        by_group=(Metric.TOKEN_ACCURACY, Metric.LOSS),
    ),
    Task.IMAGE_CLASSIFICATION: TaskFacts(
        model="image classifier",
        metrics=(
            Metric.ACCURACY,
            Metric.BALANCED_ACCURACY,
            Metric.MACRO_F1,
            Metric.MCC,
            Metric.LOSS,
            Metric.CALIBRATION_ERROR,
            Metric.BRIER,
        ),
        compared=(Metric.ACCURACY, Metric.MACRO_F1),
        baselines=(Baseline.MAJORITY, Baseline.PIXELS, Baseline.PROBE),
        conventional=Baseline.PIXELS,
        error=ERRORS,
        classes="class",
        learning_rate=5e-5,
        max_length=None,
        by_group=(Metric.ACCURACY, *RATES),
        weighs_classes=True,
        balances_rows=True,
    ),
}
