"""The train step of one pod: starts a rank per accelerator, and ends with one clear word.

Called by ``__main__``. It forwards a request to stop, ends all ranks when one has died, keeps what
they said, serves it on worker 0, and leaves the termination message. It loads no torch: it must be
up at once, and live on when a rank is killed.
"""

import os
import queue
import socket
import sys
import time
from datetime import UTC, datetime

from pydantic import ValidationError

from finetune_api.datareport import PrepareReport
from finetune_api.report import ExitCode, Failure, Step, Termination
from finetune_api.run import LAYOUT, Run
from finetune_api.times import format_time
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import NodeFaultError, StorageError, TrainerError
from finetune_trainer.reporting.events import Finished, Planned, Staged
from finetune_trainer.reporting.narration import Narration
from finetune_trainer.reporting.pages import progress_pages
from finetune_trainer.reporting.progress import ProgressLog
from finetune_trainer.reporting.server import serving
from finetune_trainer.reporting.termination import write_termination
from finetune_trainer.training.failure import failure_of
from finetune_trainer.training.hostmemory import oom_kills
from finetune_trainer.training.manifest import Identity, Manifest
from finetune_trainer.training.obituary import PodEnd, ended_in_order, hung, pod_end
from finetune_trainer.training.place import Place, variables
from finetune_trainer.training.rankprocess import RankEnd, RankProcess
from finetune_trainer.training.resume import finished_before
from finetune_trainer.training.stop import StopRequest

_LOOK_SECONDS = 0.1
_NAME_PATIENCE_SECONDS = 600
_PEER_GRACE_SECONDS = 5


def main(environment: RankEnvironment, run: Run) -> int:
    """Train on this pod; returns the exit code that the process has to end with."""
    stop = StopRequest()
    stop.install()
    log = ProgressLog(
        pod_uid=environment.pod_uid,
        attempt=environment.attempt,
        started_at=format_time(datetime.now(UTC)),
    )
    try:
        listen = environment.listen if environment.worker == 0 else None
        with serving(listen, progress_pages(log)):
            end = _train(environment, run, log, stop)
    except (TrainerError, OSError) as error:
        failure, exit_code = failure_of(error, None)
        end = PodEnd(exit_code, failure)
    _leave_word(environment, end, log)
    return end.exit_code


def _train(environment: RankEnvironment, run: Run, log: ProgressLog, stop: StopRequest) -> PodEnd:
    if (before := _finished_before(environment, run)) is not None:
        _serve_again(before, log)
        return PodEnd(ExitCode.DONE)
    if not _wait_for_name(environment.master_addr, stop):
        return PodEnd(ExitCode.STOPPED)
    killed_before = oom_kills()
    ends = _run_ranks(environment, run, log, stop)
    return pod_end(ends, out_of_memory=oom_kills() > killed_before)


def _finished_before(environment: RankEnvironment, run: Run) -> Manifest | None:
    """The manifest of an earlier attempt that reached the end, if there is one."""
    path = environment.workspace.path(LAYOUT.prepare_report)
    try:
        report = PrepareReport.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        # Ranks say what is wrong with it, in one place.
        return None
    identity = Identity(
        spec_digest=run.spec_digest,
        split_digest=report.data.split_digest,
        world_size=run.gang.world_size,
    )
    return finished_before(environment.workspace.path(LAYOUT.checkpoints), identity)


def _serve_again(before: Manifest, log: ProgressLog) -> None:
    """Say what the earlier attempt said at its end: this one has nothing to do."""
    assert before.result is not None
    log.apply(
        Planned(
            at=format_time(datetime.now(UTC)),
            step=before.state.step,
            total_steps=before.state.step,
            resumed_from_attempt=before.attempt,
            curve=before.state.curve,
            curve_stride=before.state.curve_stride,
            remaining_checkpoints=0,
            remaining_evaluations=0,
        )
    )
    log.apply(Finished(result=before.result))
    log.apply(Staged(stage="done"))


def _wait_for_name(host: str, stop: StopRequest) -> bool:
    """Wait until worker 0's name resolves; false if a stop was requested meanwhile.

    A headless service's names appear some seconds after the pods.
    """
    give_up = time.monotonic() + _NAME_PATIENCE_SECONDS
    while not stop.requested:
        try:
            socket.getaddrinfo(host, None)
        except OSError as error:
            if time.monotonic() > give_up:
                raise NodeFaultError(
                    f"the name of worker 0, {host}, did not resolve in {_NAME_PATIENCE_SECONDS} s "
                    f"({error}): see the cluster's DNS and the job's Service"
                ) from error
            time.sleep(1)
        else:
            return True
    return False


def _run_ranks(
    environment: RankEnvironment, run: Run, log: ProgressLog, stop: StopRequest
) -> list[RankEnd]:
    """Start the ranks and wait until the last one has ended."""
    ended: queue.SimpleQueue[RankEnd] = queue.SimpleQueue()
    narration = Narration(log)
    ranks = [
        RankProcess(
            place,
            variables(place, environment, run.gang, os.environ),
            heard=narration.hear,
            ended=ended.put,
        )
        for place in (
            Place.of(run.gang, environment.worker, local_rank)
            for local_rank in range(run.gang.ranks_per_worker)
        )
    ]
    ends: list[RankEnd] = []
    asked = False
    kill_at: float | None = None
    while len(ends) < len(ranks):
        if stop.requested and not asked:
            asked = True
            for rank in ranks:
                # Before its first step it has nothing to save, and may load for minutes.
                if log.began:
                    rank.ask_to_stop()
                else:
                    rank.kill()
        if kill_at is not None and time.monotonic() > kill_at:
            kill_at = None
            for rank in ranks:
                rank.kill()
        try:
            end = ended.get(timeout=_LOOK_SECONDS)
        except queue.Empty:
            continue
        ends.append(end)
        if kill_at is None and not ended_in_order(end):
            # The others can't go on. Most notice by themselves, and then say what they saw.
            if hung(end):
                for rank in ranks:
                    rank.show_stack()
            kill_at = time.monotonic() + _PEER_GRACE_SECONDS
    return ends


def _leave_word(environment: RankEnvironment, end: PodEnd, log: ProgressLog) -> None:
    """Write the termination message; the exit code stands even where that fails."""
    if end.failure is not None:
        _report(end.failure)
    if environment.termination_log is None:
        return
    termination = Termination(
        step=Step.TRAIN,
        attempt=environment.attempt,
        worker=environment.worker,
        exit_code=end.exit_code,
        failure=end.failure,
        marks=log.marks,
        train=log.result if end.exit_code == ExitCode.DONE else None,
    )
    try:
        write_termination(environment.termination_log, termination)
    except StorageError as error:
        sys.stderr.write(f"{error}\n")


def _report(failure: Failure) -> None:
    where = "" if failure.rank is None else f" on rank {failure.rank}"
    sys.stderr.write(f"{failure.failure_class}{where}: {failure.message}\n")
