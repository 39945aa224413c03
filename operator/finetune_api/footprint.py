"""Memory, disk and arithmetic of a fine-tune, from a model's and a run's facts: formulas only.

The operator asks before it holds devices, the trainer to say what it expects; both get the same
numbers. Everything is bytes or floating-point operations. Sources:

- weights, gradients and optimizer state under ZeRO: Rajbhandari et al. 2020, arXiv:1910.02054, §3;
- activations of a transformer layer: Korthikanti et al. 2022, arXiv:2205.05198, §4.1;
- memory of fused attention: Dao et al. 2022, arXiv:2205.14135 (no score matrix is kept);
- floating-point operations: Chowdhery et al. 2022, arXiv:2204.02311, appendix B.

Where a model trains less than all its weights (LoRA), what it trains lies beside them: the small
matrices, and a copy of the head.
"""

import math
from dataclasses import dataclass, fields

from finetune_api.datareport import ModelFacts
from finetune_api.training import Offload, Precision

FRAGMENTATION = 0.10
"""Share added for what the allocator holds and can't use."""

_MOST_BUCKET_ELEMENTS = 50_000_000

RUNTIME_BYTES = 1 << 30
"""Of each rank, whatever the model: the device's context, kernels and communicators."""

_ELEMENT = {Precision.FP32: 4, Precision.BF16: 2, Precision.FP16: 2}
_LEAST_STAGE = {Offload.NONE: 0, Offload.OPTIMIZER: 1, Offload.PARAMETERS: 3}
_FP32 = 4
_ADAM_MOMENTS = 2 * _FP32


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a run uses a model: what of it the formulas depend on."""

    zero_stage: int
    world_size: int
    precision: Precision
    micro_batch_size: int
    sequence_length: int
    activation_checkpointing: bool = False
    offload: Offload = Offload.NONE

    def __post_init__(self) -> None:
        """Refuse what has no meaning, ``precision: auto`` among it: it is resolved before."""
        if self.precision not in _ELEMENT:
            raise ValueError(f"precision {self.precision.value} has no size: resolve it first")
        if self.zero_stage not in range(4):
            raise ValueError(f"zero_stage is {self.zero_stage}: it must be 0, 1, 2 or 3")
        if self.zero_stage < _LEAST_STAGE[self.offload]:
            raise ValueError(
                f"offload of {self.offload.value} needs zero_stage {_LEAST_STAGE[self.offload]}"
            )
        if min(self.world_size, self.micro_batch_size, self.sequence_length) < 1:
            raise ValueError("world_size, micro_batch_size and sequence_length must be at least 1")

    @property
    def element(self) -> int:
        """Bytes of one number of the forward and backward pass."""
        return _ELEMENT[self.precision]

    @property
    def own_copy(self) -> bool:
        """Whether the optimizer has its own fp32 copy of the weights."""
        return self.precision is not Precision.FP32 or self.zero_stage >= 1


@dataclass(frozen=True, kw_only=True)
class MemoryBreakdown:
    """Bytes of one rank's device at the peak of a training step, by what they hold."""

    weights: int
    gathered: int
    gradients: int
    buckets: int
    optimizer: int
    activations: int
    logits: int
    fragmentation: int
    runtime: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


def memory_per_rank(model: ModelFacts, shape: Shape) -> MemoryBreakdown:
    """Peak memory of one rank's device that trains with AdamW; what is offloaded is not on it."""
    states = _states(model, shape)
    activations = shape.micro_batch_size * _activations_per_row(model, shape)
    answers = shape.micro_batch_size * (shape.sequence_length if model.per_token else 1)
    logits = answers * model.classes * (2 * shape.element + 2 * _FP32)
    buckets = _buckets(model, shape)
    held = sum(states) + buckets + activations + logits
    weights, gathered, gradients, optimizer = states
    return MemoryBreakdown(
        weights=weights,
        gathered=gathered,
        gradients=gradients,
        buckets=buckets,
        optimizer=optimizer,
        activations=activations,
        logits=logits,
        fragmentation=math.ceil(held * FRAGMENTATION),
        runtime=RUNTIME_BYTES,
    )


def _states(model: ModelFacts, shape: Shape) -> tuple[int, int, int, int]:
    """Weights, weights gathered from other ranks, gradients and optimizer state of one rank.

    ZeRO shards the optimizer from stage 1, gradients from 2, weights from 3. Its optimizer keeps
    its own fp32 copy of the weights, in an fp32 run too (DeepSpeed clones the partition); without
    ZeRO an fp32 run updates the weights themselves.
    """
    optimizer = _optimizer(model, shape)
    gradients = shape.element * model.trainable_parameters
    weights = shape.element * _held(model)
    gathered = 0
    if shape.zero_stage >= 3:
        own = 0 if shape.offload is Offload.PARAMETERS else _share(weights, shape)
        gathered = min(weights - own, 2 * shape.element * _largest_module(model))
        weights = own
    if shape.offload is not Offload.NONE:
        optimizer = 0
        gradients = gradients if shape.zero_stage < 2 else 0
    return (
        weights,
        gathered,
        _share(gradients, shape) if shape.zero_stage >= 2 else gradients,
        _share(optimizer, shape) if shape.zero_stage >= 1 else optimizer,
    )


