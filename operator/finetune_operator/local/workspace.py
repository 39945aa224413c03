"""A local run's folder: one job, one process at a time. Used by the engine and the command line.

::

    DIR/lock              held by the run that works here
        state.json        the job, its status and what its sources were: the truth
        status.yaml       the same, for people
        records/          usage records
        claims/CLAIM/     what pvc://CLAIM/… means here
        attempts/STEP-N/  run.json, and a folder for each pod (see podfiles)
        UID/              the job's own workspace, as the trainer sees it
        report.html       the page
"""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from finetune_api.job import FineTuneJob
from finetune_api.markers import Contract
from finetune_api.ratecard import RateCard
from finetune_api.report import Step
from finetune_api.times import format_time
from finetune_api.usage import UsageRecord
from finetune_operator.local.podfiles import write_atomic
from finetune_operator.local.sources import SourceFingerprint

STATE_VERSION = 1
_LEAST_FREE_BYTES = 100 * 1024 * 1024
_YAML_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class WorkspaceError(Exception):
    """The folder can't be worked in: no folder, read-only, full, in use, or not a workspace."""


class State(Contract):
    """What a run leaves for the next one in the same workspace."""

    version: int = STATE_VERSION
    job: FineTuneJob
    rate_cards: tuple[RateCard, ...] = ()
    base: str
    """Folder that the manifest's relative paths start from."""
    smoke: bool = False
    sources: dict[str, SourceFingerprint] = Field(default_factory=dict)


@dataclass(frozen=True)
class Workspace:
    """Where things lie in a local run's folder."""

    root: Path

    @property
    def claims(self) -> Path:
        """The folder of claims."""
        return self.root / "claims"

    @property
    def attempts(self) -> Path:
        """The folder of attempts."""
        return self.root / "attempts"

    @property
    def page(self) -> Path:
        """The page of the verdict."""
        return self.root / "report.html"

    @property
    def status_file(self) -> Path:
        """The job with its status, for people."""
        return self.root / "status.yaml"

    def attempt(self, step: Step, number: int) -> Path:
        """The folder of one attempt."""
        return self.attempts / f"{step}-{number}"

    def job_folder(self, uid: str) -> Path:
        """What the trainer knows as its workspace."""
        return self.root / uid

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder, see that it can be worked in, and keep other runs out.

        Raises
        ------
        WorkspaceError
            Naming the folder, what is wrong with it, and what to do.
        """
        try:
            self._make_folders()
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise WorkspaceError(_reason(self.root, error)) from error
        try:
            self._hold(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _make_folders(self) -> None:
        for folder in (self.root, self.attempts, self.claims, self.root / "records"):
            folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if free < _LEAST_FREE_BYTES:
            raise WorkspaceError(
                f"workspace {self.root}: its disk is full ({free // 2**20} MiB free, at least "
                f"{_LEAST_FREE_BYTES // 2**20} MiB are needed): make room, or choose another "
                "folder with --workspace"
            )

    def _hold(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise WorkspaceError(
                f"workspace {self.root}: in use by another run (process {holder or 'unknown'}): "
                "wait for it, stop it, or choose another folder with --workspace"
            ) from error
        except OSError as error:
            raise WorkspaceError(_reason(self.root, error)) from error
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise WorkspaceError(_reason(self.root, error)) from error

    def read_state(self) -> State | None:
        """What an earlier run left; None in a new workspace.

        Raises
        ------
        WorkspaceError
            If the state is of another version or damaged.
        """
        path = self.root / "state.json"
        try:
            return State.model_validate_json(path.read_bytes(), extra="ignore")
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise WorkspaceError(_reason(self.root, error)) from error
        except ValidationError as error:
            raise WorkspaceError(
                f"{path}: not the state of a run that this version can take up "
                f"({error.error_count()} fields differ): take a new folder with --workspace"
            ) from error

    def write_state(self, state: State) -> None:
        """Make the state durable, and the copy for people after it."""
        write_atomic(
            self.root / "state.json",
            state.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode(),
        )
        write_atomic(self.status_file, _to_yaml(state.job.wire()))

    def read_records(self) -> dict[str, UsageRecord]:
        """All usage records, by name."""
        records = {}
        for path in sorted((self.root / "records").glob("*.yaml")):
            content = path.read_bytes()
            try:
                data = yaml.load(content, Loader=_YAML_LOADER)  # noqa: S506 (a safe loader)
                record = UsageRecord.model_validate(data, extra="ignore")
            except (yaml.YAMLError, ValidationError) as error:
                raise WorkspaceError(
                    f"{path}: not the usage record that a run wrote: put it back from a copy, or "
                    "take a new folder with --workspace"
                ) from error
            records[record.metadata.name] = record
        return records

    def write_record(self, record: UsageRecord) -> None:
        """Make a usage record durable."""
        path = self.root / "records" / f"{record.metadata.name}.yaml"
        write_atomic(path, _to_yaml(record.wire()))


def as_new(job: FineTuneJob) -> FineTuneJob:
    """A manifest as a new object: with a UID, a time of creation, and no status."""
    metadata = job.metadata.model_copy(
        update={
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "creation_timestamp": format_time(datetime.now(UTC)),
        }
    )
    return job.model_copy(update={"metadata": metadata, "status": None})


def _to_yaml(data: object) -> bytes:
    text: str = yaml.dump(data, Dumper=_YAML_DUMPER, sort_keys=False, allow_unicode=True)
    return text.encode()


_REASONS = {
    errno.EEXIST: "it is a file or a link that leads nowhere, not a folder",
    errno.ENOTDIR: "it, or a folder above it, is a file",
    errno.EROFS: "its disk is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.ENOSPC: "its disk is full",
    errno.EDQUOT: "this user's share of its disk is full",
    errno.ENOLCK: "its file system has no locks",
}


def _reason(root: Path, error: OSError) -> str:
    what = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return f"workspace {root}: {what}: choose another folder with --workspace"


def storage_reason(root: Path, error: OSError) -> str:
    """What a failed read or write in a workspace means, and what to do."""
    return _reason(root, error)
