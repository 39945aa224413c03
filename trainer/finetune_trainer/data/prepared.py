"""What a prepare step leaves, and whether it may be served again. Called by ``prepare``.

The marker that is written last says what everything was made from: without it, nothing is there.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from finetune_api.datareport import PrepareReport
from finetune_api.markers import Contract, Digest
from finetune_api.run import LAYOUT, Run
from finetune_trainer.data.image_rows import ImageRows
from finetune_trainer.data.image_sources import ImageSources
from finetune_trainer.data.reading import listing_of
from finetune_trainer.data.sources import digest_of, digest_of_lines, files_in_place, is_remote
from finetune_trainer.environment import RankEnvironment, Workspace
from finetune_trainer.errors import DataError, UsageError
from finetune_trainer.tasks.registry import FORMS
from finetune_trainer.training.manifest import sync

MARKER = LAYOUT.prepare_report.parent / "COMPLETE"
_MADE = (
    LAYOUT.prepared,
    LAYOUT.test,
    LAYOUT.baselines,
    LAYOUT.rendered_rows,
    LAYOUT.suspects,
    LAYOUT.prepare_report,
)


class _Marker(Contract):
    """What the prepared data were made from; as long as it holds, they are served."""

    version: Literal[1] = 1
    inputs: Digest
    sources: dict[str, Digest]
    report: Digest


def put_in_place(
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
        if not made_at(making, part).exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        made_at(making, part).replace(target)
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


def stored_report(environment: RankEnvironment, run: Run) -> PrepareReport | None:
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
    if marker.inputs != inputs_digest(run):
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
    found = files_in_place(uri, environment, field, listing_of(run))
    digests = [file.digest for file in found]
    form = FORMS[run.task].rows(run.dataset)
    if isinstance(form, ImageRows):
        try:
            digests += ImageSources.of(form, found, run.dataset).read_through()
        except DataError:
            return None
    return digest_of_lines(digests)


def inputs_digest(run: Run) -> Digest:
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


def made_at(making: Path, part: object) -> Path:
    """Where a part of the layout lies while it is being made."""
    return making / Path(str(part)).name
