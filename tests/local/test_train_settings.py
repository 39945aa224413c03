"""What the libraries are told of a run, and what they are not told because no device can do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.report import Step
from finetune_api.training import Precision
from finetune_trainer.errors import UsageError
from finetune_trainer.training.deepspeed_config import deepspeed_config
from finetune_trainer.training.trainer import precision_of, training_arguments
from harness.trainer import a_run

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def config(device: torch.device = CPU, trained: int = 1000, **training: Any) -> dict[str, Any]:
    run = a_run(dataset={"train": "rows.csv"}, step=Step.TRAIN, training=training)
    precision = Precision(training.get("precision", Precision.FP32))
    return deepspeed_config(
        run.training, precision=precision, device=device, trainable_parameters=trained
    )


def test_fp16_on_a_cpu_is_refused_with_what_to_take() -> None:
    run = a_run(dataset={"train": "rows.csv"}, training={"precision": "fp16"})
    with pytest.raises(UsageError, match=r"fp16 needs a GPU.*set it to bf16 or fp32"):
        precision_of(run.training, CPU)
    assert precision_of(run.training, GPU) is Precision.FP16


def test_one_precision_is_on_at_a_time() -> None:
    on = {
        precision: (config(precision=precision)["bf16"], config(precision=precision)["fp16"])
        for precision in ("fp32", "bf16", "fp16")
    }
    yes, no = {"enabled": True}, {"enabled": False}
    assert on == {"fp32": (no, no), "bf16": (yes, no), "fp16": (no, yes)}


@pytest.mark.parametrize(
    ("offload", "offloaded"),
    [
        ("none", set()),
        ("optimizer", {"offload_optimizer"}),
        ("parameters", {"offload_optimizer", "offload_param"}),
    ],
)
def test_what_is_offloaded_lies_in_host_memory_pinned_for_a_gpu(
    offload: str, offloaded: set[str]
) -> None:
    for device, pinned in ((CPU, False), (GPU, True)):
        zero = config(device, zero_stage=3, offload=offload)["zero_optimization"]
        assert {key for key in zero if key.startswith("offload_")} == offloaded
        for key in offloaded:
            assert zero[key] == {"device": "cpu", "pin_memory": pinned}


def test_a_buffer_of_gradients_is_no_larger_than_the_model_and_bounded() -> None:
    for trained, expected in ((1000, 1000), (999, 1000), (8_000_000_000, 50_000_000)):
        zero = config(trained=trained)["zero_optimization"]
        assert (zero["reduce_bucket_size"], zero["allgather_bucket_size"]) == (expected, expected)


@pytest.mark.parametrize("wanted", [False, True])
def test_activations_are_computed_again_and_the_model_compiled_where_that_is_asked(
    tmp_path: Path, *, wanted: bool
) -> None:
    training = {"activation_checkpointing": wanted, "compile": wanted, "zero_stage": 0}
    run = a_run(dataset={"train": "rows.csv"}, training=training)
    told = training_arguments(
        run.training, output=tmp_path, total_steps=8, device=CPU, trainable_parameters=1000
    )
    assert (told.activation_checkpointing, told.torch_compile) == (wanted, wanted)
