"""What a job's digest covers: exactly what can't change once it is admitted."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.digests import frozen_part, spec_digest
from finetune_api.job import FROZEN_BLOCKS, FineTuneJob, FineTuneJobSpec
from finetune_api.markers import Digest
from harness.objects import JOB, changed

FIXED: dict[str, Any] = {
    "spec.model.uri": "pvc://models/other",
    "spec.dataset.limit": 1000,
    "spec.training.learningRate": 1e-4,
    "spec.deepspeed.zeroStage": 3,
    "spec.compute.gpusPerWorker": 2,
    "spec.compute.gpuType": "a100",
    "spec.compute.cpu": "4",
    "spec.compute.memory": "16Gi",
    "spec.compute.nodeSelector": {"zone": "b"},
    "spec.compute.tolerations": [{"operator": "Exists"}],
    "spec.storage.claim": "elsewhere",
    "spec.checkpoint.keep": 5,
    "spec.evaluation.resamples": 500,
    "spec.output.uri": "s3://models/elsewhere",
    "spec.credentials.secretName": "other-keys",
}
FREE: dict[str, Any] = {
    "metadata.labels": {"team": "a"},
    "spec.compute.workers": 2,
    "spec.budget.maxCost": "100",
    "spec.policy.startTimeoutSeconds": 60,
    "spec.suspend": True,
}


def digest(changes: dict[str, Any]) -> Digest:
    """The digest of the smallest job with these changes."""
    return spec_digest(FineTuneJob.model_validate(changed(JOB, changes)))


def test_the_tables_know_every_block_of_the_spec() -> None:
    known = {path.split(".")[1] for path in (*FIXED, *FREE) if path.startswith("spec.")}
    assert known | {"task"} == FineTuneJobSpec.model_fields.keys()


@pytest.mark.parametrize("path", FIXED)
def test_a_change_of_what_is_fixed_changes_the_digest(path: str) -> None:
    assert digest({path: FIXED[path]}) != digest({})


@pytest.mark.parametrize("path", FREE)
def test_what_may_change_is_not_in_the_digest(path: str) -> None:
    assert digest({path: FREE[path]}) == digest({})


def test_writing_a_default_out_changes_nothing() -> None:
    assert digest({"spec.compute": {"cpu": "2", "tolerations": []}, "spec.storage": {}}) == digest(
        {}
    )


def test_only_what_the_manifest_says_is_in_the_digest() -> None:
    """So that a field which a later version adds doesn't make a running job another one."""
    said = {block: fields for block, fields in JOB["spec"].items() if block in FROZEN_BLOCKS}
    part = frozen_part(FineTuneJob.model_validate(JOB), defaults=False)
    assert part == {"compute": {}} | said
