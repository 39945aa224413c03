"""Manifests for the command line: one FineTuneJob and the rate cards that go with it.

``finetune run -f job.yaml -f ratecard.yaml`` and ``finetune validate`` call it. Nothing is read
twice or half: either all files hold, or every problem in all of them is told at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api import API_VERSION, GROUP
from finetune_api.job import FineTuneJob
from finetune_api.ratecard import RateCard
from finetune_api.schema import RESOURCES, Resource
from finetune_operator.cli.documents import Document, UnreadableError, read_documents
from finetune_operator.cli.validation import validate
from finetune_operator.cli.wording import suggestion
from finetune_operator.core.observed import Problem

_KINDS = ("FineTuneJob", "RateCard")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a person asked for. ``path`` is the job's file: relative paths start from its folder."""

    job: FineTuneJob
    rate_cards: tuple[RateCard, ...]
    path: Path


class ManifestError(Exception):
    """The manifests can't be used; ``problems`` holds everything that is wrong with them."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True)
class _Found:
    """An object that holds, and where it stands."""

    model: FineTuneJob | RateCard
    document: Document

    @property
    def source(self) -> str:
        return self.document.source(("metadata", "name"))


def read_manifests(paths: Sequence[Path]) -> Manifest:
    """Read one FineTuneJob and any number of RateCards from YAML files.

    Raises
    ------
    ManifestError
        With every problem of every file.
    """
    found: list[_Found] = []
    problems: list[Problem] = []
    jobs_seen = 0
    for path in dict.fromkeys(paths):
        try:
            documents, file_problems = read_documents(path)
        except UnreadableError as error:
            problems.append(error.problem)
            continue
        problems += file_problems
        for document in documents:
            model, document_problems = _read(document)
            problems += document_problems
            jobs_seen += _claims_to_be(document, "FineTuneJob")
            if model is not None:
                found.append(_Found(model, document))
    problems += _problems_of_the_set(found)
    if not jobs_seen and not problems:
        names = ", ".join(str(path) for path in paths) or "the command"
        problems.append(Problem(field="", message=f"{names}: no FineTuneJob in there; add one"))
    if problems:
        raise ManifestError(problems)
    job, path = next(
        (it.model, it.document.path) for it in found if isinstance(it.model, FineTuneJob)
    )
    cards = tuple(it.model for it in found if isinstance(it.model, RateCard))
    return Manifest(job=job, rate_cards=cards, path=path)


def _read(document: Document) -> tuple[FineTuneJob | RateCard | None, list[Problem]]:
    if not isinstance(document.value, dict):
        return None, [_problem(document, (), "is no object: it must have apiVersion, kind, …")]
    resource, problems = _resource(document)
    if resource is None:
        return None, problems
    if resource.model is FineTuneJob:
        return validate(document, resource, FineTuneJob)
    return validate(document, resource, RateCard)


def _resource(document: Document) -> tuple[Resource | None, list[Problem]]:
    """The kind of a document. Where it is unknown, nothing else can be said of it."""
    version, kind = document.value.get("apiVersion"), document.value.get("kind")
    problems = []
    if version != API_VERSION:
        said = "is missing: write" if version is None else "must be"
        problems.append(_problem(document, ("apiVersion",), f"{said} {API_VERSION}"))
    if kind not in _KINDS:
        said = "is missing: write" if kind is None else "must be"
        hint = suggestion(kind, _KINDS) if isinstance(kind, str) else ""
        hint = hint if "did you mean" in hint else ""
        problems.append(
            _problem(document, ("kind",), f"{said} {' or '.join(_KINDS)} (of {GROUP}){hint}")
        )
    if problems:
        return None, problems
    return next(it for it in RESOURCES if it.kind.kind == kind), []


def _claims_to_be(document: Document, kind: str) -> bool:
    return isinstance(document.value, dict) and document.value.get("kind") == kind


def _problems_of_the_set(found: Sequence[_Found]) -> list[Problem]:
    """One job in all, and each rate card once."""
    problems = []
    first: dict[tuple[str, str], _Found] = {}
    for it in found:
        is_job = isinstance(it.model, FineTuneJob)
        key = (it.model.kind, "" if is_job else it.model.metadata.name)
        if key not in first:
            first[key] = it
            continue
        message = (
            f"a second FineTuneJob, beside that of {first[key].source}; run them one by one"
            if is_job
            else f"the rate card {key[1]} stands in {first[key].source} already; keep one"
        )
        problems.append(Problem(field="", message=message, source=it.source))
    return problems


def _problem(document: Document, path: tuple[str, ...], message: str) -> Problem:
    return Problem(field=".".join(path), message=message, source=document.source(path))
