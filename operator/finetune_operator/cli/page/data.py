"""What became of the rows: read, cleaned, split, tokenized. Called by ``render``."""

from dataclasses import dataclass

from finetune_api.datareport import DataReport, Spread, Suspects
from finetune_api.tasks import BASELINES
from finetune_operator.cli.page import figures
from finetune_operator.cli.page.facts import PageFacts

_LANGUAGES = {"und": "undecided", "zxx": "none (numbers, markup)"}


@dataclass(frozen=True)
class CleaningStep:
    """One step; ``left`` is how many rows there were after it."""

    name: str
    effect: str
    rows: str
    left: str
    examples: str


@dataclass(frozen=True)
class Role:
    """One role's rows, and its percent of all kept rows."""

    name: str
    rows: str
    share: str
    width: float


@dataclass(frozen=True)
class Suspicion:
    """Rows whose target a baseline doubts; ``pairs`` are what they have, what is likely, rows."""

    sentence: str
    pairs: tuple[tuple[str, str, str], ...]
    examples: str


@dataclass(frozen=True)
class Data:
    """The section on the rows."""

    read: str
    kept: str
    cleaning: tuple[CleaningStep, ...]
    roles: tuple[Role, ...]
    classes: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, ...], ...]
    languages: tuple[tuple[str, ...], ...]
    totals: tuple[str, ...]
    target: tuple[tuple[str, str], ...]
    variety: tuple[tuple[str, str], ...]
    tokens: tuple[tuple[str, str], ...]
    images: tuple[tuple[str, str], ...]
    counts_kinds: bool
    suspects: Suspicion | None


def data(facts: PageFacts) -> Data | None:
    """The section on the rows; None before they were prepared."""
    report = facts.prepare.data if facts.prepare is not None else facts.status.data
    if report is None:
        return None
    by_role = (report.train_rows, report.select_rows, report.test_rows)
    return Data(
        read=figures.count(report.read_rows),
        kept=figures.count(report.kept_rows),
        cleaning=_cleaning(report),
        roles=tuple(
            _role(name, rows, sum(by_role))
            for name, rows in zip(("train", "select", "test"), by_role, strict=True)
        ),
        classes=tuple(
            (c.label, *map(figures.count, (c.train, c.select, c.test, c.train + c.select + c.test)))
            for c in report.classes
        ),
        groups=tuple(
            (
                f"{one.column}: {one.group}",
                *(
                    figures.UNDEFINED if rows is None else figures.count(rows)
                    for rows in (one.train, one.select, one.test)
                ),
            )
            for one in report.groups
        ),
        languages=tuple(
            (
                _LANGUAGES.get(one.language, one.language),
                *map(figures.count, (one.train, one.select, one.test)),
            )
            for one in report.languages
        ),
        totals=tuple(map(figures.count, (*by_role, sum(by_role)))),
        target=_target(report),
        variety=_variety(report),
        tokens=_tokens(report),
        images=_images(report),
        counts_kinds=any(
            one is not None and one.effective_rows is not None
            for one in (report.texts, report.images)
        ),
        suspects=None if report.suspects is None else _suspicion(report.suspects),
    )


def _cleaning(report: DataReport) -> tuple[CleaningStep, ...]:
    left = report.read_rows
    steps = []
    for reason in report.cleaning:
        left -= reason.rows if reason.dropped else 0
        steps.append(
            CleaningStep(
                reason.step,
                "dropped" if reason.dropped else "counted" if reason.unchanged else "changed",
                figures.count(reason.rows),
                figures.count(left),
                ", ".join(reason.examples) + ("…" if reason.rows > len(reason.examples) else ""),
            )
        )
    return tuple(steps)


def _role(name: str, rows: int, total: int) -> Role:
    share = rows / total if total else 0.0
    return Role(name, figures.count(rows), figures.with_percent(share), round(100 * share, 3))


def _target(report: DataReport) -> tuple[tuple[str, str], ...]:
    target = report.target
    if target is None:
        return ()
    return (
        ("Least", figures.score(target.min)),
        ("Mean", figures.score(target.mean)),
        ("Greatest", figures.score(target.max)),
        ("Standard deviation", figures.score(target.deviation)),
    )


def _variety(report: DataReport) -> tuple[tuple[str, str], ...]:
    texts = report.texts
    if texts is None:
        return ()
    words = f"{figures.count(texts.words)}, {figures.count(texts.distinct_words)} of them different"
    told = [("Words", words)]
    if texts.lexical_diversity is not None:
        different = figures.places(42 * texts.lexical_diversity)
        told.append(("Different words among 42 at random", different))
    return (*told, *_effective(report, texts.effective_rows))


def _effective(report: DataReport, rows: float | None) -> tuple[tuple[str, str], ...]:
    if rows is None:
        return ()
    of_all = f"{figures.places(rows)} of {figures.count(report.train_rows)}"
    return (("Effective number of rows", of_all),)


def _tokens(report: DataReport) -> tuple[tuple[str, str], ...]:
    tokens = report.tokens
    if tokens is None:
        return ()
    cut = figures.count(tokens.truncated_rows)
    learned = tokens.learned
    if tokens.truncated_examples:
        cut += f" (such as {', '.join(tokens.truncated_examples)})"
    return (
        ("All tokens of the training rows", figures.count(tokens.sum)),
        *((("Of them learned", figures.count(learned)),) if learned is not None else ()),
        ("Shortest row", figures.count(tokens.min)),
        ("Median", figures.places(tokens.median)),
        ("Mean", figures.places(tokens.mean)),
        ("95th percentile", figures.places(tokens.p95)),
        ("Longest row", figures.count(tokens.max)),
        ("Rows cut to the limit", cut),
        *_unread(report),
    )


def _suspicion(found: Suspects) -> Suspicion:
    share = figures.with_percent(found.rows / found.looked_at if found.looked_at else 0.0)
    of = f"of {figures.counted(found.looked_at, 'training row')} ({share})"
    return Suspicion(
        sentence=f"{figures.count(found.rows)} {of} are suspect: {BASELINES[found.baseline]}, "
        "fitted without them, takes something else for likelier. They were used all the same, for "
        "a row may be hard and not wrong.",
        pairs=tuple(
            (
                pair.has or f"not {pair.likely}",
                pair.likely or f"not {pair.has}",
                figures.count(pair.rows),
            )
            for pair in found.pairs
        ),
        examples=", ".join(found.examples) + ("…" if found.rows > len(found.examples) else ""),
    )


def _unread(report: DataReport) -> tuple[tuple[str, str], ...]:
    words = report.unread_words
    if words is None:
        return ()
    of_roles = zip(
        ("train", "select", "test"), (words.train, words.select, words.test), strict=True
    )
    told = ", ".join(f"{name} {figures.count(count)}" for name, count in of_roles)
    return (("Tagged words that are not read", told),)


def _images(report: DataReport) -> tuple[tuple[str, str], ...]:
    images = report.images
    if images is None:
        return ()
    modes = (f"{mode} {figures.count(rows)}" for mode, rows in images.modes.items())
    return (
        ("Width, in pixels", _spread(images.width)),
        ("Height, in pixels", _spread(images.height)),
        ("How they hold color", ", ".join(modes)),
        ("What the model reads", f"{images.read_width} × {images.read_height} pixels, RGB"),
        *_effective(report, images.effective_rows),
    )


def _spread(one: Spread) -> str:
    if one.min == one.max:
        return figures.count(one.min)
    middle = figures.places(one.median)
    return f"{figures.count(one.min)} to {figures.count(one.max)}, median {middle}"
