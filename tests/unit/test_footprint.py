"""Memory, disk and arithmetic of a fine-tune: by hand for one model, and as rules for all."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api import footprint
from finetune_api.datareport import ModelFacts, Moment
from finetune_api.footprint import Shape, memory_per_rank
from finetune_api.training import Offload, Precision


def facts(**changes: Any) -> ModelFacts:
    """Give a model of round numbers: 10,000 parameters, of which 6,400 in tables."""
    known = {
        "parameters": 10_000,
        "trainable_parameters": 10_000,
        "layers": 2,
        "hidden_size": 8,
        "intermediate_size": 32,
        "attention_heads": 2,
        "vocabulary": 700,
        "max_positions": 100,
        "classes": 3,
    } | changes
    return ModelFacts.model_validate({"architecture": "Round", "model_type": "round", **known})


def shape(stage: int = 0, world: int = 1, precision: Precision = Precision.BF16) -> Shape:
    return Shape(
        zero_stage=stage,
        world_size=world,
        precision=precision,
        micro_batch_size=4,
        sequence_length=16,
    )


def traced(*moments: tuple[int, int, bool], element: int = 2, **changes: Any) -> ModelFacts:
    """Give the same model with the moments of a step: bytes per row, fixed ones, exchanging."""
    trace = {
        "element": element,
        "recomputed": False,
        "tokens": 16,
        "moments": [
            {"row_bytes": row, "fixed_bytes": fixed, "exchanging": exchanging}
            for row, fixed, exchanging in moments
        ],
    }
    return facts(trace=trace, **changes)


# bf16: 2 bytes of weights and 12 of optimizer per parameter. fp32: 4 and 8, and 4 more for ZeRO's
# own copy. Stage 3 has gathered all, for this is a small model, unless there is but one rank; it
# keeps its share of the gradients, and its bucket.
@pytest.mark.parametrize(
    ("stage", "world", "precision", "weights", "gathered", "optimizer", "gradients", "bucket"),
    [
        (0, 1, Precision.BF16, 20_000, 0, 120_000, 0, 0),
        (0, 4, Precision.BF16, 20_000, 0, 120_000, 0, 0),
        (1, 4, Precision.BF16, 20_000, 0, 30_000, 0, 0),
        (2, 4, Precision.BF16, 20_000, 0, 30_000, 0, 0),
        (3, 4, Precision.BF16, 5_000, 20_000, 30_000, 5_000, 20_000),
        (3, 1, Precision.BF16, 20_000, 0, 120_000, 20_000, 20_000),
        (0, 4, Precision.FP32, 40_000, 0, 80_000, 0, 0),
        (1, 4, Precision.FP32, 40_000, 0, 30_000, 0, 0),
        (2, 4, Precision.FP32, 40_000, 0, 30_000, 0, 0),
        (3, 4, Precision.FP32, 10_000, 40_000, 30_000, 10_000, 40_000),
    ],
)
def test_at_the_end_of_the_forward_pass_there_are_activations_and_no_gradients_yet(
    stage: int,
    world: int,
    precision: Precision,
    weights: int,
    gathered: int,
    optimizer: int,
    gradients: int,
    bucket: int,
) -> None:
    model = traced((1_000_000, 0, False), element=2 if precision is Precision.BF16 else 4)
    memory = memory_per_rank(model, shape(stage, world, precision))
    assert (memory.weights, memory.gathered, memory.optimizer) == (weights, gathered, optimizer)
    assert (memory.gradients, memory.buckets, memory.scratch) == (gradients, bucket, 0)
    assert memory.activations == 4 * 1_000_000


# With few rows the peak comes late. Gradients, buckets and scratch: without ZeRO all gradients and
# a flat copy, or in 16 bit their fp32 copy in the update; stages 1 and 2 a bucket, what is in it,
# and their share; stage 3 its share, a bucket and two copies of it. At bf16 the update of 1 rank
# holds a flat and a widened copy of all: 20,000 + 40,000.
@pytest.mark.parametrize(
    ("stage", "world", "precision", "late"),
    [
        (0, 1, Precision.FP32, 40_000),
        (0, 2, Precision.FP32, 40_000 + 40_000),
        (0, 1, Precision.BF16, 20_000 + 40_000),
        (1, 2, Precision.FP32, 40_000 + 40_000 + 20_000),
        (2, 2, Precision.BF16, 20_000 + 20_000 + 10_000),
        (2, 1, Precision.BF16, 20_000 + 20_000 + 40_000),
        (3, 2, Precision.FP32, 20_000 + 40_000 + 80_000),
    ],
)
def test_with_few_rows_the_exchange_or_the_update_is_the_peak(
    stage: int, world: int, precision: Precision, late: int
) -> None:
    model = traced((1, 0, False), element=2 if precision is Precision.BF16 else 4)
    memory = memory_per_rank(model, shape(stage, world, precision))
    assert memory.gradients + memory.buckets + memory.scratch == late
    assert memory.activations == 0


def test_the_fullest_moment_of_a_step_is_its_peak_and_not_the_sum_of_all() -> None:
    # Logits first, then the layer that is computed again beside gradients.
    model = traced((100_000, 0, False), (20_000, 300_000, True))
    assert memory_per_rank(model, shape()).activations == 4 * 100_000
    fewer = memory_per_rank(model, replace(shape(), micro_batch_size=3))
    assert (fewer.activations, fewer.gradients) == (60_000, 300_000)


def test_rows_of_another_length_than_the_traced_ones_take_their_share() -> None:
    model = traced((100_000, 0, False))
    half = memory_per_rank(model, replace(shape(), sequence_length=8))
    assert half.activations == 4 * 50_000


def test_a_trace_of_another_kind_is_taken_as_the_formula_says_they_differ() -> None:
    model = traced((100_000, 600, False), element=4)
    many = replace(shape(), micro_batch_size=MANY)
    found = memory_per_rank(model, many)
    ratio = formula() / formula(Precision.FP32)
    assert found.activations == pytest.approx(MANY * 100_000 * ratio, rel=1e-4)
    assert found.gradients == 300
    again = memory_per_rank(
        traced((100_000, 0, False)), replace(many, activation_checkpointing=True)
    )
    ratio = formula(again=True) / formula()
    assert again.activations == pytest.approx(MANY * 100_000 * ratio, rel=1e-4)


# Stage 1 exchanges with the last micro-batch, stage 2 with each one.
@pytest.mark.parametrize(("stage", "kept"), [(0, 20_000), (1, 20_000), (2, 10_000)])
def test_gradients_of_earlier_micro_batches_stay(stage: int, kept: int) -> None:
    model = traced((1_000_000, 0, False))
    one = replace(shape(stage, 2), accumulation_steps=2)
    assert memory_per_rank(model, one).gradients == kept


def test_stage_3_gathers_no_more_than_deepspeeds_bound() -> None:
    many = traced((10**12, 0, False), parameters=8 * 10**9, trainable_parameters=8 * 10**9)
    assert memory_per_rank(many, shape(3, 4)).gathered == 2 * 10**9


def test_what_is_kept_until_the_last_weight_is_used_stands_beside_stage_3s_two_copies() -> None:
    # Four rows of 30 kB, and all weights twice, 20 kB each: more than the passes' 100 kB.
    model = traced((25_000, 0, False))
    assert model.trace is not None
    late = Moment(row_bytes=30_000, fixed_bytes=8, exchanging=False)
    trace = model.trace.model_copy(update={"last_gathered": late})
    found = memory_per_rank(model.model_copy(update={"trace": trace}), shape(3, 4))
    assert (found.activations, found.gathered, found.scratch) == (120_008, 20_000, 20_000)


def test_an_untraced_model_keeps_all_its_activations_until_its_last_weight() -> None:
    model = facts()
    found = memory_per_rank(model, shape(3, 4))
    assert found.scratch == found.gathered == 20_000
    assert found.activations == 4 * footprint._activations_per_row(model, shape(3, 4))


MANY = 1_000
"""Rows, so that activations are the peak."""


def formula(precision: Precision = Precision.BF16, layers: int = 2, *, again: bool = False) -> int:
    """Give the bytes per row of a model that could not be traced."""
    one = replace(shape(precision=precision), micro_batch_size=MANY, activation_checkpointing=again)
    return memory_per_rank(facts(layers=layers), one).activations // MANY


# One layer keeps, per token, 8 h + 2 i = 128 numbers, 2 h = 16 bytes of masks and 4 bytes for each
# of 2 heads; the embedding 2 h = 16 numbers and 8 bytes. 16 tokens. Three outputs, with their
# gradients, in the pass's precision and in fp32.
@pytest.mark.parametrize(
    ("precision", "per_layer", "embedding", "outputs"),
    [
        (Precision.BF16, 256 + 16 + 8, 32 + 8, 3 * (2 * 2 + 2 * 4)),
        (Precision.FP32, 512 + 16 + 8, 64 + 8, 3 * (2 * 4 + 2 * 4)),
    ],
)
def test_untraced_activations_are_those_worked_out_by_hand(
    precision: Precision, per_layer: int, embedding: int, outputs: int
) -> None:
    assert formula(precision) == 16 * (2 * per_layer + embedding) + outputs


def test_activations_of_a_layer_are_the_papers_34_h_besides_the_scores() -> None:
    # Korthikanti et al.: 34 s b h + 5 a s² b; here one fp32 number per head and token instead.
    assert formula(layers=2) - formula(layers=1) == 34 * 16 * 8 + 4 * 2 * 16


def test_recomputed_activations_are_a_layers_inputs_and_one_layer_whole() -> None:
    assert formula(again=True) == 16 * (2 * 8 * 2 + (256 + 16 + 8) + 32 + 8) + 3 * 12


def test_what_is_offloaded_is_not_on_the_device() -> None:
    model = traced((1_000_000, 0, False))
    states = replace(shape(2, 4), offload=Offload.OPTIMIZER)
    memory = memory_per_rank(model, states)
    assert (memory.weights, memory.gradients, memory.optimizer) == (20_000, 0, 0)
    memory = memory_per_rank(model, replace(shape(3, 4), offload=Offload.PARAMETERS))
    assert (memory.weights, memory.gathered) == (0, 20_000)
    assert (memory.gradients, memory.optimizer) == (0, 0)
    with pytest.raises(ValueError, match="offload of parameters needs zero_stage 3"):
        replace(shape(2, 4), offload=Offload.PARAMETERS)


def test_the_total_is_the_sum_with_a_tenth_and_the_runtime() -> None:
    memory = memory_per_rank(traced((1_000_000, 0, False)), shape())
    held = 140_000 + 4_000_000
    assert memory.fragmentation == pytest.approx(held / 10, abs=1)
    assert memory.total == held + memory.fragmentation + (1 << 30)


def test_eight_billion_parameters_do_not_fit_an_80_gb_device_alone_but_four_share_them() -> None:
    large = ModelFacts(
        architecture="Llama",
        model_type="llama",
        parameters=8_030_000_000,
        trainable_parameters=8_030_000_000,
        layers=32,
        hidden_size=4096,
        intermediate_size=14_336,
        attention_heads=32,
        vocabulary=128_256,
        classes=2,
    )
    one = Shape(
        zero_stage=3,
        world_size=1,
        precision=Precision.BF16,
        micro_batch_size=1,
        sequence_length=1024,
    )
    assert memory_per_rank(large, one).total > 128e9
    assert memory_per_rank(large, replace(one, world_size=4)).total < 80e9


def test_operations_of_a_step_are_those_worked_out_by_hand() -> None:
    # 10,000 - 8 x (700 + 100) = 3,600 weights are multiplied; attention: 12 x 2 x 8 x 16.
    found = footprint.step_flops(facts(), global_batch_size=5, sequence_length=16)
    assert found == 5 * 16 * (6 * 3_600 + 3_072)
    # A third of it goes forward.
    assert footprint.forward_flops(facts(), rows=5, sequence_length=16) == found // 3


def test_what_is_trained_beside_frozen_weights_is_held_and_computed_as_well() -> None:
    # LoRA: 100 numbers beside 10,000. Of the frozen ones only the weights, 2 bytes each, are held.
    memory = memory_per_rank(traced((1_000, 0, False), trainable_parameters=100), shape(2, 4))
    assert (memory.weights, memory.optimizer) == (20_200, 300)
    step = footprint.step_flops(
        facts(trainable_parameters=100), global_batch_size=5, sequence_length=16
    )
    assert step == 5 * 16 * (4 * 3_600 + 6 * 100 + 3_072)
    assert footprint.checkpoint_bytes(facts(trainable_parameters=100), shape(2, 4)) == 1_600


def test_seconds_are_operations_over_what_all_ranks_sustain() -> None:
    assert footprint.step_seconds(6_000, ranks=3, sustained_flops=500.0) == 4.0
    with pytest.raises(ValueError, match="do nothing"):
        footprint.step_seconds(6_000, ranks=0, sustained_flops=500.0)


def test_a_checkpoint_takes_16_bytes_per_parameter_in_bf16() -> None:
    assert footprint.checkpoint_bytes(facts(), shape(2, 4)) == 160_000
    assert footprint.checkpoint_bytes(facts(), shape(2, 4, Precision.FP32)) == 200_000
    assert footprint.checkpoint_bytes(facts(), shape(0, 4, Precision.FP32)) == 160_000
    assert footprint.checkpoints_bytes(facts(), shape(2, 4), keep=2) == 640_000


def test_rank_zero_gathers_the_whole_model_to_save_it() -> None:
    assert footprint.rank_zero_host_bytes(facts(), shape(3, 4)) == 20_000
    assert footprint.rank_zero_host_bytes(facts(), shape(3, 4, Precision.FP32)) == 40_000


models = st.builds(
    lambda parameters, layers, heads, width, inner, vocabulary: facts(
        parameters=parameters,
        trainable_parameters=parameters,
        layers=layers,
        attention_heads=heads,
        hidden_size=heads * width,
        intermediate_size=inner,
        vocabulary=vocabulary,
    ),
    st.integers(1, 10**12),
    st.integers(1, 100),
    st.integers(1, 64),
    st.integers(1, 128),
    st.integers(1, 50_000),
    st.integers(1, 300_000),
)
shapes = st.builds(
    lambda stage, world, precision, batch, length: Shape(
        zero_stage=stage,
        world_size=world,
        precision=precision,
        micro_batch_size=batch,
        sequence_length=length,
    ),
    st.integers(0, 3),
    st.integers(1, 1024),
    st.sampled_from([Precision.FP32, Precision.BF16]),
    st.integers(1, 512),
    st.integers(1, 8192),
)


@given(models, shapes)
def test_more_rows_or_longer_ones_never_take_less(model: ModelFacts, one: Shape) -> None:
    total = memory_per_rank(model, one).total
    for larger in (
        replace(one, micro_batch_size=one.micro_batch_size + 1),
        replace(one, sequence_length=one.sequence_length + 1),
    ):
        assert memory_per_rank(model, larger).total >= total


@given(models, shapes.filter(lambda one: one.world_size > 1))
def test_sharding_gradients_never_takes_more_on_a_rank(model: ModelFacts, one: Shape) -> None:
    # Without ZeRO there is no buffer, and in fp32 no second copy; stage 3 gathers, and keeps its
    # buffer: with few ranks or a small model these may take more than is shared.
    totals = [memory_per_rank(model, replace(one, zero_stage=stage)).total for stage in (2, 1)]
    assert totals == sorted(totals)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_sharding_weights_pays_where_weights_are_most_of_it(precision: Precision) -> None:
    large = facts(parameters=8 * 10**9, trainable_parameters=8 * 10**9)
    two, three = (memory_per_rank(large, shape(stage, 8, precision)).total for stage in (2, 3))
    assert three < 0.7 * two


@pytest.mark.parametrize(
    ("stage", "trained", "elements"),
    [(0, 1000, 0), (1, 1000, 1000), (3, 999, 1000), (2, 8_000_000_000, 50_000_000)],
)
def test_gradients_are_exchanged_from_a_buffer_no_larger_than_they_are(
    stage: int, trained: int, elements: int
) -> None:
    model = traced((10**12, 0, True), parameters=trained, trainable_parameters=trained)
    assert memory_per_rank(model, shape(stage)).buckets == 2 * elements


@given(models, shapes.filter(lambda one: one.world_size > 1))
def test_more_ranks_never_take_more_on_each(model: ModelFacts, one: Shape) -> None:
    more = replace(one, world_size=2 * one.world_size)
    # Shares are rounded up, and what is gathered comes from more ranks.
    assert memory_per_rank(model, more).total <= memory_per_rank(model, one).total + 2


@given(models, shapes)
def test_with_one_rank_stages_1_and_2_share_nothing(model: ModelFacts, one: Shape) -> None:
    alone = replace(one, world_size=1, accumulation_steps=1)
    first, second = (memory_per_rank(model, replace(alone, zero_stage=stage)) for stage in (1, 2))
    assert first == second
    without = memory_per_rank(model, replace(alone, zero_stage=0))
    copy = 4 * model.trainable_parameters if one.precision is Precision.FP32 else 0
    assert first.optimizer - without.optimizer == copy


@given(models, shapes)
def test_bf16_never_takes_more_than_fp32_under_zero(model: ModelFacts, one: Shape) -> None:
    half = memory_per_rank(model, replace(one, precision=Precision.BF16, zero_stage=2))
    full = memory_per_rank(model, replace(one, precision=Precision.FP32, zero_stage=2))
    assert half.total < full.total


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": Precision.AUTO},
        {"zero_stage": 4},
        {"zero_stage": -1},
        {"world_size": 0},
        {"micro_batch_size": 0},
        {"sequence_length": 0},
        {"accumulation_steps": 0},
    ],
)
def test_what_is_not_resolved_has_no_footprint(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(shape(), **changes)


IMAGES = {"activations": 5_000, "recomputed_activations": 1_200, "forward_flops": 70_000}


def test_what_an_image_costs_is_what_was_counted_on_the_models_shapes() -> None:
    model = facts(image=IMAGES, vocabulary=0, attention_heads=0, intermediate_size=0)
    many = replace(shape(), micro_batch_size=MANY)
    outputs = 3 * (2 * 2 + 2 * 4)
    kept = memory_per_rank(model, many).activations
    assert kept == MANY * (5_000 * 2 + outputs), "two bytes a number"
    again = replace(many, activation_checkpointing=True)
    assert memory_per_rank(model, again).activations == MANY * (1_200 * 2 + outputs)
    unable = facts(image=IMAGES | {"recomputed_activations": None})
    assert memory_per_rank(unable, again).activations == kept
    flops = footprint.step_flops(model, global_batch_size=8, sequence_length=1)
    assert flops == 8 * 3 * 70_000
    adapted = model.model_copy(update={"trainable_parameters": 100})
    assert footprint.step_flops(adapted, global_batch_size=8, sequence_length=1) == 8 * 2 * 70_000
