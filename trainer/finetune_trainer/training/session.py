"""One rank's training, from the process group to the last barrier. Reads as the story it is.

``rank`` calls it once the process is safe to interrupt; everything heavy is imported from here.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
from peft import PeftModel
from pydantic import ValidationError
from transformers import PreTrainedModel, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from finetune_api.balance import Sampling
from finetune_api.datareport import PrepareReport
from finetune_api.report import ExitCode, Failure
from finetune_api.run import LAYOUT, Run, RunTraining, total_steps
from finetune_trainer.data.sources import model_folder
from finetune_trainer.environment import RankEnvironment, Workspace
from finetune_trainer.errors import DataError, UsageError
from finetune_trainer.models.load import load_model
from finetune_trainer.models.lora import adapt
from finetune_trainer.models.processors import load_processor
from finetune_trainer.reporting.events import Event, Finished, Staged
from finetune_trainer.reporting.tensorboard import TensorBoardFiles
from finetune_trainer.tasks.registry import FORMS
from finetune_trainer.training.augmentation import Variation
from finetune_trainer.training.batch_norm import Norms
from finetune_trainer.training.boundary import Boundary, Parts
from finetune_trainer.training.cadence import Cadence
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.class_weights import class_weights
from finetune_trainer.training.deepspeed_config import join_process_group
from finetune_trainer.training.gang import Gang, backend_of, claim_device, process_group
from finetune_trainer.training.image_batches import ImageBatches
from finetune_trainer.training.language_rows import LanguageBatches, PackedRows, PackedStream
from finetune_trainer.training.manifest import Identity
from finetune_trainer.training.packing import PackedPlan
from finetune_trainer.training.packing_proof import keeps_rows_apart
from finetune_trainer.training.place import Place
from finetune_trainer.training.plan import Balance, StepPlan
from finetune_trainer.training.resume import Resume, choose, clear_torn
from finetune_trainer.training.rows import Collation, PreparedRows, StepStream
from finetune_trainer.training.signs import SignsOfWork
from finetune_trainer.training.stop import StopRequest
from finetune_trainer.training.trainer import FineTuneTrainer, training_arguments

_GPU_PADDING_MULTIPLE = 8


def train(
    environment: RankEnvironment,
    run: Run,
    place: Place,
    stop: StopRequest,
    say: Callable[[Event], None],
    end: Callable[[Failure], None] | None = None,
) -> ExitCode:
    """Train until the end or until a stop is agreed on; the exit code says which.

    ``end`` leaves the process where it waits in vain and no error can be raised.

    Raises
    ------
    TrainerError
        What the run, its rows, its model or the machine lacks.
    """
    _quiet_libraries()
    if place.is_first:
        say = _also_for_tensorboard(say, environment)
    device = claim_device(run.gang.device, place)
    step_timeout = timedelta(seconds=environment.collective_seconds)
    with process_group(place, device, step_timeout=step_timeout, end=end) as gang:
        join_process_group(backend_of(device))
        report = read_prepare_report(environment.workspace)
        signs = SignsOfWork(say)
        store, resume = _open_checkpoints(environment, run, gang, report, signs)
        if gang.any(stop.requested):
            return ExitCode.STOPPED
        trainer, boundary = _assemble(
            environment, run, gang, report, store, resume, stop, say, signs
        )
        if gang.any(stop.requested):
            return ExitCode.STOPPED
        # A resumed attempt takes up each rank's own numbers instead, if there are as many ranks.
        set_seed(rank_seed(run.training.seed, boundary.first_step, place.rank))
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
        if boundary.stopped:
            return ExitCode.STOPPED
        if boundary.result is not None:
            say(Finished(result=boundary.result))
        say(Staged(stage="done"))
    return ExitCode.DONE


def _also_for_tensorboard(
    say: Callable[[Event], None], environment: RankEnvironment
) -> Callable[[Event], None]:
    files = TensorBoardFiles(
        environment.workspace.path(LAYOUT.tensorboard), attempt=environment.attempt
    )

    def say_to_both(event: Event) -> None:
        say(event)
        files.hear(event)

    return say_to_both


def rank_seed(seed: int, step: int, rank: int) -> int:
    """What a rank's random numbers (dropout) begin with at a step: no two ranks, no two beginnings.

    At step 0, and where a gang of another size takes up a checkpoint.
    """
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])


def _quiet_libraries() -> None:
    """Leave out what the libraries say about things that are checked or settled here."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # It holds its own accumulation, which the Trainer sets to 1, against DeepSpeed's.
    logging.getLogger("accelerate").setLevel(logging.ERROR)


