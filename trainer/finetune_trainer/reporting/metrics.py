"""``/metrics``: the progress as Prometheus samples. The one place of their names."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from finetune_api.report import Progress

_PREFIX = "finetune_trainer"


def _scored(progress: Progress) -> float | None:
    scores = [point.select_loss for point in progress.curve if point.select_loss is not None]
    return scores[-1] if scores else None


_GAUGES: tuple[tuple[str, str, Callable[[Progress], float | None]], ...] = (
    ("steps_planned", "Optimizer steps of the whole training.", lambda p: p.total_steps),
    ("step", "Optimizer steps done, those of earlier attempts included.", lambda p: p.step),
    ("loss", "Training loss of the newest step, over its global batch.", lambda p: p.loss),
    ("select_loss", "Mean loss on the select rows when last scored.", _scored),
    ("learning_rate", "Learning rate of the newest step.", lambda p: p.learning_rate),
    ("rows_per_second", "Rows learned from, over recent steps.", lambda p: p.rows_per_second),
    ("tokens_per_second", "Tokens computed, over recent steps.", lambda p: p.tokens_per_second),
    ("step_duration_seconds", "Median of recent steps.", lambda p: p.seconds_per_step),
    (
        "checkpoint_duration_seconds",
        "Mean time of saving in this attempt.",
        lambda p: p.seconds_per_checkpoint,
    ),
    (
        "evaluation_duration_seconds",
        "Mean time of scoring the select rows in this attempt.",
        lambda p: p.seconds_per_evaluation,
    ),
    (
        "checkpoint_step",
        "Step of the newest complete checkpoint.",
        lambda p: p.marks.checkpoint_step,
    ),
    ("resumed_from_step", "Step this attempt began at.", lambda p: p.marks.resumed_from_step),
    ("attempt", "Number of this attempt.", lambda p: p.attempt),
)
_COUNTERS: tuple[tuple[str, str, Callable[[Progress], float]], ...] = (
    (
        "checkpoint_seconds",
        "Time spent saving in this attempt.",
        lambda p: p.marks.checkpoint_milliseconds / 1000,
    ),
    (
        "evaluation_seconds",
        "Time spent scoring the select rows in this attempt.",
        lambda p: p.marks.evaluation_milliseconds / 1000,
    ),
)


class _ProgressCollector(Collector):
    def __init__(self, snapshot: Callable[[], Progress]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        progress = self._snapshot()
        for name, meaning, read in _GAUGES:
            value = read(progress)
            if value is not None:
                yield GaugeMetricFamily(f"{_PREFIX}_{name}", meaning, value=value)
        for name, meaning, count in _COUNTERS:
            yield CounterMetricFamily(f"{_PREFIX}_{name}", meaning, value=count(progress))
        stage = GaugeMetricFamily(f"{_PREFIX}_stage", "What it is doing.", labels=["stage"])
        stage.add_metric([progress.stage], 1)
        yield stage


def render_metrics(snapshot: Callable[[], Progress]) -> bytes:
    """The samples in Prometheus' text format; what is not known yet is left out."""
    registry = CollectorRegistry()
    registry.register(_ProgressCollector(snapshot))
    return generate_latest(registry)
