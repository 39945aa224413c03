"""Cleans rows in named steps, each counted with a few row ids. Used by ``prepare``.

Steps on one row run while the file is read; steps that compare rows run over what is left. What
is read is always what is kept plus what the steps dropped.
"""

import html
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from finetune_api.datareport import CountedReason
from finetune_api.dataset import Cleaning
from finetune_trainer.data.form import AnyCleanRow, AnyForm, AnyRow
from finetune_trainer.data.languages import language_of
from finetune_trainer.data.rows import CleanRow, input_key, normalize
from finetune_trainer.data.text_likeness import word_codes
from finetune_trainer.errors import DataError

EXAMPLES = 10
UNLABELED_LIMIT = 0.05
"""More rows than this share without a label are a broken file, not a few slips."""
MENDED_LIMIT = 0.05
"""Nor are more rows than this share whose targets must be mended."""
MOST_DROPPED_PERCENT = 5
"""Where ``dataset.maxDroppedPercent`` says nothing."""

DROPPED_LABEL = "dropped label"
NO_LABEL = "no label"
NO_ANSWER = "no answer"
NO_TAGS = "no tags"
NO_TEXT = "no text"
TAG_SEQUENCE = "I- tags that nothing begins"
MARKUP = "markup"
CONTROL = "control characters"
UNICODE = "Unicode form"
TOO_SHORT = "too short"
DUPLICATE = "exact duplicates"
NEAR_DUPLICATE = "near duplicates"
NEAR_COPY = "near duplicates, kept"
OFF_LANGUAGE = "in another language than most"
TOO_PLAIN = "too small or plain for near duplicates"
CONFLICT = "conflicting labels"
SAMPLED = "beyond the limit"
LEAK = "leaks: input in another role"
GROUP_LEAK = "leaks: group in the test set"
NEAR_LEAK = "leaks: near duplicate in another role"
CROSSING = "answers cut out of a token"
TOO_LONG = "longer than training.maxLength"
ANSWER_CUT = "answers cut at training.maxLength"
NOT_LEARNED = "no learned token"
NO_IMAGE = "no image"
UNREADABLE = "unreadable images"
TRUNCATED = "truncated images"
TOO_LARGE = "images too large"
TOO_SMALL = "images too small"
ANIMATED = "images of several frames"
NO_COLOR = "images of more than 8 bits"

IMAGE_FAULTS = (NO_IMAGE, UNREADABLE, TRUNCATED, TOO_LARGE, TOO_SMALL, ANIMATED, NO_COLOR)
"""Why a file can't be learned from as an image."""

DROPPING = frozenset(
    {
        DROPPED_LABEL,
        NO_LABEL,
        NO_ANSWER,
        NO_TAGS,
        NO_TEXT,
        TOO_SHORT,
        DUPLICATE,
        NEAR_DUPLICATE,
        CONFLICT,
        SAMPLED,
        LEAK,
        GROUP_LEAK,
        NEAR_LEAK,
        TOO_LONG,
        NOT_LEARNED,
        *IMAGE_FAULTS,
    }
)

COUNTED = frozenset({NEAR_COPY, OFF_LANGUAGE, TOO_PLAIN})
"""What is counted of rows that stay as they are."""

_WAYS_OUT = {
    NO_LABEL: "fill dataset.columns.label in",
    NO_ANSWER: "write down what is to be answered",
    NO_TAGS: "fill dataset.columns.tags in",
}
_OTHER_FORMS = {
    TAG_SEQUENCE: "set dataset.tagScheme: iob1, or bioes, if that is how they are tagged",
}
"""What a row's target is if many seem to need mending, by the step that would do it."""


_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9:-]*(?:\s[^<>]*)?/?>")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]+")


