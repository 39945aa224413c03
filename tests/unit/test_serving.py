"""The manifests that an export carries: they name facts of the job, and stand where they fit."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import BertNormalizer
from transformers import PreTrainedTokenizerFast

from finetune_api.output import Credentials, Output
from finetune_api.run import Run
from finetune_api.tasks import Task
from finetune_api.training import Precision
from finetune_trainer.models.serving import KSERVE, VLLM, is_cased, serving_manifests
from harness.trainer import a_run

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ADAPTER = {"rank": 12, "output": "adapter"}
PARAMETERS = 1_000_000_000
KSERVE_FIELDS = {
    "apiVersion": {},
    "kind": {},
    "metadata": {"name": {}},
    "spec": {
        "predictor": {
            "model": {
                "modelFormat": {"name": {}, "version": {}},
                "args": {},
                "storageUri": {},
                "resources": {"requests": {}, "limits": {}},
            }
        }
    },
}
"""Of serving.kserve.io/v1beta1 what is used here, as KServe's reference lists it:
https://kserve.github.io/website/docs/reference/crd-api (InferenceService, ModelSpec)."""


def a_job(task: Task, output: str | None = "s3://models/reviews", **how: Any) -> Run:
    run = a_run(dataset={"train": "rows.csv"}, task=task, **how)
    return run.model_copy(update={"output": Output(uri=output)})


def objects(run: Run, path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(serving_manifests(run, PARAMETERS, cased=False)[path]))


def server(run: Run) -> dict[str, Any]:
    pod: dict[str, Any] = objects(run, VLLM)[0]["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize(
    ("task", "lora", "paths"),
    [
        (Task.TEXT_CLASSIFICATION, None, {KSERVE}),
        (Task.TOKEN_CLASSIFICATION, None, {KSERVE}),
        (Task.CAUSAL_LM, None, {KSERVE, VLLM}),
        (Task.CAUSAL_LM, {"rank": 12}, {KSERVE, VLLM}),
        (Task.CAUSAL_LM, ADAPTER, {VLLM}),
        (Task.TEXT_CLASSIFICATION, ADAPTER, set()),
        # The runtime would answer with the largest of them.
        (Task.TEXT_REGRESSION, None, set()),
        (Task.MULTI_LABEL_CLASSIFICATION, None, set()),
        (Task.IMAGE_CLASSIFICATION, None, set()),
    ],
)
def test_a_model_has_the_manifests_of_the_servers_that_answer_as_it_was_measured(
    task: Task, lora: dict[str, Any] | None, paths: set[str]
) -> None:
    assert set(serving_manifests(a_job(task, lora=lora), PARAMETERS, cased=False)) == paths


@pytest.mark.parametrize("task", [Task.TEXT_CLASSIFICATION, Task.CAUSAL_LM])
def test_a_model_that_stays_in_its_workspace_has_none(task: Task) -> None:
    assert serving_manifests(a_job(task, output=None), PARAMETERS, cased=False) == {}


def test_kserve_is_told_what_the_model_is_where_it_lies_and_what_it_takes() -> None:
    (service,) = objects(a_job(Task.TEXT_CLASSIFICATION), KSERVE)
    assert service["metadata"]["name"] == "a-job"
    model = service["spec"]["predictor"]["model"]
    assert model["storageUri"] == "s3://models/reviews"
    assert model["args"] == [
        "--model_name=a-job",
        "--task=sequence_classification",
        "--dtype=float32",
        "--max_model_len=32",
    ]
    # 4 GB of weights, twice while they are loaded, and 1 GiB for the rest.
    assert model["resources"]["limits"] == {"cpu": "1", "memory": "9Gi"}
    (chat,) = objects(a_job(Task.CAUSAL_LM), KSERVE)
    assert chat["spec"]["predictor"]["model"]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_kserve_reads_capitals_as_the_model_did() -> None:
    for lowercase in (True, False):
        words = Tokenizer(WordLevel({"a": 0}, "a"))
        words.normalizer = BertNormalizer(lowercase=lowercase)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)  # type: ignore[no-untyped-call]  # no types
        assert is_cased(tokenizer) is not lowercase
        run = a_job(Task.TEXT_CLASSIFICATION)
        text = serving_manifests(run, PARAMETERS, cased=is_cased(tokenizer))[KSERVE]
        assert ("--disable_lower_case" in text) is not lowercase


def test_vllm_takes_no_fp16_for_what_was_trained_in_the_gpus_own() -> None:
    run = a_job(Task.CAUSAL_LM, training={"precision": Precision.AUTO})
    assert "--dtype=bfloat16" in server(run)["containers"][0]["args"]


@pytest.mark.parametrize("task", [Task.TEXT_CLASSIFICATION, Task.CAUSAL_LM])
def test_kserve_is_told_nothing_that_its_kind_has_no_field_for(task: Task) -> None:
    def known(value: object, fields: dict[str, Any]) -> None:
        if isinstance(value, dict) and fields:
            assert value.keys() <= fields.keys()
            for name, inside in value.items():
                known(inside, fields[name])

    for service in objects(a_job(task), KSERVE):
        known(service, KSERVE_FIELDS)


def test_vllm_serves_the_copy_of_a_bucket_and_has_its_keys_by_name_alone() -> None:
    secret = {"credentials": Credentials(secret_name="s3-keys")}
    run = a_job(Task.CAUSAL_LM).model_copy(update=secret)
    pod = server(run)
    (copy,), (vllm,) = pod["initContainers"], pod["containers"]
    assert copy["args"][-2:] == ["s3://models/reviews", "/model"]
    assert vllm["args"][:2] == ["/model", "--served-model-name=a-job"]
    for container in (copy, vllm):
        assert {"name": "model", "mountPath": "/model"} in container["volumeMounts"]
    for container, service in ((copy, "AWS_"), (vllm, "HF_")):
        assert container["env"]
        for variable in container["env"]:
            assert variable["name"].startswith(service)
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "s3-keys"


def test_vllm_asks_the_hub_for_what_lies_there() -> None:
    pod = server(a_job(Task.CAUSAL_LM, output="hf://acme/answers"))
    assert pod["initContainers"] == []
    assert pod["containers"][0]["args"][0] == "acme/answers"


@pytest.mark.parametrize(
    ("base", "said"),
    [
        (f"hf://acme/base@{COMMIT}", ["acme/base", f"--revision={COMMIT}"]),
        ("pvc://models/llm/base", ["/base/llm/base"]),
    ],
)
def test_vllm_puts_an_adapter_onto_the_base_that_it_was_trained_on(
    base: str, said: list[str]
) -> None:
    run = a_job(Task.CAUSAL_LM, model=base, lora=ADAPTER)
    pod = server(run)
    args = pod["containers"][0]["args"]
    assert args[: len(said)] == said
    # Of the ranks that vLLM knows, the next one after 12.
    assert args[len(said) :][:3] == [
        "--enable-lora",
        "--max-lora-rank=16",
        "--lora-modules=a-job=/model",
    ]
    assert "--generation-config=/model" in args
    claims = [one["persistentVolumeClaim"] for one in pod["volumes"] if one["name"] == "base"]
    assert claims == ([{"claimName": "models", "readOnly": True}] if "pvc" in base else [])


def test_an_adapter_whose_base_is_on_no_cluster_has_none() -> None:
    run = a_job(Task.CAUSAL_LM, model="models/base", lora=ADAPTER)
    assert serving_manifests(run, PARAMETERS, cased=False) == {}
