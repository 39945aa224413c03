"""The prepare step: from URIs to tokenized rows in roles, baselines and a report; needs no GPU.

``__main__`` calls ``prepare``. Everything is made in a folder of its own and moved to its place at
the end; the marker that is written last says what it was made from. Running the step again with
the same run and the same bytes serves what was made.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from finetune_api.datareport import ClassCount, DataReport, PrepareReport, RoleCounts
from finetune_api.markers import Contract, Digest
from finetune_api.run import LAYOUT, Run
from finetune_api.tasks import Task
from finetune_trainer.data.cleaning import Counts, clean
from finetune_trainer.data.encoding import Encoder
from finetune_trainer.data.form import AnyCleanRow, AnyForm
from finetune_trainer.data.grouping import check_groups
from finetune_trainer.data.image_rows import ImageRows, check_images
from finetune_trainer.data.image_sources import ImageSources
from finetune_trainer.data.readers import RowSource, read_files
from finetune_trainer.data.sources import (
    Listing,
    SourceFile,
    digest_of,
    fetch,
    files_in_place,
    is_remote,
    local_files,
    local_image_files,
    resolve_local,
)
from finetune_trainer.data.splitting import (
    Role,
    Roles,
    check_roles,
    class_counts,
    classes_of,
    sample,
    split,
    split_digest,
    without_leaks,
)
from finetune_trainer.data.tokenizing import TokenLengths, write_tokenized
from finetune_trainer.environment import RankEnvironment, Workspace
from finetune_trainer.errors import DataError, StorageError, TrainerError, UsageError
from finetune_trainer.models.check import check_config
from finetune_trainer.models.facts import model_facts
from finetune_trainer.models.fit import require_same_labels
from finetune_trainer.models.processors import check_processor, load_processor
from finetune_trainer.models.publish import check_output
from finetune_trainer.objectstore import require_credentials
from finetune_trainer.tasks.form import Rendering
from finetune_trainer.tasks.registry import FORMS
from finetune_trainer.training.class_weights import require_known
from finetune_trainer.training.manifest import sync

MARKER = LAYOUT.prepare_report.parent / "COMPLETE"
_MAKING = LAYOUT.prepare_report.parent / ".making"
_PIXELS = "pixels.scratch"
_MOST_CLASSES = 200
_MADE = (
    LAYOUT.prepared,
    LAYOUT.test,
    LAYOUT.baselines,
    LAYOUT.rendered_rows,
    LAYOUT.prepare_report,
)
_log = logging.getLogger(__name__)


class _Marker(Contract):
    """What the prepared data were made from; as long as it holds, they are served."""

    version: Literal[1] = 1
    inputs: Digest
    sources: dict[str, Digest]
    report: Digest


def prepare(environment: RankEnvironment, run: Run) -> PrepareReport:
    """Make the prepared data, or serve those made before from the same run and bytes.

    Raises
    ------
    UsageError
        If the model or a URI is wrong, a Secret did not come, or a checkpoint depends on another
        run's data.
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
        stored = _stored(environment, run)
        if stored is not None:
            _log.info("the same data were prepared before: serving those")
            return stored
        making = workspace.path(_MAKING)
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        report, sources = _make(environment, run, making)
        _put_in_place(workspace, _inputs_digest(run), sources, making)
    except OSError as error:
        where = error.filename or workspace.root
        raise StorageError(
            f"{where}: can't be read or written ({error.strerror or type(error).__name__}); see "
            "that the volume is mounted, writable and has free space"
        ) from error
    return report


def _make(
    environment: RankEnvironment, run: Run, making: Path
) -> tuple[PrepareReport, dict[str, Digest]]:
    """Do the work below ``making``, the cheap checks first; also the digest of each source."""
    model = resolve_local(run.model.uri, environment, "model.uri")
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
    rows = _read(environment, run, row_form, rendering, making / "sources")
    if rendering is not None and run.evaluation.keep_predictions:
        text = rendering.shown(rows.roles.train)
        _made_at(making, LAYOUT.rendered_rows).write_text(text, encoding="utf-8")
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
    )
    encoder = form.encoder(processor, rows.classes, run.training.max_length)
    target = row_form.measured([row.target for row in rows.roles.train])
    data = _tokenize(rows, encoder, making).model_copy(update={"target": target})
    if form.images is not None:
        images = form.images.describe(rows.roles.train)
        data = data.model_copy(update={"images": images, "tokens": None})
        form.images.keep(rows.roles.test, _made_at(making, LAYOUT.test))
    baselines = form.evidence.fit_baselines(
        rows.roles.train,
        rows.roles.select,
        rows.classes,
        seed=run.dataset.split.seed,
        folder=_made_at(making, LAYOUT.baselines),
    )
    report = PrepareReport(data=data, model=facts, labels=outputs, baselines=baselines)
    _made_at(making, LAYOUT.prepare_report).write_text(
        report.model_dump_json(by_alias=True, exclude_none=True, indent=2), encoding="utf-8"
    )
    return report, rows.sources


