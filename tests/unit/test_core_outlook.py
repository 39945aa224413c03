"""Where a job is and what is left of it, from what rank 0 tells now and told before."""

from typing import Literal

from finetune_api.phases import ConditionType, Reason
from finetune_api.report import Progress, Step
from finetune_api.status import AttemptStatus, Estimate, JobStatus, ProgressStatus
from finetune_operator.core.conditions import with_condition
from finetune_operator.core.observed import EngineFacts, Observed
from finetune_operator.core.outlook import with_progress
from finetune_operator.core.resolve import resolve
from harness.scripted import START, a_job, prepared
from unit.builders_cost import some_marks


def test_a_training_that_stopped_early_stays_at_its_own_steps() -> None:
    job = a_job(training={"maxSteps": 10, "globalBatchSize": 32})
    engine = EngineFacts(device="cpu", max_ranks=2)
    conditions = with_condition(
        (), ConditionType.TRAINED, "True", Reason.TRAINED, "", now=START, generation=1
    )
    status = JobStatus(
        conditions=conditions,
        resolved=resolve(job, engine, smoke=False),
        data=prepared().data,
        progress=ProgressStatus(step=4, total_steps=4, percent="100%"),
    )
    progress = with_progress(status, Observed(job=job, engine=engine), START).progress
    assert progress is not None
    assert (progress.step, progress.total_steps, progress.percent) == (4, 4, "100%")


EARLIER = AttemptStatus(
    number=2,
    step=Step.TRAIN,
    state="Ended",
    marks=some_marks(
        started_at=5, first_step_at=20, last_step_at=60, last_step=21, checkpoint_step=16
    ),
)
"""An attempt that needed 15 s to its first step and 2 s for each other one."""


def outlook(*attempts: AttemptStatus, progress: Progress | None = None) -> Estimate:
    estimate = looked_at(*attempts, progress=progress).estimate
    assert estimate is not None
    return estimate


def looked_at(*attempts: AttemptStatus, progress: Progress | None) -> JobStatus:
    job = a_job(training={"maxSteps": 100, "globalBatchSize": 32})
    engine = EngineFacts(device="cpu", max_ranks=2)
    status = JobStatus(
        attempt=attempts[-1].number,
        attempts=attempts,
        resolved=resolve(job, engine, smoke=False),
        data=prepared().data,
    )
    observed = Observed(job=job, engine=engine, progress=progress)
    return with_progress(status, observed, START)


def resumed(state: Literal["Starting", "Running", "Stopping"] = "Running") -> AttemptStatus:
    return AttemptStatus(number=3, step=Step.TRAIN, state=state)


def test_a_resumed_training_is_forecast_by_the_attempt_before_until_it_measures_itself() -> None:
    silent = outlook(EARLIER, resumed())
    assert (silent.remaining_seconds_p50, silent.remaining_seconds_p90) == (183, 351)
    loading = Progress(pod_uid="pod", attempt=3, step=0, total_steps=0)
    assert outlook(EARLIER, resumed(), progress=loading) == silent
    counted = Progress(pod_uid="pod", attempt=3, step=16, total_steps=100)
    assert outlook(EARLIER, resumed(), progress=counted) == silent
    measured = counted.model_copy(update={"step": 50, "seconds_per_step": 1.0})
    assert outlook(EARLIER, resumed(), progress=measured).remaining_seconds_p50 == 50


def test_a_first_start_and_pods_that_do_not_run_yet_are_not_guessed_at() -> None:
    assert outlook(resumed()).remaining_seconds_p50 is None
    assert outlook(EARLIER, resumed("Starting")).remaining_seconds_p50 is None
    assert outlook(EARLIER).remaining_seconds_p50 is None


def test_the_loss_in_the_status_is_short_enough_for_a_column() -> None:
    told = Progress(pod_uid="pod", attempt=3, step=50, total_steps=100, loss=0.5379865914583206)
    progress = looked_at(resumed(), progress=told).progress
    assert progress is not None
    assert progress.loss == 0.538
