"""Manifests that serve an exported model where it was published: KServe's, and one for vLLM.

The export carries them where they fit: the job has an output, and the server answers as the model
was measured. KServe's Hugging Face runtime gives the likeliest class of a text, so that numbers and
several labels are not for it. Pure: text from facts.

https://kserve.github.io/website/docs/model-serving/predictive-inference/frameworks/huggingface/overview
https://docs.vllm.ai/en/latest/deployment/k8s.html
"""

import math
from collections.abc import Mapping
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from finetune_api.lora import LoraOutput
from finetune_api.output import CREDENTIAL_VARIABLES
from finetune_api.run import Run
from finetune_api.tasks import Task
from finetune_api.training import Precision
from finetune_trainer import hub
from finetune_trainer.models.processors import Processor

KSERVE = "serving/kserve.yaml"
VLLM = "serving/vllm.yaml"
_KSERVE_TASKS = {
    Task.TEXT_CLASSIFICATION: "sequence_classification",
    Task.TOKEN_CLASSIFICATION: "token_classification",
    Task.CAUSAL_LM: "text_generation",
}
_VLLM_TYPES = {
    Precision.BF16: "bfloat16",
    Precision.FP16: "float16",
    Precision.FP32: "float32",
    # What a GPU was trained in; by itself vLLM takes fp16 for weights in fp32.
    Precision.AUTO: "bfloat16",
}
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has room for (`--max-lora-rank`); an adapter takes the next larger one."""
_MODEL, _BASE = "/model", "/base"
_PORT = 8000
_GPU = {"nvidia.com/gpu": "1"}
_BYTES_PER_PARAMETER = 4
_ROOM = 2  # a copy while it loads

Manifest = dict[str, Any]  # as YAML has it


def serving_manifests(run: Run, parameters: int, *, cased: bool) -> dict[str, str]:
    """The manifests that fit, as YAML by their paths in the export; none without an output.

    ``cased`` says whether the model's tokenizer tells capitals from small letters (``is_cased``).
    """
    found = {KSERVE: _kserve(run, parameters, cased=cased), VLLM: _vllm(run)}
    return {
        path: yaml.safe_dump_all(objects, sort_keys=False)
        for path, objects in found.items()
        if objects
    }


def is_cased(processor: Processor) -> bool:
    """Whether a tokenizer leaves capitals as they are; a processor of images is none."""
    if not isinstance(processor, PreTrainedTokenizerBase):
        return False
    normalizer = processor.backend_tokenizer.normalizer
    return normalizer is None or "A" in normalizer.normalize_str("A")


def _kserve(run: Run, parameters: int, *, cased: bool) -> list[Manifest]:
    task = _KSERVE_TASKS.get(run.task)
    if run.output.uri is None or task is None or _is_adapter(run):
        return []
    weights = parameters * _BYTES_PER_PARAMETER
    memory = f"{1 + math.ceil(_ROOM * weights / 2**30)}Gi"
    amounts = {"cpu": "1", "memory": memory, **(_GPU if run.task is Task.CAUSAL_LM else {})}
    model = {
        "modelFormat": {"name": "huggingface"},
        "args": [f"--model_name={run.job.name}", f"--task={task}", *_as_scored(run, cased=cased)],
        "storageUri": run.output.uri,
        "resources": {"requests": amounts, "limits": amounts},
    }
    return [
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": run.job.name},
            "spec": {"predictor": {"model": model}},
        }
    ]


def _as_scored(run: Run, *, cased: bool) -> list[str]:
    """What the runtime has to be told so that classes are those that were measured.

    By itself it takes fp16 on a GPU, reads as far as the model has positions, and makes tokenizers
    of BERT's kind write everything small.
    """
    if run.task is Task.CAUSAL_LM:
        return [f"--dtype={_VLLM_TYPES[run.training.precision]}"]
    stated = ["--dtype=float32", f"--max_model_len={run.training.max_length}"]
    return [*stated, "--disable_lower_case"] if cased else stated


def _vllm(run: Run) -> list[Manifest]:
    """A Deployment and its Service; an adapter's with its base model, where a cluster has that."""
    output = run.output.uri
    if output is None or run.task is not Task.CAUSAL_LM:
        return []
    volumes: list[Manifest] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]
    mounts: list[Manifest] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]  # noqa: S108 - torch's
    copies: list[Manifest] = []
    served = output.removeprefix(hub.SCHEME)
    if not output.startswith(hub.SCHEME):
        served = _MODEL
        volumes.append({"name": "model", "emptyDir": {}})
        mounts.append({"name": "model", "mountPath": _MODEL})
        copies.append(
            {
                "name": "copy",
                "image": "amazon/aws-cli",
                "args": ["s3", "sync", "--no-progress", output, _MODEL],
                "volumeMounts": [{"name": "model", "mountPath": _MODEL}],
                **_keys(run, "AWS"),
            }
        )
    model = [served, f"--served-model-name={run.job.name}"]
    if _is_adapter(run):
        base = _base(run, volumes, mounts)
        if base is None:
            return []
        model = [*base, *_lora(run, served)]
    server = {
        "name": "vllm",
        "image": "vllm/vllm-openai:latest",
        "args": [*model, f"--dtype={_VLLM_TYPES[run.training.precision]}", f"--port={_PORT}"],
        "ports": [{"name": "http", "containerPort": _PORT}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
        "resources": {"limits": dict(_GPU)},
        "volumeMounts": mounts,
        **_keys(run, "HF"),
    }
    labels = {"app.kubernetes.io/name": run.job.name}
    pod = {"initContainers": copies, "containers": [server], "volumes": volumes}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": run.job.name, "labels": labels},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": run.job.name, "labels": labels},
            "spec": {
                "selector": labels,
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        },
    ]


def _base(run: Run, volumes: list[Manifest], mounts: list[Manifest]) -> list[str] | None:
    """The base model as vLLM is told of it; None where it lies on no cluster."""
    uri = run.model.uri
    if uri.startswith(hub.SCHEME):
        place = hub.HubPath.of(uri, "model.uri")
        return [place.repository, f"--revision={place.commit}"]
    if not uri.startswith("pvc://"):
        return None
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    source: Mapping[str, Any] = {"claimName": claim, "readOnly": True}
    volumes.append({"name": "base", "persistentVolumeClaim": source})
    mounts.append({"name": "base", "mountPath": _BASE, "readOnly": True})
    return [f"{_BASE}/{path}"]


def _lora(run: Run, adapter: str) -> list[str]:
    lora = run.model.adaptation
    assert lora is not None
    room = next((rank for rank in _LORA_RANKS if rank >= lora.rank), lora.rank)
    return [
        "--enable-lora",
        f"--max-lora-rank={room}",
        f"--lora-modules={run.job.name}={adapter}",
        # The adapter's own says where its answers stop; the base model's need not.
        f"--generation-config={adapter}",
    ]


def _keys(run: Run, service: str) -> Manifest:
    """What the job's Secret has for a service, by name alone; the service is `AWS` or `HF`."""
    secret = run.credentials.secret_name
    if secret is None:
        return {}
    return {
        "env": [
            {
                "name": name,
                "valueFrom": {"secretKeyRef": {"name": secret, "key": name, "optional": True}},
            }
            for name in CREDENTIAL_VARIABLES
            if name.startswith(f"{service}_")
        ]
    }


def _is_adapter(run: Run) -> bool:
    lora = run.model.adaptation
    return lora is not None and lora.output is LoraOutput.ADAPTER
