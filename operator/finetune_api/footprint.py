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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction

from finetune_api.datareport import ModelFacts, Moment, StepTrace
from finetune_api.training import Offload, Precision

FRAGMENTATION = 0.10
"""Share added for what the allocator holds and can't use."""

_MOST_BUCKET_ELEMENTS = 50_000_000

# DeepSpeed 0.19's own figures: MEMORY_OPT_ALLREDUCE_SIZE of runtime/engine.py, and of
# runtime/zero/config.py prefetch_bucket_size and max_live_parameters.
_FLAT_ELEMENTS = 500_000_000
_PREFETCHED_ELEMENTS = 50_000_000
_GATHERED_ELEMENTS = 1_000_000_000

RUNTIME_BYTES = 1 << 30
"""Of each rank, whatever the model: the device's context, kernels and communicators."""

ELEMENT = {Precision.FP32: 4, Precision.BF16: 2, Precision.FP16: 2}
"""Bytes of one number of the forward and backward pass."""
_LEAST_STAGE = {Offload.NONE: 0, Offload.OPTIMIZER: 1, Offload.PARAMETERS: 3}
_FP32, _FP64 = 4, 8
_ADAM_MOMENTS = 2 * _FP32


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a run uses a model: what of it the formulas depend on."""

    zero_stage: int
    world_size: int
    precision: Precision
    micro_batch_size: int
    sequence_length: int
    accumulation_steps: int = 1
    activation_checkpointing: bool = False
    offload: Offload = Offload.NONE

    def __post_init__(self) -> None:
        """Refuse what has no meaning, ``precision: auto`` among it: it is resolved before."""
        if self.precision not in ELEMENT:
            raise ValueError(f"precision {self.precision.value} has no size: resolve it first")
        if self.zero_stage not in range(4):
            raise ValueError(f"zero_stage is {self.zero_stage}: it must be 0, 1, 2 or 3")
        if self.zero_stage < _LEAST_STAGE[self.offload]:
            raise ValueError(
                f"offload of {self.offload.value} needs zero_stage {_LEAST_STAGE[self.offload]}"
            )
        for name in ("world_size", "micro_batch_size", "sequence_length", "accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")

    @property
    def element(self) -> int:
        """Bytes of one number of the forward and backward pass."""
        return ELEMENT[self.precision]

    @property
    def own_copy(self) -> bool:
        """Whether the optimizer has its own fp32 copy of the weights."""
        return self.precision is not Precision.FP32 or self.zero_stage >= 1


@dataclass(frozen=True, kw_only=True)
class MemoryBreakdown:
    """Bytes of one rank's device at the peak of a training step, by what they hold.

    ``scratch`` is what an exchange or an update of weights needs for itself.
    """

    weights: int
    gathered: int
    optimizer: int
    gradients: int
    buckets: int
    activations: int
    scratch: int
    fragmentation: int = 0
    runtime: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


def memory_per_rank(model: ModelFacts, shape: Shape) -> MemoryBreakdown:
    """Peak memory of one rank's device that trains with AdamW; what is offloaded is not on it.

    A step's phases hold different things, and the fullest of them is the peak. Activations, what is
    computed from them and gradients come from the model's trace; the rest is what DeepSpeed 0.19
    was seen to hold (docs/benchmarks.md).
    """
    phases = (
        _gathering(model, shape),
        *_passes(model, shape),
        _exchange(model, shape),
        _update(model, shape),
    )
    fullest = max(phases, key=lambda phase: phase.total)
    return replace(
        fullest,
        fragmentation=math.ceil(fullest.total * FRAGMENTATION),
        runtime=RUNTIME_BYTES,
    )


def _standing(model: ModelFacts, shape: Shape) -> MemoryBreakdown:
    """What is there throughout a step.

    ZeRO shards the optimizer from stage 1, gradients from 2, weights from 3. Its optimizer keeps
    its own fp32 copy of the weights, in an fp32 run too (DeepSpeed clones the partition); without
    ZeRO an fp32 run updates the weights themselves. Stage 3 alone keeps its share of the gradients
    and the buffer of their exchange from one step to the next.
    """
    weights = shape.element * _held(model)
    optimizer = _optimizer(model, shape)
    gradients = buckets = 0
    if shape.zero_stage >= 1:
        optimizer = _share(optimizer, shape)
    if shape.zero_stage >= 3:
        weights = 0 if shape.offload is Offload.PARAMETERS else _share(weights, shape)
        gradients, buckets = _gradient_share(model, shape), _bucket(model, shape)
    return MemoryBreakdown(
        weights=weights,
        gathered=0,
        optimizer=optimizer if shape.offload is Offload.NONE else 0,
        gradients=gradients,
        buckets=buckets,
        activations=0,
        scratch=0,
    )


def _passes(model: ModelFacts, shape: Shape) -> Iterator[MemoryBreakdown]:
    """The end of the forward pass, and the backward pass up to its end.

    Without ZeRO gradients stay where they are made. Stages 1 and 2 copy them into a bucket, and
    free them when it is full; stage 3 frees them at once.
    """
    standing = _standing(model, shape)
    bucket, kept = _bucket(model, shape), _kept_from_before(model, shape)
    in_work = 2 * shape.element * model.largest_weight
    for moment in _moments(model, shape):
        fixed, buckets = max(moment.fixed_bytes, kept), standing.buckets
        if moment.exchanging and shape.zero_stage >= 1:
            buckets = bucket
            waiting = bucket + in_work if shape.zero_stage < 3 else in_work
            fixed = min(moment.fixed_bytes, waiting) + kept
        yield replace(
            standing,
            gathered=_gathered(model, shape),
            gradients=standing.gradients + fixed,
            buckets=buckets,
            activations=shape.micro_batch_size * moment.row_bytes,
        )


def _exchange(model: ModelFacts, shape: Shape) -> MemoryBreakdown:
    """The last gradients' exchange: of all that a bucket holds, and of a copy of it.

    Without ZeRO the copy is a flat one of all gradients. Stages 1 and 2 free the gradients that are
    in the bucket after it, and then have their share. Stage 3 makes one flat, and the collective
    another; few weights are still gathered.
    """
    standing = _standing(model, shape)
    whole = shape.element * model.trainable_parameters
    bucket = _bucket(model, shape)
    if shape.zero_stage == 0:
        flat = shape.world_size > 1 or shape.precision is not Precision.FP32
        copy = min(whole, shape.element * _FLAT_ELEMENTS) if flat else 0
        return replace(standing, gradients=whole, scratch=copy)
    if shape.zero_stage < 3:
        gradients = max(_gradient_share(model, shape), _kept_from_before(model, shape))
        return replace(standing, gradients=gradients, buckets=bucket, scratch=bucket)
    gathered = min(_gathered(model, shape), shape.element * _largest_module(model))
    return replace(standing, gathered=gathered, scratch=2 * bucket)


def _gathering(model: ModelFacts, shape: Shape) -> MemoryBreakdown:
    """Stage 3 gathers ahead, into a buffer that stays until all weights are copied out of it.

    What the forward pass keeps until the last one is used stands beside both.
    """
    gathered = _gathered(model, shape)
    ahead = shape.element * (_PREFETCHED_ELEMENTS + _largest_module(model))
    then = _last_gathered(model, shape)
    return replace(
        _standing(model, shape),
        gathered=gathered,
        activations=shape.micro_batch_size * then.row_bytes + then.fixed_bytes,
        scratch=min(gathered, ahead),
    )


def _update(model: ModelFacts, shape: Shape) -> MemoryBreakdown:
    """The weights' update: this rank's gradients, copied flat by ZeRO and widened to fp32.

    Besides, the norm of the gradients widens one after the other to fp64.
    """
    standing = _standing(model, shape)
    trained = model.trainable_parameters
    gradients, flat = shape.element * trained, 0
    if shape.zero_stage >= 1:
        gradients, trained = _gradient_share(model, shape), _share(trained, shape)
        flat = gradients
    if shape.precision is not Precision.FP32 and shape.offload is Offload.NONE:
        flat += _FP32 * trained
    wide = _FP64 * model.largest_weight
    return replace(standing, gradients=gradients, scratch=max(flat, wide))


def _moments(model: ModelFacts, shape: Shape) -> Sequence[Moment]:
    """The moments at which the passes may be at their peak, for rows of the shape's length."""
    trace = _trace(model, shape)
    if trace is None:
        return _formula(model, shape)
    return tuple(_reshaped(moment, trace, model, shape) for moment in trace.moments)