def read_prepare_report(workspace: Workspace) -> PrepareReport:
    """The prepare step's report, for the labels and the split's digest.

    Raises
    ------
    DataError
        If there is none, or none of this version.
    """
    path = workspace.path(LAYOUT.prepare_report)
    try:
        return PrepareReport.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no prepared data; run the prepare step first") from error
    except ValidationError as error:
        raise DataError(
            f"{path}: not a report of this version's prepare step; run the prepare step again"
        ) from error


def _open_checkpoints(
    environment: RankEnvironment, run: Run, gang: Gang, report: PrepareReport, signs: SignsOfWork
) -> tuple[CheckpointStore, Resume | None]:
    """The store of this attempt, and where it goes on; rank 0 looks, for all see the same then."""
    identity = Identity(
        spec_digest=run.spec_digest,
        split_digest=report.data.split_digest,
        world_size=gang.place.world_size,
    )
    store = CheckpointStore(
        environment.workspace,
        gang,
        identity,
        signs,
        attempt=environment.attempt,
        keep=run.training.checkpoint_keep,
    )
    resume: Resume | None = None
    if gang.place.is_first:
        clear_torn(store.root)
        resume = choose(store.root, identity)
        store.root.mkdir(parents=True, exist_ok=True)
        store.name_best(resume.state.best if resume else None)
    return store, gang.told_by_first(resume)


def _assemble(
    environment: RankEnvironment,
    run: Run,
    gang: Gang,
    report: PrepareReport,
    store: CheckpointStore,
    resume: Resume | None,
    stop: StopRequest,
    say: Callable[[Event], None],
    signs: SignsOfWork,
) -> tuple[FineTuneTrainer, Boundary]:
    training, place = run.training, gang.place
    steps = total_steps(training, report.data.train_rows)
    form = FORMS[run.task]
    folder = model_folder(run, environment)
    collation = form.batches(
        load_processor(folder, run.model.uri, form.head),
        run.model.uri,
        multiple_of=1 if gang.device.type == "cpu" else _GPU_PADDING_MULTIPLE,
    )
    prepared = environment.workspace.path(LAYOUT.prepared)
    train_rows, select_rows = _rows(prepared, collation, report, training)
    plan = _plan(run, train_rows, world_size=place.world_size)
    packed = _packed(training, train_rows, collation, plan, steps)
    load = partial(_load, run, folder, report, store, gang, steps)
    arguments, model = load((packed.plan if packed else plan).accumulation_steps)
    if packed is not None and gang.any(not keeps_rows_apart(model, packed, gang.device)):
        packed = None
        del arguments, model
        arguments, model = load(plan.accumulation_steps)
    span = {
        "rank": place.rank,
        "first_step": resume.state.step if resume else 0,
        "total_steps": steps,
    }
    trainer = FineTuneTrainer(
        model=model,
        arguments=arguments,
        stream=PackedStream(packed, **span)
        if packed
        else StepStream(train_rows, plan, vary=_variation(training, collation), **span),
        row_loss=form.loss(_base_class(model), report),
        call=form.call,
        gang=gang,
        norms=Norms(model, training.batch_norm, gang),
        resized=resume is not None and resume.ranks != place.world_size,
    )
    parts = Parts(
        gang=gang,
        stop=stop,
        plan=plan,
        cadence=Cadence(
            total_steps=steps,
            steps_per_epoch=plan.steps_per_epoch,
            evals_per_epoch=training.evals_per_epoch,
            checkpoint_every_steps=training.checkpoint_every_steps,
        ),
        select_rows=select_rows,
        store=store,
        packed_fill=packed.plan.fill(steps) if packed else None,
        say=say,
        signs=signs,
        health=training.health,
        early_stopping=training.early_stopping,
        grace_seconds=environment.grace_seconds,
    )
    boundary = Boundary(trainer, parts, resume)
    trainer.add_callback(boundary)
    return trainer, boundary


