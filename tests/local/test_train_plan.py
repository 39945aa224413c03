"""Which rows a step learns from, and when it is scored and saved: rules for any split and gang."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.training.cadence import Cadence
from finetune_trainer.training.plan import Balance, StepPlan


@st.composite
def plans(draw: st.DrawFn) -> StepPlan:
    ranks, micro, accumulation = (draw(st.integers(1, 5)) for _ in range(3))
    return StepPlan(
        rows=draw(st.integers(1, 300)),
        global_batch_size=ranks * micro * accumulation,
        micro_batch_size=micro,
        accumulation_steps=accumulation,
        world_size=ranks,
        seed=draw(st.integers(0, 2**31 - 1)),
    )


def rows_of_step(plan: StepPlan, step: int) -> list[int]:
    """Every row that some rank weighs in a step."""
    shares = (
        plan.micro_batch(step, micro, rank)
        for rank in range(plan.world_size)
        for micro in range(plan.accumulation_steps)
    )
    return [int(row) for share in shares for row in share.rows[share.real]]


@given(plans(), st.integers(0, 3))
def test_every_row_is_weighed_exactly_once_per_epoch(plan: StepPlan, epoch: int) -> None:
    first = epoch * plan.steps_per_epoch
    steps = range(first, first + plan.steps_per_epoch)
    counts = Counter(row for step in steps for row in rows_of_step(plan, step))
    assert counts == dict.fromkeys(range(plan.rows), 1)


@st.composite
def balanced_plans(draw: st.DrawFn) -> StepPlan:
    classes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=60))
    plan = draw(plans())
    return dataclasses.replace(plan, rows=len(classes), balance=Balance(np.asarray(classes)))


@given(balanced_plans(), st.integers(0, 3))
def test_a_balanced_epoch_has_as_many_rows_and_each_class_as_often(
    plan: StepPlan, epoch: int
) -> None:
    assert plan.balance is not None
    classes = plan.balance.classes
    first = epoch * plan.steps_per_epoch
    steps = range(first, first + plan.steps_per_epoch)
    drawn = [row for step in steps for row in rows_of_step(plan, step)]
    assert len(drawn) == plan.rows
    per_class = Counter(int(classes[row]) for row in drawn)
    present = set(classes.tolist())
    assert max(per_class.values()) - min(per_class[one] for one in present) <= 1
    times = Counter(drawn)
    for one in present:
        of_class = [times[row] for row in np.flatnonzero(classes == one).tolist()]
        assert max(of_class) - min(of_class) <= 1


@given(balanced_plans(), st.integers(0, 20))
def test_a_balanced_step_is_drawn_alike_by_every_process_on_any_gang(
    plan: StepPlan, step: int
) -> None:
    assert plan.balance is not None
    alone = StepPlan(
        rows=plan.rows,
        global_batch_size=plan.global_batch_size,
        micro_batch_size=plan.global_batch_size,
        accumulation_steps=1,
        world_size=1,
        seed=plan.seed,
        # Of another process, which has drawn nothing before.
        balance=Balance(plan.balance.classes.copy()),
    )
    assert sorted(rows_of_step(plan, step)) == sorted(rows_of_step(alone, step))


@given(plans(), st.integers(0, 50))
def test_a_step_learns_from_the_same_rows_on_any_gang(plan: StepPlan, step: int) -> None:
    alone = StepPlan(
        rows=plan.rows,
        global_batch_size=plan.global_batch_size,
        micro_batch_size=plan.global_batch_size,
        accumulation_steps=1,
        world_size=1,
        seed=plan.seed,
    )
    assert sorted(rows_of_step(plan, step)) == sorted(rows_of_step(alone, step))


@given(plans(), st.integers(0, 50))
def test_shapes_are_the_same_on_every_rank(plan: StepPlan, step: int) -> None:
    for rank in range(plan.world_size):
        for micro in range(plan.accumulation_steps):
            share = plan.micro_batch(step, micro, rank)
            assert share.rows.shape == share.real.shape == (plan.micro_batch_size,)


@given(plans())
def test_epochs_differ_in_order_and_a_seed_repeats_it(plan: StepPlan) -> None:
    again = StepPlan(**vars(plan))
    orders = [
        [int(row) for step in range(plan.steps_per_epoch) for row in p.global_batch(start + step)]
        for p, start in ((plan, 0), (again, 0), (plan, plan.steps_per_epoch))
    ]
    assert orders[0] == orders[1]
    if plan.rows > 20:
        assert orders[0] != orders[2]


def test_a_batch_that_ranks_cannot_share_evenly_is_refused() -> None:
    with pytest.raises(ValueError, match="not the global batch 16"):
        StepPlan(
            rows=10,
            global_batch_size=16,
            micro_batch_size=3,
            accumulation_steps=2,
            world_size=2,
            seed=0,
        )


@st.composite
def cadences(draw: st.DrawFn) -> Cadence:
    return Cadence(
        total_steps=draw(st.integers(1, 120)),
        steps_per_epoch=draw(st.integers(1, 40)),
        evals_per_epoch=draw(st.integers(1, 50)),
        checkpoint_every_steps=draw(st.integers(1, 60)),
    )


@given(cadences())
def test_each_epoch_is_scored_as_often_as_asked_or_after_each_step(cadence: Cadence) -> None:
    per_epoch = min(cadence.evals_per_epoch, cadence.steps_per_epoch)
    for epoch in range(cadence.total_steps // cadence.steps_per_epoch):
        first = epoch * cadence.steps_per_epoch + 1
        steps = range(first, first + cadence.steps_per_epoch)
        assert sum(cadence.evaluates_at(step) for step in steps) == per_epoch
        assert cadence.evaluates_at(steps[-1])


@given(cadences())
def test_the_last_step_is_scored_and_saved(cadence: Cadence) -> None:
    assert cadence.evaluates_at(cadence.total_steps)
    assert cadence.saves_at(cadence.total_steps)
    assert cadence.remaining_evaluations(cadence.total_steps) == 0
    assert cadence.remaining_checkpoints(cadence.total_steps) == 0


@given(cadences(), st.data())
def test_what_remains_is_what_will_come(cadence: Cadence, data: st.DataObject) -> None:
    done = data.draw(st.integers(0, cadence.total_steps))
    ahead = range(done + 1, cadence.total_steps + 1)
    scored = [step for step in ahead if cadence.evaluates_at(step)]
    saved = [step for step in ahead if cadence.saves_at(step) or step in scored]
    assert cadence.remaining_evaluations(done) == len(scored)
    assert len(saved) <= cadence.remaining_checkpoints(done) <= len(ahead)


def test_evaluations_are_spread_evenly() -> None:
    cadence = Cadence(
        total_steps=25, steps_per_epoch=10, evals_per_epoch=3, checkpoint_every_steps=100
    )
    due = [step for step in range(1, 26) if cadence.evaluates_at(step)]
    assert due == [math.ceil(10 * k / 3) for k in (1, 2, 3)] + [14, 17, 20, 24, 25]


@given(plans(), st.integers(0, 50))
def test_what_fills_a_batch_up_is_its_rows_in_turn(plan: StepPlan, step: int) -> None:
    """So that what is computed over a micro-batch (batch normalization) is not of one row alone."""
    batch = plan.global_batch(step)
    fillers = Counter(
        int(row)
        for rank in range(plan.world_size)
        for micro in range(plan.accumulation_steps)
        for share in [plan.micro_batch(step, micro, rank)]
        for row in share.rows[~share.real]
    )
    assert fillers.keys() <= set(batch.tolist())
    spread = [fillers[int(row)] for row in batch]
    assert max(spread) - min(spread) <= 1