def _last_gathered(model: ModelFacts, shape: Shape) -> Moment:
    """When stage 3 uses the last weight that it has gathered; untraced, at the pass's end."""
    trace = _trace(model, shape)
    if trace is None:
        kept = _activations_per_row(model, shape)
        return Moment(row_bytes=kept, fixed_bytes=0, exchanging=False)
    if trace.last_gathered is None:
        return Moment(row_bytes=0, fixed_bytes=0, exchanging=False)
    return _reshaped(trace.last_gathered, trace, model, shape)


def _trace(model: ModelFacts, shape: Shape) -> StepTrace | None:
    if shape.zero_stage == 3 and model.gathered_trace is not None:
        return model.gathered_trace
    return model.trace


def _reshaped(moment: Moment, trace: StepTrace, model: ModelFacts, shape: Shape) -> Moment:
    """Take a moment of a trace to rows of the shape's length.

    A trace of another precision, or one that doesn't compute again what the shape does, is taken
    as the formula says that the two differ.
    """
    rows, fixed = Fraction(1), Fraction(shape.element, trace.element)
    if model.image is None:
        rows = Fraction(shape.sequence_length, trace.tokens)
    if (trace.element, trace.recomputed) != (shape.element, shape.activation_checkpointing):
        precision = {element: precision for precision, element in ELEMENT.items()}[trace.element]
        like_trace = replace(shape, precision=precision, activation_checkpointing=trace.recomputed)
        rows *= Fraction(_kept_per_row(model, shape), _kept_per_row(model, like_trace))
    return Moment(
        row_bytes=math.ceil(rows * moment.row_bytes),
        fixed_bytes=math.ceil(fixed * moment.fixed_bytes),
        exchanging=moment.exchanging,
    )