@dataclass
class Counts:
    """How many rows each step changed or dropped, and the first few of their ids."""

    read: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def open(self, *steps: str) -> None:
        """Name steps that are about to run, so that one that touches no row shows its 0."""
        for step in steps:
            self.rows.setdefault(step, 0)
            self.examples.setdefault(step, [])

    def note(self, step: str, row_id: str) -> None:
        """Count a row that a step changed or dropped."""
        self.open(step)
        self.rows[step] += 1
        if len(self.examples[step]) < EXAMPLES:
            self.examples[step].append(row_id)

    @property
    def dropped(self) -> int:
        """Rows that steps took out."""
        return sum(rows for step, rows in self.rows.items() if step in DROPPING)

    def reasons(self, prefix: str = "") -> tuple[CountedReason, ...]:
        """The counts as the report has them, in the order of the steps."""
        return tuple(
            CountedReason(
                step=f"{prefix}{step}",
                rows=rows,
                dropped=step in DROPPING,
                unchanged=step in COUNTED,
                examples=tuple(self.examples[step]),
            )
            for step, rows in self.rows.items()
        )


def clean(
    rows: Iterable[AnyRow],
    rules: Cleaning,
    labels: Collection[str],
    counts: Counts,
    form: AnyForm,
) -> list[AnyCleanRow]:
    """Run every step that needs no other set of rows; ``form`` says what a row is.

    ``labels``, where not empty, are all that may occur.

    Raises
    ------
    DataError
        If a label is not among ``labels``, too many rows have none, or no row is left.
    """
    counts.open(*_steps(rules, form))
    cleaned = list(_clean_each(rows, rules, labels, counts, form))
    _check_unlabeled(counts, form)
    _check_mended(counts, form)
    if rules.deduplicate:
        cleaned = _without_duplicates(cleaned, counts)
    if rules.conflicts == "drop" and form.has_one_target:
        cleaned = _without_conflicts(cleaned, counts)
    if not cleaned:
        what = ", ".join(f"{step}: {rows}" for step, rows in counts.rows.items() if rows)
        raise DataError(
            f"dataset: cleaning left none of {counts.read} rows ({what}); see dataset.cleaning and "
            "dataset.columns"
        )
    return cleaned


def _steps(rules: Cleaning, form: AnyForm) -> list[str]:
    chosen = [
        (DROPPED_LABEL, bool(rules.drop_labels)),
        (form.no_target, True),
        *((fault, True) for fault in form.faults),
        (form.mending or "", form.mending is not None),
        (MARKUP, rules.markup and form.holds_markup),
        (CONTROL, form.holds_text),
        (UNICODE, form.holds_text and rules.unicode_form != "None"),
        (TOO_SHORT, form.holds_text),
        (DUPLICATE, rules.deduplicate),
        (CONFLICT, rules.conflicts == "drop" and form.has_one_target),
    ]
    return [step for step, on in chosen if on]


def _clean_each(
    rows: Iterable[AnyRow],
    rules: Cleaning,
    labels: Collection[str],
    counts: Counts,
    form: AnyForm,
) -> Iterator[AnyCleanRow]:
    dropped_labels = frozenset(rules.drop_labels)
    for row in rows:
        counts.read += 1
        target = None if row.target is None else form.mended(row.target)
        classes = () if target is None else form.classes_of(target)
        if (reason := _reason_to_drop(row, classes, dropped_labels, form)) is not None:
            counts.note(reason, row.id)
            continue
        for label in classes:
            if labels and label not in labels:
                raise DataError(
                    f"{row.place}: label {label[:60]!r} is not among dataset.labels; add it there, "
                    "or to dataset.cleaning.dropLabels"
                )
        if form.mending is not None and target != row.target:
            counts.note(form.mending, row.id)
        given = _clean_input(row, rules, counts, form) if form.holds_text else row.input
        text = form.text_of(given)
        if form.holds_text and len(text.strip()) < rules.min_characters:
            counts.note(TOO_SHORT, row.id)
            continue
        prose = form.prose_of(given)
        yield CleanRow(
            id=row.id,
            input=given,
            target=target,
            classes=classes,
            group=row.group,
            key=input_key(text),
            groups=row.groups,
            words=word_codes(normalize(prose)),
            language=language_of(prose) if form.holds_text else "",
        )


