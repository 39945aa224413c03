"""The engine on one machine: a pod is a supervised process, the state a file, the lock a file.

``cli.run`` opens it and ``local.drive`` runs it. It imitates no API server; the core can't tell.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune_api.digests import spec_digest
from finetune_api.job import FineTuneJob
from finetune_api.report import Progress, ReportRef, Step
from finetune_api.run import Env
from finetune_api.status import JobStatus
from finetune_api.usage import UsageRecord
from finetune_operator.core.decision import CreateGang, Event, ForgetGang, ReleaseGang, StopGang
from finetune_operator.core.observed import EngineFacts, Observed, StoredReport
from finetune_operator.cost.pods import PodView
from finetune_operator.engine import EngineError
from finetune_operator.local import gang, podfiles
from finetune_operator.local.podfiles import Launch
from finetune_operator.local.reports import read_report
from finetune_operator.local.views import Orphans, view
from finetune_operator.local.workspace import State, Workspace, storage_reason
from finetune_operator.trainerport import pull_progress

TRAINER = (sys.executable, "-m", "finetune_trainer")
_HURRIED_GRACE_SECONDS = 5.0


class StorageError(EngineError):
    """The workspace could not be read or written."""


class LocalEngine:
    """Carries out the core's decisions for the one job of a workspace, whose lock is held.

    Parameters
    ----------
    workspace
        The folder.
    state
        As ``resume.open_state`` made it durable.
    facts
        What this machine offers (``machine.facts``).
    tell
        Gets each event, once.
    trainer
        The command of the trainer, to which the name of a step is added.
    """

    def __init__(
        self,
        *,
        workspace: Workspace,
        state: State,
        facts: EngineFacts,
        tell: Callable[[Event], None],
        trainer: Sequence[str] = TRAINER,
    ) -> None:
        self.interrupted = False
        self.changed = asyncio.Event()
        """Set when something ended or was asked for, and a look is worth while."""
        self.facts = facts
        self._workspace = workspace
        self._state = state
        self._tell = tell
        self._trainer = tuple(trainer)
        self._records = workspace.read_records()
        self._orphans = Orphans()
        self._progress: Progress | None = None
        self._reports: dict[ReportRef, StoredReport] = {}

    @property
    def job(self) -> FineTuneJob:
        """The job with its status, as it is on disk."""
        return self._state.job

    def interrupt(self) -> None:
        """The person wants it to stop: the first time in order, with the work saved.

        A second time the grace is cut short.
        """
        if self.interrupted:
            with _storage(self._workspace.root):
                for folder in gang.open_attempts(self._workspace.attempts):
                    gang.stop(folder, _HURRIED_GRACE_SECONDS, "Interrupted", sooner=True)
        self.interrupted = True
        self.changed.set()

    async def look(self) -> Observed:
        """Gather pods, their messages and reports, and what rank 0 says."""
        with _storage(self._workspace.root):
            pods = await asyncio.to_thread(self._pods)
            reports = tuple(self._read_reports(pods))
        progress = await self._pull_progress(pods)
        return Observed(
            job=self.job,
            engine=self.facts,
            pods=pods,
            records=tuple(self._records.values()),
            rate_cards=self._state.rate_cards,
            progress=progress,
            reports=reports,
            interrupted=self.interrupted,
            smoke=self._state.smoke,
        )

    async def write_record(self, record: UsageRecord) -> None:
        """Make a record durable."""
        with _storage(self._workspace.root):
            self._workspace.write_record(record)
        self._records[record.metadata.name] = record

    async def write_status(self, job: FineTuneJob, status: JobStatus) -> None:
        """Make the status durable, in ``state.json`` and ``status.yaml``."""
        if job != self.job:
            raise EngineError("the job changed since it was looked at")
        written = job.model_copy(update={"status": status})
        state = self._state.model_copy(update={"job": written})
        with _storage(self._workspace.root):
            self._workspace.write_state(state)
        self._state = state

    async def create_gang(self, action: CreateGang) -> None:
        """Write the attempt's folder: its run, and gated pods."""
        if action.run.spec_digest != spec_digest(self.job):
            raise EngineError("the run is of another spec than the job's")
        with _storage(self._workspace.root):
            self._workspace.job_folder(self.job.metadata.uid).mkdir(exist_ok=True)
            folder = self._workspace.attempt(action.step, action.attempt)
            gang.create(folder, action.run, action.attempt, self.facts)
        self.changed.set()

    async def release_gang(self, action: ReleaseGang) -> None:
        """Start the supervisors."""
        around = gang.Surroundings(
            job_folder=self._workspace.job_folder(self.job.metadata.uid),
            claims=self._workspace.claims,
            base=Path(self._state.base),
            grace_seconds=self.job.spec.policy.grace_period_seconds,
            collective_seconds=self.job.spec.policy.collective_seconds,
            command=self._trainer,
        )
        folder = self._workspace.attempt(action.step, action.attempt)
        with _storage(self._workspace.root):
            try:
                supervisors = await gang.release(folder, action.step, around)
            except gang.NotReleasedError as error:
                raise EngineError(str(error)) from error
        for supervisor in supervisors:
            self._wake_at_end(supervisor)
        self.changed.set()

    async def stop_gang(self, action: StopGang) -> None:
        """Ask its pods to end."""
        folder = self._workspace.attempt(action.step, action.attempt)
        with _storage(self._workspace.root):
            gang.stop(folder, action.grace_seconds, action.reason)

    async def forget_gang(self, action: ForgetGang) -> None:
        """Archive the attempt."""
        with _storage(self._workspace.root):
            gang.forget(self._workspace.attempt(action.step, action.attempt))
        self.changed.set()

    async def tell(self, events: Sequence[Event]) -> None:
        """Hand events on to whoever shows them."""
        for event in events:
            self._tell(event)

    def _wake_at_end(self, supervisor: subprocess.Popen[bytes]) -> None:
        """Have the loop told when a supervisor ends, which is when its pod has."""
        if supervisor.poll() is not None:
            return
        loop = asyncio.get_running_loop()
        descriptor = os.pidfd_open(supervisor.pid)

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            supervisor.wait()
            self.changed.set()

        loop.add_reader(descriptor, ended)

    def _pods(self) -> tuple[PodView, ...]:
        return tuple(
            view(place, self._orphans)
            for folder in gang.open_attempts(self._workspace.attempts)
            for place in gang.pods_of(folder)
        )

    def _read_reports(self, pods: Sequence[PodView]) -> Iterator[StoredReport]:
        job_folder = self._workspace.job_folder(self.job.metadata.uid)
        for pod in pods:
            ref = pod.termination.report if pod.termination else None
            if ref is None:
                continue
            stored = self._reports.get(ref) or read_report(job_folder, pod.step, ref)
            if stored is not None:
                self._reports[ref] = stored
                yield stored

    async def _pull_progress(self, pods: Sequence[PodView]) -> Progress | None:
        """The newest that rank 0 of the running training said; it need not be from this look."""
        trains = [pod for pod in pods if pod.step is Step.TRAIN and pod.worker == 0]
        for pod in trains:
            if not pod.live or pod.started_at is None:
                continue
            folder = self._workspace.attempt(pod.step, pod.attempt) / f"worker-{pod.worker}"
            launch = podfiles.read(Launch, folder, podfiles.LAUNCH)
            if launch is None:
                continue
            progress = await pull_progress(launch.environment[Env.LISTEN], pod.uid, pod.attempt)
            if progress is not None:
                self._progress = progress
        uids = {pod.uid for pod in trains}
        if self._progress is not None and self._progress.pod_uid not in uids:
            self._progress = None
        return self._progress


@contextmanager
def _storage(root: Path) -> Iterator[None]:
    """Say in the person's words what a disk refused."""
    try:
        yield
    except OSError as error:
        raise StorageError(storage_reason(root, error)) from error