def _formula(model: ModelFacts, shape: Shape) -> Sequence[Moment]:
    """What a model that could not be traced keeps: at first all activations, at last gradients."""
    gradients = shape.element * model.trainable_parameters
    return (
        Moment(row_bytes=_kept_per_row(model, shape), fixed_bytes=0, exchanging=True),
        Moment(row_bytes=0, fixed_bytes=gradients, exchanging=True),
    )


def _kept_per_row(model: ModelFacts, shape: Shape) -> int:
    """Bytes of a row's activations, and of its outputs with their gradients and fp32 copies."""
    answers = shape.sequence_length if model.per_token else 1
    outputs = answers * model.classes * (2 * shape.element + 2 * _FP32)
    return _activations_per_row(model, shape) + outputs


def _kept_from_before(model: ModelFacts, shape: Shape) -> int:
    """Gradients of a step's earlier micro-batches; stage 1 exchanges them with the last one."""
    if shape.accumulation_steps == 1 or shape.zero_stage == 3:
        return 0
    if shape.zero_stage == 2:
        return _gradient_share(model, shape)
    return shape.element * model.trainable_parameters


def _gradient_share(model: ModelFacts, shape: Shape) -> int:
    """Gradients that a rank updates its share of the weights by; offloaded they are on the host."""
    if shape.offload is not Offload.NONE and shape.zero_stage >= 2:
        return 0
    return _share(shape.element * model.trainable_parameters, shape)


def _gathered(model: ModelFacts, shape: Shape) -> int:
    """Weights of other ranks that stage 3 has gathered, and keeps up to a bound for their reuse."""
    if shape.zero_stage < 3:
        return 0
    weights = shape.element * _held(model)
    if shape.world_size == 1 and shape.offload is not Offload.PARAMETERS:
        return 0
    return min(weights, shape.element * _GATHERED_ELEMENTS)


def bucket_elements(trainable_parameters: int) -> int:
    """Gradients that are exchanged at once: all, up to a bound above which it gets no faster.

    DeepSpeed aligns its buffers by two elements, and refuses an odd size.
    """
    return min(trainable_parameters + trainable_parameters % 2, _MOST_BUCKET_ELEMENTS)


def _bucket(model: ModelFacts, shape: Shape) -> int:
    """The buffer that ZeRO gathers gradients in before it exchanges them."""
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
    multiplied = _multiplied(model)
    attention = 12 * model.layers * model.hidden_size * sequence_length
    weights = 6 * multiplied
    if _is_adapted(model):
        weights = 4 * multiplied + 6 * model.trainable_parameters
    return global_batch_size * sequence_length * (weights + attention)


def forward_flops(model: ModelFacts, *, rows: int, sequence_length: int) -> int:
    """Floating-point operations of one pass over rows without gradients; as ``step_flops`` counts.

    2 per weight and token, and 4 × layers × hidden × length per token for attention.
    """
    if model.image is not None:
        return rows * model.image.forward_flops
    attention = 4 * model.layers * model.hidden_size * sequence_length
    return rows * sequence_length * (2 * _multiplied(model) + attention)


def _multiplied(model: ModelFacts) -> int:
    """Weights that inputs are multiplied with: all but embedding tables."""
    tables = model.hidden_size * (model.vocabulary + (model.max_positions or 0))
    return max(model.parameters - tables, 0)


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
