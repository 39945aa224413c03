"""The prepare step: from URIs to tokenized rows in roles, baselines and a report; needs no GPU.

``__main__`` calls ``prepare``. Everything is made in a folder of its own and moved to its place at
the end; the marker that is written last says what it was made from. Running the step again with
the same run and the same bytes serves what was made.
"""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import load_from_disk

from finetune_api.datareport import ClassCount, DataReport, PrepareReport, RoleCounts
from finetune_api.markers import Digest
from finetune_api.run import LAYOUT, Run
from finetune_api.tasks import Baseline, Task
from finetune_trainer import hub
from finetune_trainer.data.cleaning import Counts
from finetune_trainer.data.encoding import Encoder
from finetune_trainer.data.form import AnyForm
from finetune_trainer.data.grouping import count_groups
from finetune_trainer.data.language_counts import count_languages
from finetune_trainer.data.prepared import inputs_digest, made_at, put_in_place, stored_report
from finetune_trainer.data.reading import ReadRows, read_in_roles
from finetune_trainer.data.sources import digest_of_lines, model_folder
from finetune_trainer.data.splitting import Role, class_counts, split_digest
from finetune_trainer.data.tokenizing import TokenLengths, write_tokenized
from finetune_trainer.data.variety import variety
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import StorageError, TrainerError, UsageError
from finetune_trainer.evaluation.probe import ProbeForm
from finetune_trainer.evaluation.probing import Frozen, NoProbeError, fit_on_features
from finetune_trainer.models.check import check_config
from finetune_trainer.models.facts import model_facts
from finetune_trainer.models.fit import require_same_labels
from finetune_trainer.models.processors import check_processor, load_processor
from finetune_trainer.models.publish import check_output
from finetune_trainer.objectstore import require_credentials
from finetune_trainer.tasks.form import TaskForm
from finetune_trainer.tasks.registry import FORMS
from finetune_trainer.training.class_weights import require_known

_MAKING = LAYOUT.prepare_report.parent / ".making"
_PIXELS = "pixels.scratch"
_log = logging.getLogger(__name__)


def prepare(environment: RankEnvironment, run: Run) -> PrepareReport:
    """Make the prepared data, or serve those made before from the same run and bytes.

    Raises
    ------
    UsageError
        If the model or a URI is wrong, a Secret did not come, a checkpoint depends on another run's
        data, or the gate names a baseline that was left out.
    DataError
        If the rows are missing, malformed or too few, or changed under a checkpoint; or if the
        model may not be written where it is to go.
    StorageError
        If the workspace, a claim or the network fails.
    """
    workspace = environment.workspace
    require_credentials(run)
    if run.output.uri is not None:
        check_output(run.output.uri)
    try:
        report = stored_report(environment, run)
        if report is not None:
            _log.info("the same data were prepared before: serving those")
        else:
            making = workspace.path(_MAKING)
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            report, sources = _make(environment, run, making)
            put_in_place(workspace, inputs_digest(run), sources, making)
    except OSError as error:
        where = error.filename or workspace.root
        raise StorageError(
            f"{where}: can't be read or written ({error.strerror or type(error).__name__}); see "
            "that the volume is mounted, writable and has free space"
        ) from error
    _check_against(run, report)
    return report


def _make(
    environment: RankEnvironment, run: Run, making: Path
) -> tuple[PrepareReport, dict[str, Digest]]:
    """Do the work below ``making``, the cheap checks first; also the digest of each source."""
    model = model_folder(run, environment)
    if run.model.uri.startswith(hub.SCHEME):
        hub.fetch_model(run.model.uri, model)
    form = FORMS[run.task]
    config = check_config(model, run.model.uri, form.head)
    processor = load_processor(model, run.model.uri, form.head)
    check_processor(config, processor, run)
    rendering = None
    if form.rendering is not None:
        rendering = form.rendering(model, processor, run)
    row_form = form.rows(run.dataset)
    if form.images is not None:
        row_form = form.images.decoded(processor, run.model.uri, making / _PIXELS)
    rows = read_in_roles(environment, run, row_form, rendering, making / "sources")
    if rendering is not None and run.evaluation.keep_predictions:
        text = rendering.shown(rows.roles.train)
        made_at(making, LAYOUT.rendered_rows).write_text(text, encoding="utf-8")
    outputs = row_form.outputs(rows.classes)
    _check_threshold(run, rows.classes)
    require_known(run.training.class_weights, outputs)
    require_same_labels(run.model.uri, config, form.head, outputs)
    facts = model_facts(
        model,
        run.model.uri,
        config,
        form.head,
        max(1, len(outputs)),
        run.model.adaptation,
        processor,
        run.training,
    )
    encoder = form.encoder(processor, rows.classes, run.training.max_length)
    data = _write_rows(run, form, row_form, rows, encoder, making)
    evidence = form.evidence()
    compared = evidence.fit_baselines(
        rows.roles.train,
        rows.roles.select,
        rows.classes,
        seed=run.dataset.split.seed,
        resamples=run.evaluation.resamples,
        folder=made_at(making, LAYOUT.baselines),
    )
    if compared.doubts is not None:
        compared.doubts.write(made_at(making, LAYOUT.suspects))
        suspects = compared.doubts.report(named=data.target is None)
        data = data.model_copy(update={"suspects": suspects})
    report = PrepareReport(data=data, model=facts, labels=outputs, baselines=compared.fits)
    if evidence.probe is not None:
        frozen = Frozen(
            folder=model,
            uri=run.model.uri,
            head=form.head,
            labels=outputs,
            facts=facts,
            collation=form.batches(processor, run.model.uri),
        )
        report = _with_probe(report, evidence.probe, frozen, rows, run.dataset.split.seed, making)
    made_at(making, LAYOUT.prepare_report).write_text(
        report.model_dump_json(by_alias=True, exclude_none=True, indent=2), encoding="utf-8"
    )
    return report, rows.sources


