"""Opening a workspace for a manifest: a new job, or the one that was begun there, taken up again.

What may not change under a job that was begun is compared here, before anything runs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api.digests import frozen_part
from finetune_api.job import FineTuneJob
from finetune_api.phases import TERMINAL, ConditionType
from finetune_api.ratecard import RateCard
from finetune_operator.local.sources import changed, fingerprints
from finetune_operator.local.workspace import State, Workspace, as_new


class SpecChangedError(Exception):
    """The manifest isn't the one that the workspace was begun with; the message says where."""


class SourceChangedError(Exception):
    """The model or the rows aren't those that the workspace was begun with."""


def open_state(
    workspace: Workspace,
    job: FineTuneJob,
    rate_cards: tuple[RateCard, ...],
    base: Path,
    *,
    smoke: bool,
) -> State:
    """The state to go on from, made durable. The workspace's lock must be held.

    Raises
    ------
    SpecChangedError, SourceChangedError, SourceMissingError
        Each with what differs and what to do.
    """
    before = workspace.read_state()
    if before is None or not _was_admitted(before.job):
        state = State(
            job=as_new(job),
            rate_cards=rate_cards,
            base=str(base),
            smoke=smoke,
            sources=fingerprints(job, base, workspace.claims, {}),
        )
    else:
        state = _taken_up(workspace, before, job, rate_cards, base, smoke=smoke)
    workspace.write_state(state)
    return state


def _was_admitted(job: FineTuneJob) -> bool:
    conditions = job.status.conditions if job.status else ()
    return any(c.type is ConditionType.ADMITTED and c.status == "True" for c in conditions)


def _taken_up(
    workspace: Workspace,
    before: State,
    job: FineTuneJob,
    rate_cards: tuple[RateCard, ...],
    base: Path,
    *,
    smoke: bool,
) -> State:
    _refuse_another_job(workspace, before, job, smoke=smoke)
    sources = before.sources
    if before.job.status is None or before.job.status.phase not in TERMINAL:
        sources = fingerprints(job, base, workspace.claims, before.sources)
        _refuse_other_sources(workspace, before, sources)
    metadata = before.job.metadata
    if job.spec != before.job.spec:
        metadata = metadata.model_copy(update={"generation": metadata.generation + 1})
    return before.model_copy(
        update={
            "job": before.job.model_copy(update={"spec": job.spec, "metadata": metadata}),
            "rate_cards": rate_cards or before.rate_cards,
            "base": str(base),
            "sources": {**before.sources, **sources},
        }
    )


def _refuse_another_job(
    workspace: Workspace, before: State, job: FineTuneJob, *, smoke: bool
) -> None:
    name = before.job.metadata.name
    if job.metadata.name != name:
        raise SpecChangedError(
            f"workspace {workspace.root} belongs to job {name}, not {job.metadata.name}: choose "
            "another folder with --workspace"
        )
    if smoke != before.smoke:
        was = "with" if before.smoke else "without"
        raise SpecChangedError(
            f"workspace {workspace.root} was begun {was} --smoke: run it {was} --smoke, or choose "
            "another folder with --workspace"
        )
    differences = list(_differences(frozen_part(before.job), frozen_part(job), "spec"))
    if differences:
        raise SpecChangedError(
            f"the manifest changed since workspace {workspace.root} was begun:\n"
            + "\n".join(f"  {line}" for line in differences)
            + "\nOnly suspend, budget, policy and compute.workers may change: revert the rest, or "
            "choose another folder with --workspace"
        )


def _refuse_other_sources(workspace: Workspace, before: State, sources: dict[str, Any]) -> None:
    differences = list(changed(before.sources, sources))
    if differences:
        raise SourceChangedError(
            "\n".join(differences)
            + f"\nWorkspace {workspace.root} holds work on what was there before: put it back, or "
            "choose another folder with --workspace"
        )


def _differences(before: Any, after: Any, field: str) -> Iterator[str]:
    """Paths at which two JSON values differ (``Any``: parsed JSON), with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() | after.keys():
            yield from _differences(before.get(key), after.get(key), f"{field}.{key}")
    elif before != after:
        yield f"{field}: was {_shown(before)}, is {_shown(after)}"


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)