def _rows(
    prepared: Path, collation: Collation, report: PrepareReport, training: RunTraining
) -> tuple[PreparedRows, PreparedRows]:
    """The rows to train on and to select by, weighed alike where the run weighs classes."""
    train_rows = PreparedRows.load(prepared / "train", collation)
    if len(train_rows) != report.data.train_rows:
        raise DataError(
            f"{prepared}: {len(train_rows)} rows to train on, the report says "
            f"{report.data.train_rows}; run the prepare step again"
        )
    select_rows = PreparedRows.load(prepared / "select", collation)
    if training.class_weights is not None:
        weights = class_weights(training.class_weights, report.labels, train_rows.classes)
        train_rows.weigh(weights)
        select_rows.weigh(weights)
    return train_rows, select_rows


def _load(
    run: Run,
    folder: Path,
    report: PrepareReport,
    store: CheckpointStore,
    gang: Gang,
    steps: int,
    accumulation_steps: int,
) -> tuple[TrainingArguments, PreTrainedModel | PeftModel]:
    """The Trainer's settings, and the model, adapted where the method says so.

    In this order, for ZeRO 3 scatters the model on the way.
    """
    training = run.training.model_copy(update={"accumulation_steps": accumulation_steps})
    arguments = training_arguments(
        training,
        output=store.root,
        total_steps=steps,
        device=gang.device,
        trainable_parameters=report.model.trainable_parameters,
    )
    loaded = load_model(
        folder,
        run.model.uri,
        FORMS[run.task].head,
        report.labels,
        dropout=training.dropout,
        seed=training.seed,
    )
    if training.activation_checkpointing and not loaded.model.supports_gradient_checkpointing:
        raise UsageError(
            f"training.activationCheckpointing: {type(loaded.model).__name__} can't compute "
            "activations again; leave it out (it is tried once memory runs out at a single row: "
            "then smaller images or a smaller model is the way)"
        )
    lora = run.model.adaptation
    if lora is None:
        return arguments, loaded.model
    return arguments, adapt(loaded.model, run.model.uri, lora, loaded.new_weights, training.seed)


def _base_class(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model itself, with the adapter's layers in their places if it has an adapter."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel)
    return base


def _variation(training: RunTraining, collation: Collation) -> Variation | None:
    """How training images are varied, where the run wants that."""
    if training.augmentation is None or not isinstance(collation, ImageBatches):
        return None
    return Variation(training.augmentation, training.seed, collation)


def _packed(
    training: RunTraining, rows: PreparedRows, collation: Collation, plan: StepPlan, steps: int
) -> PackedRows | None:
    """The rows of each step in shared sequences, where the run wants that."""
    length = training.max_length
    if not training.packing or length is None or not isinstance(collation, LanguageBatches):
        return None
    packed = PackedPlan.of(plan, rows.lengths, length, steps)
    return PackedRows(rows=rows, collation=collation, plan=packed)


def _plan(run: Run, rows: PreparedRows, *, world_size: int) -> StepPlan:
    balanced = run.training.sampling is Sampling.BALANCED
    balance = Balance(rows.classes) if balanced else None
    try:
        return StepPlan.of(run.training, rows=len(rows), world_size=world_size, balance=balance)
    except ValueError as error:
        raise UsageError(
            f"training: {error}; training.globalBatchSize must be divisible"
        ) from error
