"""A trainer that computes nothing but keeps every promise of one: for tests of the local engine.

It runs as a real process under a real supervisor: prepares, makes steps that take time, saves,
resumes from the newest checkpoint, serves /progress, stops on SIGTERM, and leaves messages. Where a
file ``hold`` lies beside the manifest it makes no step past the one that the file names; ``told``
in its workspace says which step it last told of. Where ``stubborn`` lies there it hears no SIGTERM.
No step is made before all workers are up, so a test that sees one knows that all hear a request.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_api.report import ExitCode, Marks, Progress, ReportRef, Step, Termination, TrainResult
from finetune_api.run import Env, Run, total_steps
from finetune_operator.local.podfiles import now, write_atomic
from harness.scripted import evaluated, prepared

STEP_SECONDS = 0.02
TRAIN_ROWS = 320

WORKSPACE = Path(os.environ[Env.WORKSPACE])
ATTEMPT = int(os.environ[Env.ATTEMPT])
WORKER = int(os.environ[Env.WORKER])
RUN = Run.model_validate_json(Path(os.environ[Env.RUN_FILE]).read_bytes())


class Training:
    """Worker 0's steps, from the newest checkpoint on."""

    def __init__(self) -> None:
        self.asked_to_stop = threading.Event()
        saved = [int(path.parent.name) for path in WORKSPACE.glob("checkpoints/*/*/COMPLETE")]
        self.resumed_from = self.step = max(saved, default=0)
        self.total = total_steps(RUN.training, TRAIN_ROWS)
        self.started_at = now()
        self.first_step_at: str | None = None
        self.last_step_at: str | None = None
        self.checkpoint: int | None = self.resumed_from or None

    def marks(self) -> Marks:
        return Marks(
            started_at=self.started_at,
            first_step_at=self.first_step_at,
            last_step_at=self.last_step_at,
            resumed_from_step=self.resumed_from,
            last_step=self.step,
            checkpoint_step=self.checkpoint,
        )

    def progress(self) -> Progress:
        return Progress(
            pod_uid=os.environ[Env.POD_UID],
            attempt=ATTEMPT,
            step=self.step,
            total_steps=self.total,
            loss=0.5,
            seconds_per_step=STEP_SECONDS,
            stage="training",
            marks=self.marks(),
        )

    def go(self) -> int:
        while self.step < self.total and not self.asked_to_stop.is_set():
            time.sleep(STEP_SECONDS)
            if held_at(self.step):
                continue
            self.step += 1
            self.last_step_at = now()
            self.first_step_at = self.first_step_at or self.last_step_at
            with (WORKSPACE / "steps").open("a") as log:
                log.write(f"{ATTEMPT} {self.step}\n")
            if self.step % RUN.training.checkpoint_every_steps == 0:
                self.save()
        self.save()
        return ExitCode.DONE if self.step == self.total else ExitCode.STOPPED

    def save(self) -> None:
        folder = WORKSPACE / "checkpoints" / str(ATTEMPT) / str(self.step)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "COMPLETE", b"{}")
        self.checkpoint = self.step


def held_at(step: int) -> bool:
    try:
        return step >= int((Path(os.environ[Env.BASE]) / "hold").read_text())
    except FileNotFoundError:
        return False


def serve(training: Training) -> None:
    class Reply(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            progress = training.progress()
            (WORKSPACE / "told").write_text(f"{progress.step}")
            body = progress.model_dump_json(by_alias=True).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    host, _, port = os.environ[Env.LISTEN].rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Reply)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def train() -> int:
    training = Training()
    stubborn = (Path(os.environ[Env.BASE]) / "stubborn").exists()
    signal.signal(
        signal.SIGTERM,
        signal.SIG_IGN if stubborn else lambda *_: training.asked_to_stop.set(),
    )
    done = WORKSPACE / f"done-{ATTEMPT}"
    come_up()
    if WORKER == 0:
        serve(training)
        meet(training)
        code = training.go()
        write_atomic(done, str(code).encode())
    else:
        code = follow(training, done)
    result = None
    if code == ExitCode.DONE:
        result = TrainResult(
            steps=training.total,
            best_step=training.total,
            best_select_loss=0.3,
            checkpoint=f"checkpoints/{ATTEMPT}/{training.total}",
        )
    leave(code, marks=training.marks() if WORKER == 0 else Marks(), train=result)
    return code


def up(worker: int) -> Path:
    """The file of a worker that is up; its lock is held as long as the worker lives."""
    return WORKSPACE / f"up-{ATTEMPT}-{worker}"


def come_up() -> None:
    beside = up(WORKER).with_suffix(".new")
    # Left open on purpose: the lock is let go of when the process ends, however it does.
    fcntl.flock(os.open(beside, os.O_RDWR | os.O_CREAT, 0o644), fcntl.LOCK_EX)
    beside.rename(up(WORKER))


def gone(worker: int) -> bool:
    """Whether a worker that was up has ended."""
    if not up(worker).exists():
        return False
    with up(worker).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def meet(training: Training) -> None:
    """Wait for the whole gang, as a rendezvous does."""
    while not training.asked_to_stop.is_set():
        if all(up(worker).exists() for worker in range(RUN.gang.workers)):
            return
        time.sleep(STEP_SECONDS)


def follow(training: Training, done: Path) -> int:
    """A rank that follows: it ends as worker 0 does, or, when asked to, as one that lost it."""
    patience = 50
    while not done.exists() and patience > 0:
        time.sleep(STEP_SECONDS)
        if training.asked_to_stop.is_set():
            # However slow it is, worker 0 says how it ends as long as it lives.
            patience -= gone(0) or not up(0).exists()
    return int(done.read_text()) if done.exists() else ExitCode.INTERNAL


def report() -> int:
    """Write the report of a step that needs no gang."""
    made = prepared() if RUN.step is Step.PREPARE else evaluated(passed=True)
    content = made.model_dump_json(by_alias=True).encode()
    write_atomic(WORKSPACE / f"{RUN.step}.json", content)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    leave(ExitCode.DONE, report=ReportRef(path=f"{RUN.step}.json", digest=digest))
    return ExitCode.DONE


def leave(
    code: int,
    *,
    marks: Marks | None = None,
    train: TrainResult | None = None,
    report: ReportRef | None = None,
) -> None:
    message = Termination(
        step=RUN.step,
        attempt=ATTEMPT,
        worker=WORKER,
        exit_code=code,
        marks=marks or Marks(),
        train=train,
        report=report,
    )
    write_atomic(
        Path(os.environ[Env.TERMINATION_LOG]), message.model_dump_json(by_alias=True).encode()
    )


if __name__ == "__main__":
    sys.exit(train() if RUN.step is Step.TRAIN else report())