def _write_rows(
    run: Run,
    form: TaskForm,
    row_form: AnyForm,
    rows: ReadRows,
    encoder: Encoder[Any, Any],  # any task's
    making: Path,
) -> DataReport:
    """Write the rows as the other steps read them, and describe them."""
    target = row_form.measured([row.target for row in rows.roles.train])
    data = _tokenize(rows, encoder, making)
    groups = count_groups(rows.roles, run.evaluation.groups)
    data = data.model_copy(update={"target": target, "groups": groups})
    if row_form.holds_text:
        texts = variety([row.words for row in rows.roles.train], rows.families)
        languages = count_languages(rows.roles)
        data = data.model_copy(update={"texts": texts, "languages": languages})
    if form.images is not None:
        images = form.images.describe(rows.roles.train, rows.families)
        data = data.model_copy(update={"images": images, "tokens": None})
        form.images.keep(rows.roles.test, made_at(making, LAYOUT.test))
    return data


def _with_probe(
    report: PrepareReport,
    form: ProbeForm,
    frozen: Frozen,
    rows: ReadRows,
    seed: int,
    making: Path,
) -> PrepareReport:
    """Add a head on the frozen model to the baselines, or why there is none."""
    train, select = (
        load_from_disk(str(made_at(making, LAYOUT.prepared) / role.value))
        for role in (Role.TRAIN, Role.SELECT)
    )
    try:
        fit = fit_on_features(
            form,
            frozen,
            train,
            select,
            [row.unit for row in rows.roles.train],
            seed=seed,
            folder=made_at(making, LAYOUT.baselines),
        )
    except NoProbeError as error:
        _log.info("no head on the frozen model as a baseline: %s", error)
        return report.model_copy(update={"baselines_left_out": {Baseline.PROBE: str(error)}})
    return report.model_copy(update={"baselines": (*report.baselines, fit)})


def _check_against(run: Run, report: PrepareReport) -> None:
    """Refuse what no training can reach: to be better than a baseline that there is not."""
    for rule in run.evaluation.gate:
        reason = rule.against and report.baselines_left_out.get(rule.against)
        if reason:
            raise UsageError(
                f"evaluation.gate: {rule.name} is against {rule.against}, which was left out "
                f"({reason}); name another baseline in against"
            )


def _check_threshold(run: Run, classes: tuple[str, ...]) -> None:
    if run.task is Task.TEXT_CLASSIFICATION and run.evaluation.threshold and len(classes) > 2:
        raise UsageError(
            f"evaluation.threshold: the data have {len(classes)} classes, and of more than two the "
            "likeliest is told; leave it out"
        )


def _tokenize(
    rows: ReadRows,
    encoder: Encoder[Any, Any],  # any task's
    making: Path,
) -> DataReport:
    """Write the three sets, test apart from the other two, and count what became of the rows."""
    prepared = made_at(making, LAYOUT.prepared)
    prepared.mkdir()
    folders = {
        Role.TRAIN: prepared / Role.TRAIN.value,
        Role.SELECT: prepared / Role.SELECT.value,
        Role.TEST: made_at(making, LAYOUT.test),
    }
    lengths = {
        role: write_tokenized(of_role, encoder, folder=folders[role], keep_input=role is Role.TEST)
        for role, of_role in rows.roles.items()
    }
    test_counts = rows.test_counts or Counts()
    per_class = {role: class_counts(of_role) for role, of_role in rows.roles.items()}
    kept = {role: len(of_role) for role, of_role in rows.roles.items()}
    read = rows.counts.read + test_counts.read
    if read != sum(kept.values()) + rows.counts.dropped + test_counts.dropped:
        raise TrainerError(f"{read} rows were read, which are not the kept and dropped ones")
    return DataReport(
        read_rows=read,
        kept_rows=sum(kept.values()),
        train_rows=kept[Role.TRAIN],
        select_rows=kept[Role.SELECT],
        test_rows=kept[Role.TEST],
        cleaning=(*rows.counts.reasons(), *test_counts.reasons("test: ")),
        classes=tuple(
            ClassCount(
                label=label,
                train=per_class[Role.TRAIN][label],
                select=per_class[Role.SELECT][label],
                test=per_class[Role.TEST][label],
            )
            for label in rows.classes
        ),
        tokens=lengths[Role.TRAIN].statistics(),
        unread_words=_unread(lengths),
        data_digest=digest_of_lines(f"{role} {one}" for role, one in rows.sources.items()),
        split_digest=split_digest(rows.roles),
    )


def _unread(lengths: Mapping[Role, TokenLengths]) -> RoleCounts | None:
    unread = {role.value: of_role.unread for role, of_role in lengths.items()}
    return None if None in unread.values() else RoleCounts.model_validate(unread)
