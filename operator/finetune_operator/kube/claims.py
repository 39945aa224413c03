"""Claims that a job names: each must be there, and one that workers share must be shareable.

Asked before admission, and when an admitted job gets more workers: a pod whose claim is missing,
or can't be mounted twice, would hang without a word.
"""

from collections.abc import Iterator
from typing import Any

from finetune_api.job import FineTuneJob
from finetune_operator.core.observed import Problem
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import NotFoundError
from finetune_operator.kube.manifests.volumes import workspace_claim_of
from finetune_operator.kube.resources import CLAIMS

_SHARED = "ReadWriteMany"
_READ_SHARED = frozenset({_SHARED, "ReadOnlyMany"})
_CLAIM_SCHEME = "pvc://"


async def claim_problems(client: KubeClient, job: FineTuneJob) -> tuple[Problem, ...]:
    """What is wrong with the claims that a job names, all of it."""
    problems = []
    several = job.spec.compute.workers > 1
    named = tuple(_named(job))
    known = {
        claim: await _access_modes(client, job.metadata.namespace, claim)
        for claim in sorted({claim for _, claim in named})
    }
    for field, claim in named:
        modes = known[claim]
        storage = field == "spec.storage.claim"
        enough = {_SHARED} if storage else _READ_SHARED
        if modes is None:
            problems.append(
                Problem(
                    field=field,
                    message=f"claim {claim} does not exist in namespace "
                    f"{job.metadata.namespace}: create it, or name another",
                )
            )
        elif several and not modes & enough:
            problems.append(
                Problem(
                    field=field,
                    message=f"claim {claim} has access modes {', '.join(sorted(modes))}, and "
                    f"{job.spec.compute.workers} workers share it: use one that is "
                    f"{' or '.join(sorted(enough))}, or one worker",
                )
            )
    return tuple(problems)


async def made_claim_problems(client: KubeClient, job: FineTuneJob) -> tuple[Problem, ...]:
    """What is wrong with the claim that was made for a job of fewer workers."""
    claim, workers = workspace_claim_of(job), job.spec.compute.workers
    if job.spec.storage.claim is not None or workers == 1:
        return ()
    modes = await _access_modes(client, job.metadata.namespace, claim)
    if modes is None or _SHARED in modes:
        return ()
    return (
        Problem(
            field="spec.compute.workers",
            message=f"claim {claim} was made for one worker, with access modes "
            f"{', '.join(sorted(modes))}, and {workers} can't share it: set it back to 1",
        ),
    )


def _named(job: FineTuneJob) -> Iterator[tuple[str, str]]:
    spec = job.spec
    uris = (
        ("spec.model.uri", spec.model.uri),
        ("spec.dataset.train", spec.dataset.train),
        ("spec.dataset.test", spec.dataset.test),
    )
    if spec.storage.claim is not None:
        yield "spec.storage.claim", spec.storage.claim
    for field, uri in uris:
        if uri is not None and uri.startswith(_CLAIM_SCHEME):
            yield field, uri.removeprefix(_CLAIM_SCHEME).partition("/")[0]


async def _access_modes(client: KubeClient, namespace: str, claim: str) -> set[str] | None:
    try:
        # JSON of the API server: only this one field of it is read.
        body: Any = await client.get(CLAIMS, claim, namespace)
    except NotFoundError:
        return None
    return set(body.get("spec", {}).get("accessModes", []))
