"""What is decided once per job: the gang on this engine, the batch split, the recipe, and runs.

The global batch is the manifest's in every case; only how it is split over ranks follows from the
machine, so that results don't depend on it. The gang and the split alone may change with a later
attempt.
"""

from dataclasses import dataclass

from finetune_api.datareport import ModelFacts
from finetune_api.digests import spec_digest
from finetune_api.footprint import Shape, memory_per_rank
from finetune_api.images import BatchNorm
from finetune_api.job import FineTuneJob
from finetune_api.lora import Method
from finetune_api.output import Output
from finetune_api.phases import ConditionType
from finetune_api.report import FailureClass, Step
from finetune_api.run import RUN_VERSION, SMOKE_STEPS, Gang, Run, RunTraining
from finetune_api.status import JobStatus, Resolved
from finetune_api.tasks import TASKS
from finetune_api.training import Offload, Precision, Truncation
from finetune_api.usage import JobReference
from finetune_operator.core.conditions import is_true
from finetune_operator.core.observed import EngineFacts

DEFAULT_ZERO_STAGE = 2
"""Shards the optimizer and the gradients."""
_WEIGHTS_TOO = 3
_LORA_LEARNING_RATE = 2e-4
_RECIPE_EPOCHS = 3.0
_SMOKE_BATCHES_OF_ROWS = 2 * SMOKE_STEPS
_SMOKE_NOTE = (
    f"a smoke run: {SMOKE_STEPS} steps on a sample, the gate is not applied, nothing is published"
)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How one rank works through its share of the global batch."""

    micro_batch_size: int
    accumulation_steps: int


def plan_batch(global_batch_size: int, ranks: int, max_micro_batch_size: int) -> BatchPlan:
    """The largest micro-batch that divides a rank's share and is no larger than allowed.

    Raises
    ------
    ValueError
        If the global batch can't be divided over the ranks.
    """
    share, rest = divmod(global_batch_size, ranks)
    if rest or share == 0:
        raise ValueError(
            f"training.globalBatchSize {global_batch_size} can't be divided over {ranks} ranks"
        )
    micro = max(
        size for size in range(1, min(share, max_micro_batch_size) + 1) if share % size == 0
    )
    return BatchPlan(micro_batch_size=micro, accumulation_steps=share // micro)


def map_gang(job: FineTuneJob, engine: EngineFacts) -> tuple[Gang, str]:
    """The gang as this engine runs it, and a note if that differs from the manifest.

    A cluster takes the manifest as it is. A machine with fewer devices runs the most ranks that it
    has and that divide the global batch.
    """
    compute = job.spec.compute
    per_worker = max(1, compute.gpus_per_worker)
    wanted = compute.workers * per_worker
    device = engine.device if compute.gpus_per_worker else "cpu"
    limit = wanted if engine.max_ranks is None else min(wanted, engine.max_ranks)
    ranks = max(n for n in range(1, limit + 1) if job.spec.training.global_batch_size % n == 0)
    workers = max(n for n in range(1, min(compute.workers, ranks) + 1) if ranks % n == 0)
    gang = Gang(workers=workers, ranks_per_worker=ranks // workers, device=device)
    if ranks == wanted and (device == "cuda" or not compute.gpus_per_worker):
        return gang, ""
    unit = "GPUs" if compute.gpus_per_worker else "CPU ranks"
    note = (
        f"{compute.workers} workers × {per_worker} {unit} run as {workers} × {ranks // workers} "
        f"{device} ranks on {engine.machine or 'this machine'}, at the same global batch of "
        f"{job.spec.training.global_batch_size}"
    )
    return gang, note


def resolve(job: FineTuneJob, engine: EngineFacts, *, smoke: bool) -> Resolved:
    """Fill what the manifest leaves open; the result is frozen in ``status.resolved``."""
    training = job.spec.training
    gang, note = map_gang(job, engine)
    batch = plan_batch(training.global_batch_size, gang.world_size, training.max_micro_batch_size)
    recipe = TASKS[job.spec.task]
    by_steps = smoke or training.max_steps is not None
    max_steps = min(SMOKE_STEPS, training.max_steps or SMOKE_STEPS) if smoke else training.max_steps
    precision = training.precision
    if precision is Precision.AUTO and gang.device == "cpu":
        precision = Precision.FP32
    return Resolved(
        contract_version=RUN_VERSION,
        spec_digest=spec_digest(job),
        workers=gang.workers,
        ranks_per_worker=gang.ranks_per_worker,
        device=gang.device,
        micro_batch_size=batch.micro_batch_size,
        accumulation_steps=batch.accumulation_steps,
        learning_rate=training.learning_rate or _recipe_learning_rate(job),
        epochs=None if by_steps else (training.epochs or _RECIPE_EPOCHS),
        max_steps=max_steps,
        max_length=training.max_length or recipe.max_length,
        truncation=(training.truncation or Truncation.DROP) if recipe.packs else None,
        packing=recipe.packs and training.packing is not False,
        precision=precision,
        zero_stage=job.spec.deepspeed.zero_stage,
        activation_checkpointing=training.activation_checkpointing,
        image=engine.image,
        smoke=smoke,
        note=_told(note, smoke=smoke),
    )


def _recipe_learning_rate(job: FineTuneJob) -> float:
    """The small matrices of LoRA begin at nothing, and want longer steps whatever the task."""
    if job.spec.model.method is Method.LORA:
        return _LORA_LEARNING_RATE
    return TASKS[job.spec.task].learning_rate


def resolved_for_next(job: FineTuneJob, engine: EngineFacts, status: JobStatus) -> Resolved:
    """What the next attempt runs with: today's gang, and a smaller footprint after running out.

    Once the model is known, what is sharded is decided here, where the manifest leaves it open,
    and the batch is split so that the device can hold it by the estimate.

    Raises
    ------
    ValueError
        If the job isn't admitted, and so nothing is resolved.
    """
    if status.resolved is None:
        raise ValueError("status.resolved is unset: the job isn't admitted")
    resolved = resized(job, engine, status.resolved)
    if resolved.zero_stage is None and status.model is not None:
        stage = zero_stage_that_fits(job, resolved, status.model, engine.device_memory_bytes)
        resolved = resolved.model_copy(update={"zero_stage": stage})
    trained = is_true(status.conditions, ConditionType.TRAINED)
    if status.model is not None and engine.device_memory_bytes is not None and not trained:
        resolved = fitted(job, resolved, status.model, engine.device_memory_bytes)
    last = status.attempts[-1] if status.attempts else None
    if last is None or last.reason != FailureClass.DEVICE_OOM:
        return resolved
    return smaller_footprint(resolved) or resolved


def zero_stage_that_fits(
    job: FineTuneJob, resolved: Resolved, model: ModelFacts, device_memory_bytes: int | None
) -> int:
    """The stage that shards least of those worth taking, if it fits the device; else the smaller.

    Stage 2 exchanges as much as none at all; stage 3 gathers the weights twice in each step, and
    what it gathers may take more than it shards.
    Of one rank nothing can be sharded.
    """
    if job.spec.deepspeed.offload is Offload.PARAMETERS:
        return _WEIGHTS_TOO
    if device_memory_bytes is None or resolved.workers * resolved.ranks_per_worker == 1:
        return DEFAULT_ZERO_STAGE
    needed = {}
    for stage in (DEFAULT_ZERO_STAGE, _WEIGHTS_TOO):
        at_stage = resolved.model_copy(update={"zero_stage": stage})
        needed[stage] = memory_needed(run_for(job, Step.TRAIN, at_stage, None), model)
    if needed[DEFAULT_ZERO_STAGE] <= device_memory_bytes:
        return DEFAULT_ZERO_STAGE
    return min(needed, key=lambda stage: needed[stage])


def fitted(
    job: FineTuneJob, resolved: Resolved, model: ModelFacts, device_memory_bytes: int
) -> Resolved:
    """The same global batch with the largest footprint that the device holds by the estimate.

    The smallest one if it holds none: an estimate alone refuses nobody, and running out ends the
    job with its own message.
    """
    while memory_needed(run_for(job, Step.TRAIN, resolved, None), model) > device_memory_bytes:
        smaller = smaller_footprint(resolved)
        if smaller is None:
            break
        resolved = smaller
    return resolved


def memory_needed(run: Run, model: ModelFacts) -> int:
    """Bytes of one rank's device that a training step takes by the estimate."""
    training = run.training
    precision = training.precision
    shape = Shape(
        zero_stage=training.zero_stage,
        world_size=run.gang.world_size,
        precision=Precision.BF16 if precision is Precision.AUTO else precision,
        micro_batch_size=training.micro_batch_size,
        accumulation_steps=training.accumulation_steps,
        sequence_length=training.max_length or 1,
        activation_checkpointing=training.activation_checkpointing,
        offload=training.offload,
    )
    return memory_per_rank(model, shape).total


