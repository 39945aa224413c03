"""Where a job is, when rank 0 was last heard before it had counted its steps."""

from finetune_api.phases import ConditionType, Reason
from finetune_api.status import JobStatus, ProgressStatus
from finetune_operator.core.conditions import with_condition
from finetune_operator.core.observed import EngineFacts, Observed
from finetune_operator.core.outlook import with_progress
from finetune_operator.core.resolve import resolve
from harness.scripted import START, a_job, prepared


def test_a_short_training_ends_with_its_steps_counted() -> None:
    job = a_job(training={"maxSteps": 10, "globalBatchSize": 32})
    engine = EngineFacts(device="cpu", max_ranks=2)
    conditions = with_condition(
        (), ConditionType.TRAINED, "True", Reason.TRAINED, "", now=START, generation=1
    )
    status = JobStatus(
        conditions=conditions,
        resolved=resolve(job, engine, smoke=False),
        data=prepared().data,
        progress=ProgressStatus(step=0, total_steps=0, percent="0%"),
    )
    progress = with_progress(status, Observed(job=job, engine=engine), START).progress
    assert progress is not None
    assert (progress.step, progress.total_steps, progress.percent) == (10, 10, "100%")
