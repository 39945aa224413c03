"""The manifests of plain kinds that an export carries, before a real API server."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.output import Credentials, Output
from finetune_api.tasks import Task
from finetune_trainer.models.serving import VLLM, serving_manifests
from harness.cluster import Cluster
from harness.trainer import a_run


@pytest.mark.parametrize("output", ["s3://models/answers", "hf://acme/answers"])
@pytest.mark.parametrize("lora", [None, {"rank": 8, "output": "adapter"}])
def test_an_api_server_takes_the_vllm_manifest(
    cluster: Cluster, namespace: str, output: str, lora: dict[str, Any] | None
) -> None:
    run = a_run(dataset={"train": "rows.csv"}, task=Task.CAUSAL_LM, lora=lora)
    published = {
        "output": Output(uri=output),
        "credentials": Credentials(secret_name="keys"),
    }
    text = serving_manifests(run.model_copy(update=published), 1_000_000, cased=True)[VLLM]
    done = cluster.kubectl(
        *("create", "-n", namespace, "--dry-run=server", "--validate=strict", "-o", "name"),
        *("-f", "-"),
        stdin=text,
    )
    assert done.stdout.split() == ["deployment.apps/a-job", "service/a-job"]
