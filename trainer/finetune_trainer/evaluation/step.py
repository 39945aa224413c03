"""The evaluate step: test rows scored by model and baselines, judged, and exported if they pass.

``__main__`` calls ``evaluate``. Everything it leaves appears whole or not at all, and running it
again with the same inputs serves what it made before.
"""

import hashlib
import json
import logging
from functools import partial
from pathlib import Path

from datasets import Dataset, load_from_disk
from pydantic import ValidationError
from transformers import PreTrainedModel

from finetune_api.datareport import PrepareReport
from finetune_api.evaluation import RowResults
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.lora import LoraOutput
from finetune_api.markers import Digest
from finetune_api.report import ReportRef
from finetune_api.run import LAYOUT, Run
from finetune_trainer.data.sources import model_folder
from finetune_trainer.data.splitting import Role
from finetune_trainer.environment import RankEnvironment, Workspace
from finetune_trainer.errors import DataError, StorageError
from finetune_trainer.evaluation.checkpoint import (
    ScoredCheckpoint,
    find_checkpoint,
    load_checkpoint,
)
from finetune_trainer.evaluation.findings import Findings, TestRows
from finetune_trainer.evaluation.gate import judge
from finetune_trainer.evaluation.generalization import (
    Losses,
    drawn_like,
    generalization,
    losses_table,
    row_losses,
)
from finetune_trainer.evaluation.groups import shortened
from finetune_trainer.evaluation.output import keep_table, stored_report, write_report
from finetune_trainer.models.card import base_licence, model_card
from finetune_trainer.models.export import (
    Adapter,
    export_model,
    prepare_for_export,
    remove_export,
)
from finetune_trainer.models.heads import Head
from finetune_trainer.models.processors import Processor
from finetune_trainer.models.publish import publish
from finetune_trainer.models.serving import is_cased, serving_manifests
from finetune_trainer.tasks.form import TaskForm
from finetune_trainer.tasks.registry import FORMS

_log = logging.getLogger(__name__)


def evaluate(environment: RankEnvironment, run: Run) -> ReportRef:
    """Evaluate the run's best checkpoint; return where the report lies, with its digest.

    A gate that fails is a result, not an error: the report says so, and nothing is exported. What
    is exported is also copied to where the run's output says.

    Raises
    ------
    TrainerError
        One of its kinds, if the checkpoint, the rows or the workspace are not what they should be,
        the exported model could not be proved, or not be copied.
    """
    report = _evaluated(environment, run)
    exported = environment.workspace.path(LAYOUT.output_model)
    if run.output.uri is not None and exported.exists():
        publish(exported, run.output.uri)
    return report


def _evaluated(environment: RankEnvironment, run: Run) -> ReportRef:
    workspace = environment.workspace
    prepared = _prepare_report(workspace)
    checkpoint = find_checkpoint(environment, run, prepared)
    inputs = _inputs_digest(run, checkpoint, prepared)
    stored = stored_report(workspace, inputs)
    if stored is not None:
        _log.info("the same checkpoint and rows were evaluated before: serving that report")
        return stored
    form = FORMS[run.task]
    model, processor = load_checkpoint(checkpoint, environment, run, form.head, prepared.labels)
    fit = _losses(workspace, run, form, model, processor, prepared)
    form.finish(model, prepared)
    findings = form.evidence().find(
        TestRows(
            rows=_test_rows(workspace, prepared),
            select=_rows(workspace.path(LAYOUT.prepared) / Role.SELECT.value),
            folder=workspace.path(LAYOUT.test),
            collation=form.batches(processor, run.model.uri),
            model=model,
            run=run,
            prepared=prepared,
            baselines=workspace.path(LAYOUT.baselines),
            base=model_folder(run, environment),
            head=form.head,
            processor=processor,
        )
    )
    report = _report(run, prepared, checkpoint, inputs, findings, fit, workspace)
    remove_export(workspace.path(LAYOUT.output_model))
    if report.passed:
        prepare_for_export(model, processor, form.head, prepared.labels, run.training.max_length)
        if report.thresholds:
            # A plain pipeline gives probabilities; what is told of them is for its users.
            model.config.thresholds = report.thresholds
        base = model_folder(run, environment)
        licence = base_licence(base)
        serving = serving_manifests(run, prepared.model.parameters, cased=is_cased(processor))
        pipeline = findings.proof.pipeline
        digest = export_model(
            model,
            processor,
            model_card(run, prepared, report, pipeline, form.head, licence, serving),
            findings.proof,
            workspace.path(LAYOUT.output_model),
            _adapter(run, checkpoint, base, form.head),
            serving,
        )
        exported = ReportRef(path=str(LAYOUT.output_model), digest=digest)
        report = report.model_copy(update={"model": exported})
    return write_report(workspace, report)