def _check_threshold(run: Run, classes: tuple[str, ...]) -> None:
    if run.task is Task.TEXT_CLASSIFICATION and run.evaluation.threshold and len(classes) > 2:
        raise UsageError(
            f"evaluation.threshold: the data have {len(classes)} classes, and of more than two the "
            "likeliest is told; leave it out"
        )


def _made_at(making: Path, part: object) -> Path:
    return making / Path(str(part)).name


@dataclass(frozen=True, kw_only=True)
class _ReadRows:
    """The cleaned rows in their roles, and what became of the others."""

    roles: Roles
    classes: tuple[str, ...]
    counts: Counts
    test_counts: Counts | None
    sources: dict[str, Digest]


def _read(
    environment: RankEnvironment,
    run: Run,
    form: AnyForm,
    rendering: Rendering | None,
    folder: Path,
) -> _ReadRows:
    """Fetch, read, clean and split; the copies are gone when it returns."""
    dataset = run.dataset
    own_test = dataset.test is not None
    listing = _listing(run)
    files = {"train": fetch(dataset.train, environment, "dataset.train", folder / "train", listing)}
    if dataset.test is not None:
        files["test"] = fetch(dataset.test, environment, "dataset.test", folder / "test", listing)
    # Groups are looked at among test rows; only the files that hold such need their columns.
    groups = run.evaluation.groups
    grouped = {"train": () if own_test else groups, "test": groups}
    read = {
        role: _clean_sample(run, form, rendering, of_role, grouped[role])
        for role, of_role in files.items()
    }
    counts, test = read["train"].counts, read.get("test")
    shutil.rmtree(folder)
    divided = split(read["train"].rows, dataset.split, test.rows if test else None, form.needed)
    roles = without_leaks(divided, counts, own_test=own_test)
    classes = classes_of(roles, dataset.labels, fewest=form.fewest_classes, most=_MOST_CLASSES)
    check_roles(roles, form.needed(classes), dataset.split.strategy, own_test=own_test)
    check_groups(roles.test, groups)
    return _ReadRows(
        roles=roles,
        classes=classes,
        counts=counts,
        test_counts=test.counts if test else None,
        sources={role: of_role.digest for role, of_role in read.items()},
    )


@dataclass(frozen=True, kw_only=True)
class _CleanSample:
    """The rows of one source, what became of the others, and the digest of all that was read."""

    rows: list[AnyCleanRow]
    counts: Counts
    digest: Digest


def _clean_sample(
    run: Run,
    form: AnyForm,
    rendering: Rendering | None,
    files: Sequence[SourceFile],
    groups: tuple[str, ...],
) -> _CleanSample:
    dataset, counts = run.dataset, Counts()
    images = ImageSources.of(form, files, dataset) if isinstance(form, ImageRows) else None
    sources = images.rows if images else _row_sources(run, form, files, groups)
    cleaned = clean(read_files(sources), dataset.cleaning, dataset.labels, counts, form)
    if images:
        check_images(counts, dataset.max_dropped_percent)
    rows = sample(cleaned, dataset.limit, dataset.split.seed, counts)
    if rendering is not None:
        rows = rendering.render(rows, counts)
    digests = [*(file.digest for file in files), *(images.digests() if images else ())]
    return _CleanSample(rows=rows, counts=counts, digest=_digest_of_lines(digests))


def _row_sources(
    run: Run, form: AnyForm, files: Sequence[SourceFile], groups: tuple[str, ...]
) -> list[RowSource]:
    return [
        RowSource(
            form=form,
            path=file.path,
            name=file.name,
            format=run.dataset.format,
            columns=run.dataset.columns,
            prefix=f"{file.path.name}:" if len(files) > 1 else "",
            groups=groups,
        )
        for file in files
    ]


def _listing(run: Run) -> Listing:
    """How the files of a source are found."""
    return local_files if FORMS[run.task].images is None else local_image_files


def _tokenize(
    rows: _ReadRows,
    encoder: Encoder[Any, Any],  # any task's
    making: Path,
) -> DataReport:
    """Write the three sets, test apart from the other two, and count what became of the rows."""
    prepared = _made_at(making, LAYOUT.prepared)
    prepared.mkdir()
    folders = {
        Role.TRAIN: prepared / Role.TRAIN.value,
        Role.SELECT: prepared / Role.SELECT.value,
        Role.TEST: _made_at(making, LAYOUT.test),
    }
    lengths = {
        role: write_tokenized(of_role, encoder, folder=folders[role], keep_input=role is Role.TEST)
        for role, of_role in rows.roles.items()
    }
    examples = lengths[Role.TRAIN].examples
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
        train_examples=None if examples == kept[Role.TRAIN] else examples,
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
        data_digest=_digest_of_lines(f"{role} {one}" for role, one in rows.sources.items()),
        split_digest=split_digest(rows.roles),
    )


