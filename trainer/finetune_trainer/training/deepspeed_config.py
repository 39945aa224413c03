"""The DeepSpeed configuration of a run. Users never write one, so its figures can't disagree."""

from typing import Any

import deepspeed
import deepspeed.ops
import torch

from finetune_api.footprint import bucket_elements
from finetune_api.run import RunTraining
from finetune_api.training import Offload, Precision


def deepspeed_config(
    training: RunTraining,
    *,
    precision: Precision,
    device: torch.device,
    trainable_parameters: int,
) -> dict[str, Any]:
    """The configuration as DeepSpeed reads it (values are of its many types, hence ``Any``).

    A buffer of gradients is as large as the model needs and no larger than a stated bound:
    DeepSpeed's own figure would take 2 GB of each rank's memory, however small the model.
    It has no optimizer and no scheduler: the Trainer owns both, and no compiler is needed to
    build DeepSpeed's own.
    """
    bucket = bucket_elements(trainable_parameters)
    zero: dict[str, Any] = {
        "stage": training.zero_stage,
        "contiguous_gradients": True,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if training.zero_stage == 3:
        # Without it a checkpoint would hold shards only, and no model.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    host = {"device": "cpu", "pin_memory": device.type == "cuda"}
    if training.offload is not Offload.NONE:
        zero["offload_optimizer"] = host
    if training.offload is Offload.PARAMETERS:
        zero["offload_param"] = host
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": training.accumulation_steps,
        "gradient_clipping": training.max_grad_norm,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision is Precision.BF16},
        "fp16": {"enabled": precision is Precision.FP16},
        "steps_per_print": 2**31 - 1,
        "wall_clock_breakdown": False,
    }


def join_process_group(backend: str) -> None:
    """Let DeepSpeed use the process group that is there, before ZeRO 3 asks for the ranks.

    Its own shared-memory collectives stay off: they would be compiled here, or fail without a
    compiler, and gloo does as well. That switch is internal to DeepSpeed 0.19: a test holds it.
    Were the table of such parts only changed, and not given, DeepSpeed would first try a compiler
    on each of them.
    """
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
