"""From a source's files to clean rows in their roles. Called by ``prepare``."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_api.markers import Digest
from finetune_api.run import Run
from finetune_trainer.data.cleaning import Counts, clean
from finetune_trainer.data.form import AnyCleanRow, AnyForm
from finetune_trainer.data.grouping import check_groups
from finetune_trainer.data.image_rows import ImageRows, check_images
from finetune_trainer.data.image_sources import ImageSources
from finetune_trainer.data.language_counts import note_off_language
from finetune_trainer.data.near_copies import without_near_copies
from finetune_trainer.data.readers import RowSource, read_files
from finetune_trainer.data.sources import (
    Listing,
    SourceFile,
    digest_of_lines,
    fetch,
    local_files,
    local_image_files,
)
from finetune_trainer.data.splitting import (
    Role,
    Roles,
    check_roles,
    classes_of,
    sample,
    split,
    without_leaks,
)
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.tasks.form import Rendering
from finetune_trainer.tasks.registry import FORMS

_MOST_CLASSES = 200


@dataclass(frozen=True, kw_only=True)
class ReadRows:
    """The cleaned rows in their roles, and what became of the others.

    ``families`` are the sizes of families of near copies among the training rows; None where none
    were looked for.
    """

    roles: Roles
    families: tuple[int, ...] | None
    classes: tuple[str, ...]
    counts: Counts
    test_counts: Counts | None
    sources: dict[str, Digest]


def read_in_roles(
    environment: RankEnvironment,
    run: Run,
    form: AnyForm,
    rendering: Rendering | None,
    folder: Path,
) -> ReadRows:
    """Fetch, read, clean and split; the copies are gone when it returns."""
    dataset = run.dataset
    own_test = dataset.test is not None
    listing = listing_of(run)
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
    of_source = {
        Role.TEST: test.counts if test else counts,
        Role.SELECT: counts,
        Role.TRAIN: counts,
    }
    families = None
    if dataset.cleaning.near_duplicates != "ignore":
        apart = without_near_copies(
            roles, of_source, form, drop=dataset.cleaning.near_duplicates == "drop"
        )
        roles, families = apart.roles, apart.families
    if form.holds_text:
        note_off_language(roles, of_source)
    classes = classes_of(roles, dataset.labels, fewest=form.fewest_classes, most=_MOST_CLASSES)
    check_roles(roles, form.needed(classes), dataset.split.strategy, own_test=own_test)
    check_groups(roles.test, groups)
    return ReadRows(
        roles=roles,
        families=families,
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
    images = None
    if isinstance(form, ImageRows):
        images = ImageSources.of(form, files, dataset, groups)
    sources = images.rows if images else _row_sources(run, form, files, groups)
    cleaned = clean(read_files(sources), dataset.cleaning, dataset.labels, counts, form)
    if images:
        check_images(counts, dataset.max_dropped_percent)
    rows = sample(cleaned, dataset.limit, dataset.split.seed, counts)
    if rendering is not None:
        rows = rendering.render(rows, counts)
    digests = [*(file.digest for file in files), *(images.digests() if images else ())]
    return _CleanSample(rows=rows, counts=counts, digest=digest_of_lines(digests))


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


def listing_of(run: Run) -> Listing:
    """How the files of a source are found."""
    return local_files if FORMS[run.task].images is None else local_image_files
