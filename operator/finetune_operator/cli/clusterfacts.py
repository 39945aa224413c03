"""What the page says of a job on a cluster, gathered with the rights of whoever asks.

``report`` calls it. Only reading; the API server is that of KUBECONFIG, as kubectl's is.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.job import FineTuneJob
from finetune_api.markers import Contract
from finetune_api.report import ExitCode, Step
from finetune_api.status import JobStatus
from finetune_api.usage import UsageRecord
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.page import PageFacts
from finetune_operator.cost.records import JOB_UID_LABEL, latest
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import ConfigurationError, context_namespace
from finetune_operator.kube.errors import ApiError, ForbiddenError, NotFoundError
from finetune_operator.kube.names import ATTEMPT_LABEL, REPORT_KEY, STEP_LABEL, job_selector
from finetune_operator.kube.resources import CONFIG_MAPS, FINETUNE_JOBS, USAGE_RECORDS, Json

T = TypeVar("T", bound=Contract)


def cluster_facts(name: str, namespace: str | None, warn: Callable[[str], None]) -> PageFacts:
    """Read a job, its records and its reports from the API server.

    Parameters
    ----------
    name
        The job's.
    namespace
        By default that of the kubeconfig's context.
    warn
        Told what had to be left out, and why.

    Raises
    ------
    CommandError
        If there is no such job, no API server, or no right to read it.
    """
    try:
        return asyncio.run(_gather(name, namespace, warn))
    except ConfigurationError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except ApiError as error:
        raise CommandError(str(error), ExitCode.STORAGE) from error


async def _gather(name: str, namespace: str | None, warn: Callable[[str], None]) -> PageFacts:
    namespace = namespace or context_namespace()
    async with KubeClient() as client:
        try:
            raw = await client.get(FINETUNE_JOBS, name, namespace)
        except NotFoundError as error:
            raise CommandError(
                f"no FineTuneJob {name} in namespace {namespace}, and no folder of that name: see "
                "`kubectl get finetunejobs --all-namespaces`, or name a run's workspace",
                ExitCode.USAGE,
            ) from error
        job = _read(FineTuneJob, raw, f"FineTuneJob {name}")
        reports = await client.list(
            CONFIG_MAPS, namespace, label_selector=job_selector(job.metadata.uid)
        )
        return PageFacts(
            job=job,
            records=latest(await _records(client, job, warn)),
            prepare=_prepared(reports.items),
            evaluation=_evaluated(reports.items, job.status or JobStatus()),
        )


async def _records(
    client: KubeClient, job: FineTuneJob, warn: Callable[[str], None]
) -> tuple[UsageRecord, ...]:
    """The job's records. They lie in the operator's namespace, which not everybody may read."""
    try:
        listed = await client.list(
            USAGE_RECORDS, label_selector=f"{JOB_UID_LABEL}={job.metadata.uid}"
        )
    except ForbiddenError:
        warn(
            "the page names no prices per attempt: you may not list usagerecords in all "
            "namespaces; the sums of the job's status are there"
        )
        return ()
    return tuple(_read(UsageRecord, raw, "UsageRecord") for raw in listed.items)


def _prepared(config_maps: tuple[Json, ...]) -> PrepareReport | None:
    contents = list(_newest_first(config_maps, Step.PREPARE))
    return _parsed(PrepareReport, contents[0]) if contents else None


def _evaluated(config_maps: tuple[Json, ...], status: JobStatus) -> EvaluationReport | None:
    """The report that the status speaks of, and no other one."""
    if status.evaluation is None:
        return None
    for content in _newest_first(config_maps, Step.EVALUATE):
        digest = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
        if digest == status.evaluation.report_digest:
            return _parsed(EvaluationReport, content)
    return None


def _newest_first(config_maps: tuple[Json, ...], step: Step) -> list[str]:
    found = [
        (int(one["metadata"]["labels"][ATTEMPT_LABEL]), str(one["data"][REPORT_KEY]))
        for one in config_maps
        if one["metadata"]["labels"].get(STEP_LABEL) == step.value
        and REPORT_KEY in one.get("data", {})
    ]
    return [content for _, content in sorted(found, reverse=True)]


def _parsed(kind: type[T], content: str) -> T | None:
    """A report, unless it is of a version that this one can't read."""
    try:
        return kind.model_validate_json(content)
    except ValidationError:
        return None


def _read(kind: type[T], raw: Json, what: str) -> T:
    try:
        return kind.model_validate(raw, extra="ignore")
    except ValidationError as error:
        raise CommandError(
            f"{what} is of another version than this command: use the one of the operator's "
            "version",
            ExitCode.USAGE,
        ) from error
