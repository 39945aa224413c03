"""What the container of each step does, from its start to its end: the trainer's promises, kept."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from aiohttp import web

from finetune_api.report import (
    ExitCode,
    Failure,
    FailureClass,
    ReportRef,
    Step,
    Termination,
    TrainResult,
)
from finetune_api.run import LAYOUT, Env, Run
from harness.kubeletgang import TrainingPlay, Workspace
from harness.kubeletprocess import Process
from harness.kubeletscript import Ending, IgnoreSigterm, Kill, Script
from harness.scripted import evaluated, prepared

REPORT_PATH = "/report"
_ENDED_BY_SIGTERM = 143


async def tell(process: Process, script: Script, workspace: Workspace) -> Ending:
    """Play the container of a trainer pod, or of another one, which only waits for its end."""
    run = process.run
    if run is None:
        await process.sigterm.wait()
        return Ending(exit_code=_ENDED_BY_SIGTERM)
    if not process.env.get(Env.ATTEMPT):
        return Ending(exit_code=ExitCode.USAGE, log=f"{Env.ATTEMPT} is empty")
    if run.step is Step.TRAIN:
        return await _train(process, run, script, workspace)
    return await _report(process, run, script, workspace)


def killed(process: Process, fault: Kill) -> Ending:
    """Return the end that a fault makes of a container."""
    if fault.failure is None or process.run is None:
        return Ending(exit_code=fault.exit_code, reason=fault.reason, log=fault.message)
    failure = Failure(
        failure_class=fault.failure,
        message=fault.message or f"{fault.failure} as scripted",
        rank=process.worker * process.run.gang.ranks_per_worker,
    )
    message = _termination(process, process.run, fault.exit_code, failure=failure)
    return Ending(exit_code=fault.exit_code, reason=fault.reason, message=message)


async def _train(process: Process, run: Run, script: Script, workspace: Workspace) -> Ending:
    training = workspace.training(process, run, script)
    if process.worker == 0:
        await process.server.serve("GET", "/progress", lambda _: _told(training, process.uid))
    code = await training.take_part(process)
    if code is not ExitCode.DONE and _is_deaf(process, script):
        await asyncio.Event().wait()
    result = failure = None
    if code is ExitCode.DONE:
        result = TrainResult(
            steps=training.total,
            best_step=training.best.step,
            best_select_loss=0.3,
            checkpoint=training.best.path,
        )
    elif code is ExitCode.INTERNAL:
        failure = Failure(
            failure_class=FailureClass.UNKNOWN, message="a peer was lost", by_peer=True
        )
    marks = {"marks": training.marks()} if process.worker == 0 else {}
    message = _termination(process, run, code, train=result, failure=failure, **marks)
    return Ending(exit_code=code, message=message)


def _told(training: TrainingPlay, pod_uid: str) -> web.Response:
    body = training.progress(pod_uid).model_dump_json(by_alias=True, exclude_none=True)
    return web.Response(text=body, content_type="application/json")


def _is_deaf(process: Process, script: Script) -> bool:
    run = process.run
    return run is not None and any(
        isinstance(fault, IgnoreSigterm) and fault.meets(run.step, process.attempt, process.worker)
        for fault in script.faults
    )


async def _report(process: Process, run: Run, script: Script, workspace: Workspace) -> Ending:
    """Make the step's report, unless it was made before, and offer it to the operator."""
    if run.step not in workspace.reports:
        preparing = run.step is Step.PREPARE
        seconds = script.prepare_seconds if preparing else script.evaluate_seconds
        if not await process.sleep(seconds):
            message = _termination(process, run, ExitCode.STOPPED)
            return Ending(exit_code=ExitCode.STOPPED, message=message)
        made = prepared() if preparing else evaluated(passed=script.passed)
        workspace.reports[run.step] = made.model_dump_json(
            by_alias=True, exclude_none=True
        ).encode()
    content = workspace.reports[run.step]
    path = LAYOUT.prepare_report if run.step is Step.PREPARE else LAYOUT.evaluation_report
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    await _offer(process, content, digest)
    report = ReportRef(path=str(path), digest=digest)
    message = _termination(process, run, ExitCode.DONE, report=report)
    return Ending(exit_code=ExitCode.DONE, message=message)


async def _offer(process: Process, content: bytes, digest: str) -> None:
    """Serve the report until it is acknowledged, the time for it is over, or SIGTERM comes."""
    seconds = float(process.env.get(Env.REPORT_SECONDS) or 0)
    if not seconds:
        return
    over = asyncio.Event()

    def acknowledge(request: web.Request) -> web.Response:
        if request.query.get("digest") != digest:
            return web.Response(status=409)
        over.set()
        return web.Response(status=204)

    await process.server.serve("POST", f"{REPORT_PATH}/ack", acknowledge)
    await process.server.serve(
        "GET", REPORT_PATH, lambda _: web.Response(body=content, content_type="application/json")
    )
    acknowledged = asyncio.ensure_future(over.wait())
    asked = asyncio.ensure_future(process.sigterm.wait())
    try:
        await asyncio.wait(
            {acknowledged, asked}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        acknowledged.cancel()
        asked.cancel()


# The fields of a `Termination`, whatever they are here.
def _termination(process: Process, run: Run, code: int, **fields: Any) -> str:
    return Termination(
        step=run.step,
        attempt=process.attempt,
        worker=process.worker,
        exit_code=code,
        **fields,
    ).model_dump_json(by_alias=True, exclude_none=True)