def _unread(lengths: Mapping[Role, TokenLengths]) -> RoleCounts | None:
    unread = {role.value: of_role.unread for role, of_role in lengths.items()}
    return None if None in unread.values() else RoleCounts.model_validate(unread)


def _put_in_place(
    workspace: Workspace, inputs: Digest, sources: dict[str, Digest], making: Path
) -> None:
    """Move everything to its place; what a kill leaves in between has no marker."""
    workspace.path(MARKER).unlink(missing_ok=True)
    for scratch in making.rglob("*.scratch"):
        shutil.rmtree(scratch)
    for part in _MADE:
        target = workspace.path(part)
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        if not _made_at(making, part).exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        _made_at(making, part).replace(target)
        for path in (target, *(target.rglob("*") if target.is_dir() else ())):
            sync(path)
    marker = _Marker(
        inputs=inputs,
        sources=sources,
        report=digest_of(workspace.path(LAYOUT.prepare_report)),
    )
    unfinished = making / MARKER.name
    unfinished.write_text(marker.model_dump_json(by_alias=True))
    sync(unfinished)
    unfinished.replace(workspace.path(MARKER))
    sync(workspace.path(MARKER).parent)
    shutil.rmtree(making)


def _stored(environment: RankEnvironment, run: Run) -> PrepareReport | None:
    """What an earlier attempt made of the same run and bytes, or None if it has to be made.

    Raises
    ------
    UsageError, DataError
        If run or bytes are others now, and checkpoints stand that were trained on the old ones.
    """
    workspace = environment.workspace
    marker = _read_marker(workspace)
    if marker is None:
        return None
    checkpoints = workspace.path(LAYOUT.checkpoints)
    trained = checkpoints.is_dir() and any(checkpoints.iterdir())
    if marker.inputs != _inputs_digest(run):
        if trained:
            raise UsageError(
                f"{workspace.root}: its checkpoints were trained with another task, model, "
                "dataset, training.maxLength or training.truncation; restore the manifest, or "
                "start a new job"
            )
        return None
    if not _same_bytes(environment, run, marker):
        if trained:
            raise DataError(
                "dataset: the files changed since they were prepared, and checkpoints were trained "
                "on what they were; restore the files, or start a new job"
            )
        return None
    try:
        content = workspace.path(LAYOUT.prepare_report).read_bytes()
        if f"sha256:{hashlib.sha256(content).hexdigest()}" != marker.report:
            return None
        return PrepareReport.model_validate_json(content)
    except (FileNotFoundError, ValidationError):
        return None


def _read_marker(workspace: Workspace) -> _Marker | None:
    try:
        return _Marker.model_validate_json(workspace.path(MARKER).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _same_bytes(environment: RankEnvironment, run: Run, marker: _Marker) -> bool:
    """Whether the sources are what was prepared; what came over the network stays as it was."""
    uris = {"train": run.dataset.train, "test": run.dataset.test}
    return all(
        marker.sources.get(role) == _digest_in_place(environment, run, uri, f"dataset.{role}")
        for role, uri in uris.items()
        if uri is not None and not is_remote(uri)
    )


def _digest_in_place(environment: RankEnvironment, run: Run, uri: str, field: str) -> Digest | None:
    """The digest of a source's files as they are now; None if its rows can't be read any more."""
    found = files_in_place(uri, environment, field, _listing(run))
    digests = [file.digest for file in found]
    form = FORMS[run.task].rows(run.dataset)
    if isinstance(form, ImageRows):
        try:
            digests += ImageSources.of(form, found, run.dataset).read_through()
        except DataError:
            return None
    return _digest_of_lines(digests)


def _digest_of_lines(lines: Iterable[str]) -> Digest:
    """SHA-256 over lines, each with its end."""
    content = "".join(f"{line}\n" for line in lines)
    return f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def _inputs_digest(run: Run) -> Digest:
    """SHA-256 over the part of a run that prepared data follow from."""
    inputs: dict[str, Any] = {
        "task": run.task,
        "model": run.model.wire(),
        "dataset": run.dataset.wire(),
        "maxLength": run.training.max_length,
    }
    if run.training.truncation is not None:
        inputs["truncation"] = run.training.truncation
    if run.evaluation.groups:
        inputs["groups"] = run.evaluation.groups
    return f"sha256:{hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()}"
