"""Rules of a job's spec that its task decides: each message names the field and the fix."""

from collections.abc import Iterable, Iterator

from finetune_api.markers import Cel
from finetune_api.tasks import TASKS, Metric, Task


def _task_rules(task: Task) -> Iterator[Cel]:
    """What of a spec has a meaning for the task alone."""
    facts = TASKS[task]
    measured = (*facts.metrics, Metric.ERROR_REDUCTION, *facts.swapped)
    metrics = [metric.value for metric in measured]
    by_group = [metric.value for metric in facts.by_group]
    baselines = [baseline.value for baseline in facts.baselines]
    yield Cel(
        f"self.task != '{task.value}' || "
        f"self.evaluation.gate.all(g, has(g.group) || g.metric in {metrics})",
        f"evaluation.gate: {task.value} is measured by {', '.join(metrics)}; name one of them",
    )
    yield Cel(
        f"self.task != '{task.value}' || "
        f"self.evaluation.gate.all(g, !has(g.group) || g.metric in {by_group})",
        f"evaluation.gate: groups of {task.value} are compared by {', '.join(by_group)}; name "
        "one of them where group is set",
    )
    yield Cel(
        f"self.task != '{task.value}' || self.evaluation.gate.all(g, !has(g.against) || "
        f"g.against in {baselines})",
        f"evaluation.gate: {task.value} is compared with {', '.join(baselines)}; name one of them "
        "in against",
    )
    if not facts.swapped:
        yield Cel(
            f"self.task != '{task.value}' || !has(self.evaluation.counterfactuals)",
            f"evaluation.counterfactuals: {task.value} has no texts whose terms are swapped; leave "
            "it out",
        )
    if not facts.has_threshold:
        yield Cel(
            f"self.task != '{task.value}' || !has(self.evaluation.threshold)",
            f"evaluation.threshold: {task.value} tells no labels by probability; leave it out",
        )
    if not facts.weighs_classes:
        yield Cel(
            f"self.task != '{task.value}' || !has(self.training.classWeights)",
            f"training.classWeights: {task.value} has not one class for each row; leave it out",
        )
    if not facts.balances_rows:
        yield Cel(
            f"self.task != '{task.value}' || self.training.sampling == 'shuffle'",
            f"training.sampling: {task.value} has not one class for each row; set shuffle",
        )
    if facts.classes is None:
        yield Cel(
            f"self.task != '{task.value}' || (self.dataset.labels.size() == 0 && "
            "self.dataset.cleaning.dropLabels.size() == 0)",
            f"dataset: {task.value} has no classes; leave labels and cleaning.dropLabels out",
        )


_LANGUAGE_FIELDS = (
    "dataset.columns.prompt",
    "dataset.columns.messages",
    "training.truncation",
    "training.packing",
)
"""Fields that only language models obey."""
_IMAGE_FIELDS = ("dataset.columns.image", "training.augmentation", "training.batchNorm")
"""Fields that only models of images obey."""
_COUNTS_DROPPED = (Task.CAUSAL_LM.value, Task.IMAGE_CLASSIFICATION.value)
_NOT_OF_IMAGES = (
    ("dataset.cleaning.markup", "self.dataset.cleaning.markup"),
    ("dataset.cleaning.unicodeForm", "self.dataset.cleaning.unicodeForm == 'NFC'"),
    ("dataset.cleaning.minCharacters", "self.dataset.cleaning.minCharacters == 1"),
    ("dataset.columns.text", "self.dataset.columns.text == 'text'"),
    ("training.maxLength", "!has(self.training.maxLength)"),
)
"""What only texts have, and what of it is as if it were not set."""
_TAG_FIELDS = ("dataset.columns.tokens", "dataset.columns.tags", "dataset.tagScheme")
"""Fields that only taggers of words obey."""


def _fields_of(task: Task, fields: Iterable[str]) -> Iterator[Cel]:
    for field in fields:
        yield Cel(
            f"self.task == '{task.value}' || !has(self.{field})",
            f"{field} goes with task {task.value}; leave it out",
        )


def _tag_rules() -> Iterator[Cel]:
    task = Task.TOKEN_CLASSIFICATION.value
    yield from _fields_of(Task.TOKEN_CLASSIFICATION, _TAG_FIELDS)
    yield Cel(
        f"self.task == '{task}' || self.dataset.format != 'conll'",
        f"dataset.format: conll goes with task {task}; write the rows as csv, jsonl or parquet",
    )
    yield Cel(
        "self.dataset.format != 'conll' || self.evaluation.groups.size() == 0",
        "evaluation.groups: files in format conll have no columns to group by; leave it out, or "
        "write the rows as jsonl or parquet",
    )


def _language_rules() -> Iterator[Cel]:
    yield from _fields_of(Task.CAUSAL_LM, _LANGUAGE_FIELDS)
    yield Cel(
        f"self.task in {list(_COUNTS_DROPPED)} || !has(self.dataset.maxDroppedPercent)",
        f"dataset.maxDroppedPercent goes with tasks {' and '.join(_COUNTS_DROPPED)}; leave it out",
    )
    yield Cel(
        f"self.task != '{Task.CAUSAL_LM.value}' || self.dataset.split.strategy == 'hash'",
        f"dataset.split.strategy: {Task.CAUSAL_LM.value} has no classes to stratify by; set hash",
    )


def _image_rules() -> Iterator[Cel]:
    task = Task.IMAGE_CLASSIFICATION.value
    for field in _IMAGE_FIELDS:
        yield Cel(
            f"self.task == '{task}' || !has(self.{field})",
            f"{field} goes with task {task}; leave it out",
        )
    for field, unset in _NOT_OF_IMAGES:
        yield Cel(
            f"self.task != '{task}' || {unset}",
            f"{field} is for texts, which {task} has none of; leave it out",
        )


def task_rules() -> tuple[Cel, ...]:
    """All of them, for the spec."""
    return (
        *(rule for task in TASKS for rule in _task_rules(task)),
        *_language_rules(),
        *_tag_rules(),
        *_image_rules(),
    )