def _adapter(run: Run, checkpoint: ScoredCheckpoint, base: Path, head: Head) -> Adapter | None:
    lora = run.model.adaptation
    if lora is None or lora.output is not LoraOutput.ADAPTER:
        return None
    return Adapter(trained=checkpoint.checkpoint.folder, base=base, head=head)


def _prepare_report(workspace: Workspace) -> PrepareReport:
    path = workspace.path(LAYOUT.prepare_report)
    try:
        return PrepareReport.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there are no prepared data; run the prepare step first"
        ) from error
    except OSError as error:
        raise StorageError(f"{path}: can't read the prepare step's report ({error})") from error
    except ValidationError as error:
        raise DataError(f"{path}: not a report of the prepare step; prepare again") from error


def _inputs_digest(run: Run, checkpoint: ScoredCheckpoint, prepared: PrepareReport) -> Digest:
    """Digest of all that the report follows from; equal inputs are evaluated once."""
    inputs = {
        "spec": run.spec_digest,
        "evaluation": run.evaluation.wire(),
        "training": run.training.wire(),
        "checkpoint": checkpoint.manifest_digest,
        "split": prepared.data.split_digest,
        "labels": prepared.labels,
        "smoke": run.smoke,
    }
    return f"sha256:{hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()}"


def _losses(
    workspace: Workspace,
    run: Run,
    form: TaskForm,
    model: PreTrainedModel,
    processor: Processor,
    prepared: PrepareReport,
) -> tuple[Losses, Losses]:
    """What the checkpoint, as it was trained, says of some training rows and of the select rows."""
    folder = workspace.path(LAYOUT.prepared)
    select = _rows(folder / Role.SELECT.value)
    train = drawn_like(_rows(folder / Role.TRAIN.value), select, run.training.seed)
    collation, loss = form.batches(processor, run.model.uri), form.loss(model, prepared)
    first, second = (
        row_losses(model, rows, collation, loss, form.call) for rows in (train, select)
    )
    return first, second


def _test_rows(workspace: Workspace, prepared: PrepareReport) -> Dataset:
    path = workspace.path(LAYOUT.test)
    test = _rows(path)
    if len(test) != prepared.data.test_rows or len(set(test["row_id"])) != len(test):
        raise DataError(
            f"{path}: {len(test)} test rows, {len(set(test['row_id']))} of them distinct, where "
            f"the prepare step counted {prepared.data.test_rows}; prepare again"
        )
    return test


def _rows(path: Path) -> Dataset:
    try:
        return load_from_disk(str(path))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: there are no {path.name} rows; run the prepare step again"
        ) from error
    except OSError as error:
        raise StorageError(f"{path}: can't read the {path.name} rows ({error})") from error


def _report(
    run: Run,
    prepared: PrepareReport,
    checkpoint: ScoredCheckpoint,
    inputs: Digest,
    findings: Findings,
    fit: tuple[Losses, Losses],
    workspace: Workspace,
) -> EvaluationReport:
    """Judge the figures, and keep what they come from where it may be kept; nothing is exported."""
    scores = findings.scores
    discard = run.evaluation.row_results is RowResults.DISCARD
    kept = partial(keep_table, workspace, discard=discard)
    gate = judge(run.task, run.evaluation.gate, scores)
    return EvaluationReport(
        inputs_digest=inputs,
        task=run.task,
        test_rows=prepared.data.test_rows,
        checkpoint_step=checkpoint.step,
        split_digest=prepared.data.split_digest,
        labels=prepared.labels,
        metrics=scores.metrics,
        per_class=scores.per_class,
        confusion_matrix=scores.confusion_matrix,
        baselines=scores.baselines,
        baselines_left_out=prepared.baselines_left_out,
        groups=tuple(shortened(report) for report in scores.groups),
        counterfactuals=scores.counterfactuals,
        generalization=generalization(*fit),
        calibration=scores.calibration,
        thresholds=dict(scores.thresholds),
        baseline_thresholds={name: dict(cuts) for name, cuts in scores.baseline_thresholds.items()},
        generations=() if discard else findings.generations,
        mistakes=() if discard else findings.mistakes,
        gate=gate,
        passed=all(result.passed for result in gate),
        resamples=run.evaluation.resamples,
        interval_unit=(run.dataset.columns.group or "row")[:63],
        predictions=kept(findings.predictions, LAYOUT.predictions),
        losses=kept(losses_table(*fit), LAYOUT.losses),
    )
