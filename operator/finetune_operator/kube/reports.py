"""Full reports of prepare and evaluate pods: received, made durable, acknowledged, and read back.

A pod offers its report when its work is done and waits until it is told that the report is kept.
Called by the engine's look; a report that was never received makes the step run again, which then
serves what it had made.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from finetune_api.datareport import PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.job import FineTuneJob
from finetune_api.report import ReportRef, Step
from finetune_operator.core.observed import StoredReport
from finetune_operator.cost.pods import PodView
from finetune_operator.kube.cluster import Cluster
from finetune_operator.kube.errors import AlreadyExistsError, NotFoundError
from finetune_operator.kube.look import running_attempt
from finetune_operator.kube.manifests.run import report_config_map
from finetune_operator.kube.names import REPORT_KEY, gang_name, report_name
from finetune_operator.kube.resources import CONFIG_MAPS
from finetune_operator.trainerport import acknowledge_report, pull_report


async def receive(cluster: Cluster, job: FineTuneJob, pod: PodView, address: str) -> None:
    """Take the report that a live pod offers, if it offers one; keep it, then acknowledge it."""
    content = await pull_report(address)
    if content is None or _parse(content, pod.step) is None:
        return
    gang = gang_name(job, pod.step, pod.attempt)
    body = report_config_map(job, pod.step, pod.attempt, content)
    try:
        await cluster.client.create(CONFIG_MAPS, body, namespace=job.metadata.namespace)
    except AlreadyExistsError:
        kept = await _kept(cluster, job, gang)
        if kept != content:
            # An attempt's report is made once; another one under its name is not to be believed.
            return
    await acknowledge_report(address, _digest(content))


async def stored(
    cluster: Cluster, job: FineTuneJob, pods: Sequence[PodView]
) -> tuple[StoredReport, ...]:
    """The reports that ended pods name and that were received, each checked by its digest.

    Only of the attempt that has not been taken in: nobody asks for the others' any more, and all of
    the jobs that are over would be read anew whenever an operator starts.
    """
    row = running_attempt(job)
    if row is None:
        return ()
    memory = cluster.memory.reports.setdefault(job.metadata.uid, {})
    found = []
    for pod, ref in _named([pod for pod in pods if pod.attempt == row.number]):
        if ref.digest not in memory:
            content = await _kept(cluster, job, gang_name(job, pod.step, pod.attempt))
            report = None
            if content is not None and _digest(content) == ref.digest:
                report = _parse(content, pod.step)
            if report is None:
                continue
            memory[ref.digest] = report
        known = memory[ref.digest]
        found.append(StoredReport(ref=ref, prepare=known.prepare, evaluation=known.evaluation))
    return tuple(found)


def _named(pods: Sequence[PodView]) -> Iterator[tuple[PodView, ReportRef]]:
    for pod in pods:
        ref = pod.termination.report if pod.termination else None
        if ref is not None:
            yield pod, ref


async def _kept(cluster: Cluster, job: FineTuneJob, gang: str) -> bytes | None:
    try:
        # JSON of the API server: only this one field of it is read.
        body: Any = await cluster.client.get(CONFIG_MAPS, report_name(gang), job.metadata.namespace)
    except NotFoundError:
        return None
    text = body.get("data", {}).get(REPORT_KEY)
    return None if text is None else str(text).encode()


def _parse(content: bytes, step: Step) -> StoredReport | None:
    """What a report says, with a reference that only its digest is known of."""
    try:
        if step is Step.PREPARE:
            report = StoredReport(
                ref=_unnamed(content), prepare=PrepareReport.model_validate_json(content)
            )
        else:
            report = StoredReport(
                ref=_unnamed(content), evaluation=EvaluationReport.model_validate_json(content)
            )
    except ValidationError:
        return None
    return report


def _unnamed(content: bytes) -> ReportRef:
    return ReportRef(path=REPORT_KEY, digest=_digest(content))


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
