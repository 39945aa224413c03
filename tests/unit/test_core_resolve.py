"""How a batch is split: as the manifest says, and so that a device can hold it."""

from hypothesis import given
from hypothesis import strategies as st

from finetune_api.datareport import ModelFacts
from finetune_api.phases import ConditionType
from finetune_api.report import Step
from finetune_api.status import Condition, JobStatus, Resolved
from finetune_operator.core.observed import EngineFacts
from finetune_operator.core.resolve import (
    memory_needed,
    resolve,
    resolved_for_next,
    run_for,
    smaller_footprint,
)
from harness.scripted import a_job

JOB = a_job(deepspeed={"zeroStage": 2}, training={"maxLength": 512})
MODEL = ModelFacts(
    architecture="BertForSequenceClassification",
    model_type="bert",
    parameters=110_000_000,
    trainable_parameters=110_000_000,
    layers=12,
    hidden_size=768,
    intermediate_size=3072,
    attention_heads=12,
    vocabulary=30_000,
    max_positions=512,
    classes=2,
)
ASKED = resolve(JOB, EngineFacts(device="cuda"), smoke=False)
TRAINED = Condition(
    type=ConditionType.TRAINED,
    status="True",
    reason="Trained",
    message="",
    last_transition_time="2026-01-01T00:00:00Z",
)


def ladder() -> list[Resolved]:
    """All footprints, the largest first."""
    steps = [ASKED]
    while (smaller := smaller_footprint(steps[-1])) is not None:
        steps.append(smaller)
    return steps


def needed(resolved: Resolved) -> int:
    """Bytes of a rank's device."""
    return memory_needed(run_for(JOB, Step.TRAIN, resolved, None), MODEL)


LADDER = ladder()
SMALLEST, LARGEST = needed(LADDER[-1]), needed(LADDER[0])


def taken(device: int | None, **status: object) -> Resolved:
    """What the next attempt runs with on devices of so many bytes."""
    known = JobStatus.model_validate({"resolved": ASKED, "model": MODEL, **status})
    return resolved_for_next(JOB, EngineFacts(device="cuda", device_memory_bytes=device), known)


@given(device=st.integers(SMALLEST, 2 * LARGEST))
def test_the_largest_footprint_that_the_device_holds_is_taken(device: int) -> None:
    assert taken(device) == next(one for one in LADDER if needed(one) <= device)


@given(device=st.integers(1, 2 * LARGEST))
def test_the_global_batch_stays(device: int) -> None:
    resolved = taken(device)
    ranks = resolved.workers * resolved.ranks_per_worker
    split = resolved.micro_batch_size * resolved.accumulation_steps * ranks
    assert split == JOB.spec.training.global_batch_size


def test_a_device_that_holds_none_is_tried_with_the_smallest() -> None:
    assert taken(SMALLEST - 1) == LADDER[-1]


def test_an_unknown_device_and_a_finished_training_change_nothing() -> None:
    assert taken(None) == ASKED
    assert taken(SMALLEST, conditions=(TRAINED,)) == ASKED