def resized(job: FineTuneJob, engine: EngineFacts, resolved: Resolved) -> Resolved:
    """The same job on another gang, if ``compute.workers`` or a local machine's ranks changed.

    Only the split of the global batch follows. A micro-batch that was made smaller because memory
    ran out stays so, and the kind of device stays what was decided.
    """
    gang, note = map_gang(job, engine)
    before = (resolved.workers, resolved.ranks_per_worker)
    if (gang.workers, gang.ranks_per_worker) == before or gang.device != resolved.device:
        return resolved
    training = job.spec.training
    most = training.max_micro_batch_size
    planned = plan_batch(training.global_batch_size, before[0] * before[1], most)
    if resolved.micro_batch_size < planned.micro_batch_size:
        most = resolved.micro_batch_size
    batch = plan_batch(training.global_batch_size, gang.world_size, most)
    return resolved.model_copy(
        update={
            "workers": gang.workers,
            "ranks_per_worker": gang.ranks_per_worker,
            "micro_batch_size": batch.micro_batch_size,
            "accumulation_steps": batch.accumulation_steps,
            "note": _told(note, smoke=resolved.smoke),
        }
    )


def _told(note: str, *, smoke: bool) -> str:
    return "; ".join(part for part in (note, _SMOKE_NOTE if smoke else "") if part)