def _reason_to_drop(
    row: AnyRow, classes: Collection[str], dropped_labels: Collection[str], form: AnyForm
) -> str | None:
    if row.target is None:
        return form.no_target
    if any(label in dropped_labels for label in classes):
        return DROPPED_LABEL
    return form.fault_of(row.input)


def _clean_input(row: AnyRow, rules: Cleaning, counts: Counts, form: AnyForm) -> Any:
    """Clean each text of a row's input; a step that changes any of them counts the row."""
    steps: list[tuple[str, Callable[[str], str]]] = [(CONTROL, partial(_CONTROL.sub, " "))]
    if rules.markup and form.holds_markup:
        steps.insert(0, (MARKUP, without_markup))
    if rules.unicode_form != "None":
        steps.append((UNICODE, partial(unicodedata.normalize, rules.unicode_form)))
    given = row.input
    for step, change in steps:
        changed = form.with_texts(given, change)
        if changed != given:
            counts.note(step, row.id)
        given = changed
    return given


def without_markup(text: str) -> str:
    """Take HTML comments and tags out, each for a space, and write entities as characters.

    Time is linear in the text's length, whatever it holds.
    """
    plain = _TAG.sub(" ", _without_comments(text)) if "<" in text else text
    return _ENTITY.sub(lambda found: html.unescape(found[0]), plain) if "&" in plain else plain


def _without_comments(text: str) -> str:
    parts, start = [], 0
    while (opening := text.find("<!--", start)) >= 0:
        closing = text.find("-->", opening + 4)
        if closing < 0:
            break
        parts += [text[start:opening], " "]
        start = closing + 3
    return "".join([*parts, text[start:]])


def _check_unlabeled(counts: Counts, form: AnyForm) -> None:
    missing = counts.rows[form.no_target]
    if missing > UNLABELED_LIMIT * counts.read:
        raise DataError(
            f"dataset: {missing} of {counts.read} rows have {form.no_target}, more than "
            f"{UNLABELED_LIMIT:.0%} (rows {', '.join(counts.examples[form.no_target][:5])}, …); "
            f"{_WAYS_OUT[form.no_target]}, or take those rows out"
        )


def _check_mended(counts: Counts, form: AnyForm) -> None:
    if form.mending is None or counts.rows[form.mending] <= MENDED_LIMIT * counts.read:
        return
    raise DataError(
        f"dataset: {counts.rows[form.mending]} of {counts.read} rows have {form.mending}, more "
        f"than {MENDED_LIMIT:.0%} (rows {', '.join(counts.examples[form.mending][:5])}, …); "
        f"{_OTHER_FORMS[form.mending]}, or mend them"
    )


def _without_duplicates(rows: Sequence[AnyCleanRow], counts: Counts) -> list[AnyCleanRow]:
    """Keep the first of the rows that have the same input and the same target."""
    seen: set[tuple[bytes, Hashable]] = set()
    kept = []
    for row in rows:
        if (row.key, row.target) in seen:
            counts.note(DUPLICATE, row.id)
        else:
            seen.add((row.key, row.target))
            kept.append(row)
    return kept


def _without_conflicts(rows: Sequence[AnyCleanRow], counts: Counts) -> list[AnyCleanRow]:
    """Drop all rows whose input occurs with different targets: none of them can be told right."""
    targets: defaultdict[bytes, set[Hashable]] = defaultdict(set)
    for row in rows:
        targets[row.key].add(row.target)
    kept = []
    for row in rows:
        if len(targets[row.key]) > 1:
            counts.note(CONFLICT, row.id)
        else:
            kept.append(row)
    return kept