def bucket_elements(trainable_parameters: int) -> int:
    """Gradients that are exchanged at once: all, up to a bound above which it gets no faster.

    DeepSpeed aligns its buffers by two elements, and refuses an odd size.
    """
    return min(trainable_parameters + trainable_parameters % 2, _MOST_BUCKET_ELEMENTS)


def _buckets(model: ModelFacts, shape: Shape) -> int:
    """The buffer that ZeRO gathers gradients in before it exchanges them."""
    if shape.zero_stage == 0:
        return 0
    return shape.element * bucket_elements(model.trainable_parameters)


def _optimizer(model: ModelFacts, shape: Shape) -> int:
    return (_ADAM_MOMENTS + (_FP32 if shape.own_copy else 0)) * model.trainable_parameters


def _held(model: ModelFacts) -> int:
    """Weights in memory, those beside the model's own among them."""
    beside = model.trainable_parameters if _is_adapted(model) else 0
    return model.parameters + beside


def _is_adapted(model: ModelFacts) -> bool:
    return model.trainable_parameters < model.parameters


def _share(size: int, shape: Shape) -> int:
    return math.ceil(size / shape.world_size)


def _largest_module(model: ModelFacts) -> int:
    """Parameters of the largest piece that stage 3 gathers at once; a second one is prefetched."""
    layer = 4 * model.hidden_size**2 + 2 * model.hidden_size * model.intermediate_size
    return max(layer, model.vocabulary * model.hidden_size)


def _activations_per_row(model: ModelFacts, shape: Shape) -> int:
    """Bytes kept for the backward pass of one row of ``sequence_length`` tokens, or of one image.

    What is kept of an image was counted on the model's shapes, whatever its architecture.

    Per layer and token, in numbers of the pass's precision: input of the projections, query, key,
    value and attention's output (5 h), two norms (2 h), the MLP's input (h), its two inner values
    (2 i); and two dropout masks of a byte (2 h). With i = 4 h in 16 bit that is the 34 h of the
    paper. Its 5 a s, the scores, are replaced by fused attention's one fp32 number per head. With
    LoRA a layer keeps its input for the small matrix instead of for itself.
    """
    if model.image is not None:
        kept = model.image.activations
        if shape.activation_checkpointing:
            kept = model.image.recomputed_activations or kept
        return kept * shape.element
    hidden, inner = model.hidden_size, model.intermediate_size
    per_token = (8 * hidden + 2 * inner) * shape.element + 2 * hidden
    per_token += model.attention_heads * _FP32
    embedding = 2 * hidden * shape.element + hidden
    layers = model.layers * per_token
    if shape.activation_checkpointing:
        # Of each layer its input, and of the one that is computed again all.
        layers = model.layers * hidden * shape.element + per_token
    return shape.sequence_length * (layers + embedding)


def step_flops(model: ModelFacts, *, global_batch_size: int, sequence_length: int) -> int:
    """Floating-point operations of one optimizer step, all ranks together.

    6 per weight and token (4 where it is frozen: it gets no gradient), and 12 × layers × hidden ×
    length per token for attention, which is not halved for masks. Embedding tables are looked up,
    not multiplied, and don't count: in a small encoder they are half of the parameters. A model
    that shares its layers' weights does more.

    Of images: three times the forward pass, which was counted on the model's shapes; twice where
    the weights are frozen.
    """
    if model.image is not None:
        return global_batch_size * (2 if _is_adapted(model) else 3) * model.image.forward_flops
    tables = model.hidden_size * (model.vocabulary + (model.max_positions or 0))
    multiplied = max(model.parameters - tables, 0)
    attention = 12 * model.layers * model.hidden_size * sequence_length
    weights = 6 * multiplied
    if _is_adapted(model):
        weights = 4 * multiplied + 6 * model.trainable_parameters
    return global_batch_size * sequence_length * (weights + attention)


def step_seconds(flops: int, *, ranks: int, sustained_flops: float) -> float:
    """Seconds of one optimizer step, at so many operations per second and rank as are sustained."""
    if ranks < 1 or sustained_flops <= 0:
        raise ValueError(f"{ranks} ranks with {sustained_flops:g} operations per second do nothing")
    return flops / (ranks * sustained_flops)


def rank_zero_host_bytes(model: ModelFacts, shape: Shape) -> int:
    """Host memory that saving takes on rank 0: the whole model is gathered there at once."""
    return shape.element * _held(model)


def checkpoint_bytes(model: ModelFacts, shape: Shape) -> int:
    """Disk of one full checkpoint: weights to load, DeepSpeed's own copy, and optimizer state.

    With bf16 that is 2 + 2 + 12 = 16 bytes per parameter that is trained: with LoRA the others are
    not in it.
    """
    optimizer = _optimizer(model, shape)
    return 2 * shape.element * model.trainable_parameters + optimizer


def checkpoints_bytes(model: ModelFacts, shape: Shape, keep: int) -> int:
    """Disk of all checkpoints at the worst moment.

    Those kept, the best one, and the new one: the oldest goes only once the new one is complete.
    """
    return (keep + 2) * checkpoint_bytes(model, shape)