def smaller_footprint(resolved: Resolved) -> Resolved | None:
    """The same global batch in less memory, or None if there is no way left.

    First a smaller micro-batch, which costs least; at one row, activations are computed again.
    """
    share = resolved.micro_batch_size * resolved.accumulation_steps
    smaller = [n for n in range(1, resolved.micro_batch_size) if share % n == 0]
    if not smaller:
        if resolved.activation_checkpointing:
            return None
        return resolved.model_copy(update={"activation_checkpointing": True})
    micro = max(smaller)
    return resolved.model_copy(
        update={"micro_batch_size": micro, "accumulation_steps": share // micro}
    )


def gang_of(step: Step, resolved: Resolved) -> Gang:
    """Processes of a step: the whole gang trains, one process prepares and evaluates."""
    if step is Step.TRAIN:
        return Gang(
            workers=resolved.workers,
            ranks_per_worker=resolved.ranks_per_worker,
            device=resolved.device,
        )
    device = resolved.device if step is Step.EVALUATE else "cpu"
    return Gang(workers=1, ranks_per_worker=1, device=device)


def run_for(job: FineTuneJob, step: Step, resolved: Resolved, best_checkpoint: str | None) -> Run:
    """The run file of a step."""
    spec = job.spec
    dataset, evaluation = spec.dataset, spec.evaluation
    if resolved.smoke:
        rows = _SMOKE_BATCHES_OF_ROWS * spec.training.global_batch_size
        dataset = dataset.model_copy(update={"limit": min(rows, dataset.limit or rows)})
        # Twenty steps meet no requirement; what a smoke run proves is that the way is open.
        evaluation = evaluation.model_copy(update={"gate": ()})
    return Run(
        job=JobReference(
            namespace=job.metadata.namespace, name=job.metadata.name, uid=job.metadata.uid
        ),
        step=step,
        task=spec.task,
        model=spec.model,
        dataset=dataset,
        training=RunTraining(
            epochs=resolved.epochs,
            max_steps=resolved.max_steps,
            learning_rate=resolved.learning_rate,
            global_batch_size=spec.training.global_batch_size,
            micro_batch_size=resolved.micro_batch_size,
            accumulation_steps=resolved.accumulation_steps,
            scheduler=spec.training.scheduler,
            warmup_ratio=spec.training.warmup_ratio,
            weight_decay=spec.training.weight_decay,
            max_grad_norm=spec.training.max_grad_norm,
            precision=Precision(resolved.precision),
            activation_checkpointing=resolved.activation_checkpointing,
            compile=spec.training.compile,
            # A job that was admitted before these were frozen has the length in its spec.
            max_length=resolved.max_length
            or spec.training.max_length
            or TASKS[spec.task].max_length,
            truncation=Truncation(resolved.truncation) if resolved.truncation else None,
            packing=resolved.packing,
            dropout=spec.training.dropout,
            augmentation=spec.training.augmentation,
            batch_norm=spec.training.batch_norm or BatchNorm.FROZEN,
            evals_per_epoch=spec.training.evals_per_epoch,
            class_weights=spec.training.class_weights,
            sampling=spec.training.sampling,
            early_stopping=spec.training.early_stopping,
            health=spec.training.health,
            seed=spec.training.seed,
            zero_stage=_zero_stage(job, resolved),
            offload=spec.deepspeed.offload,
            checkpoint_every_steps=spec.checkpoint.every_steps,
            checkpoint_keep=spec.checkpoint.keep,
        ),
        evaluation=evaluation,
        output=output_of(job, resolved),
        credentials=spec.credentials,
        gang=gang_of(step, resolved),
        spec_digest=resolved.spec_digest,
        smoke=resolved.smoke,
        best_checkpoint=best_checkpoint,
    )


def output_of(job: FineTuneJob, resolved: Resolved) -> Output:
    """Where the model goes; that of a smoke run, held to no gate, goes nowhere."""
    return Output() if resolved.smoke else job.spec.output


def _zero_stage(job: FineTuneJob, resolved: Resolved) -> int:
    """What was decided; of a job that was admitted before that was frozen, what its spec says."""
    if resolved.zero_stage is not None:
        return resolved.zero_stage
    stage = job.spec.deepspeed.zero_stage
    if stage is not None:
        return stage
    return _WEIGHTS_TOO if job.spec.deepspeed.offload is Offload.PARAMETERS else DEFAULT_ZERO_STAGE
