"""The ConfigMaps of a gang: the run that its pods read, and the report that they leave."""

from finetune_api.job import FineTuneJob
from finetune_api.report import Step
from finetune_operator.core.decision import CreateGang
from finetune_operator.kube.manifests import Manifest
from finetune_operator.kube.manifests.owner import owned_metadata
from finetune_operator.kube.names import REPORT_KEY, RUN_KEY, gang_labels, gang_name, report_name


def run_config_map(job: FineTuneJob, action: CreateGang) -> Manifest:
    """What the gang has to do, under the gang's own name."""
    text = action.run.model_dump_json(by_alias=True)
    name = gang_name(job, action.step, action.attempt)
    return _config_map(job, action.step, action.attempt, name, {RUN_KEY: text})


def report_config_map(job: FineTuneJob, step: Step, attempt: int, content: bytes) -> Manifest:
    """A step's report, byte for byte as its pod served it; it is written once.

    Raises
    ------
    UnicodeDecodeError
        If the report isn't text, as no JSON is.
    """
    name = report_name(gang_name(job, step, attempt))
    kept = _config_map(job, step, attempt, name, {REPORT_KEY: content.decode()})
    return {**kept, "immutable": True}


def _config_map(
    job: FineTuneJob, step: Step, attempt: int, name: str, data: dict[str, str]
) -> Manifest:
    metadata = owned_metadata(job, name)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "labels": gang_labels(job, step, attempt)},
        "data": data,
    }
