"""`finetune-trainer prepare | train | evaluate | predict`: the edge of a trainer process.

Each step ends in one of three ways: done, stopped, or with one clear line, an exit code of
``finetune_api.report.ExitCode`` and a termination message. What a step needs is imported by it
alone: the launcher of `train` stays small. `predict` is no step of a job: it is told all by its
arguments, and leaves no word.
"""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from finetune_api.report import ExitCode, Failure, FailureClass, ReportRef, Step, Termination
from finetune_api.run import LAYOUT, Run
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.errors import StorageError, TrainerError, UsageError
from finetune_trainer.imports import importing
from finetune_trainer.reporting.handover import hand_over
from finetune_trainer.reporting.termination import write_termination
from finetune_trainer.training.failure import failure_of

_PREDICT = "predict"
_TRACEBACK_FRAMES = 12
_QUIET = {
    # Steps say what they do themselves, and everything they need lies on disk.
    "TRANSFORMERS_VERBOSITY": "error",
    # The hub's client warns with addresses whose signatures open what lies there.
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the step that the command line names; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == [_PREDICT]:
        return _predict(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="finetune-trainer",
        description="One step of a fine-tune. What to do is read from the file that "
        "FINETUNE_RUN_FILE names, where from FINETUNE_WORKSPACE. `predict --help` is for a "
        "finished model.",
    )
    parser.add_argument("step", choices=[step.value for step in Step])
    try:
        step = Step(parser.parse_args(arguments).step)
    except SystemExit as end:
        return ExitCode.USAGE if end.code else ExitCode.DONE
    _settle_libraries()
    environment = None
    try:
        environment = RankEnvironment.from_env(os.environ)
        return _run(environment, step)
    except Exception as error:  # noqa: BLE001 - the process's edge
        failure, exit_code = _failure(error)
        sys.stderr.write(f"{step.value}: {failure.failure_class}: {failure.message}\n")
        sys.stderr.write(failure.traceback)
        return _leave_word(environment, step, exit_code, failure=failure)


def _settle_libraries() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def _predict(arguments: Sequence[str]) -> int:
    _settle_libraries()
    try:
        with importing():
            from finetune_trainer.prediction.command import main as predict
        return predict(arguments)
    except SystemExit as end:
        return ExitCode.USAGE if end.code else ExitCode.DONE
    except KeyboardInterrupt:
        sys.stderr.write(f"{_PREDICT}: interrupted; run the same command again\n")
        return ExitCode.STOPPED
    except Exception as error:  # noqa: BLE001 - the process's edge
        failure, exit_code = _failure(error)
        sys.stderr.write(f"{_PREDICT}: {failure.message}\n{failure.traceback}")
        return exit_code


def _run(environment: RankEnvironment, step: Step) -> int:
    run = environment.load_run()
    if run.step is not step:
        raise UsageError(
            f"{environment.run_file}: a run of step {run.step.value}, not {step.value}; "
            "give the command of that step"
        )
    if step is Step.TRAIN:
        from finetune_trainer.training import launcher

        # It leaves its own termination message: it knows ranks, marks and results.
        return launcher.main(environment, run)
    report = _prepare(environment, run) if step is Step.PREPARE else _evaluate(environment, run)
    if environment.listen is not None and environment.report_seconds > 0:
        content = _content_of(environment, report)
        hand_over(environment.listen, environment.report_seconds, content)
    return _leave_word(environment, step, ExitCode.DONE, report=report)


def _prepare(environment: RankEnvironment, run: Run) -> ReportRef:
    with importing():
        from finetune_trainer.data.prepare import prepare
        from finetune_trainer.data.sources import digest_of

    data = prepare(environment, run).data
    sys.stdout.write(
        f"prepare: {data.read_rows} rows read, {data.kept_rows} kept: {data.train_rows} train, "
        f"{data.select_rows} select, {data.test_rows} test\n"
    )
    path = LAYOUT.prepare_report
    return ReportRef(path=str(path), digest=digest_of(environment.workspace.path(path)))


def _evaluate(environment: RankEnvironment, run: Run) -> ReportRef:
    with importing():
        from finetune_trainer.evaluation.step import evaluate

    return evaluate(environment, run)


def _content_of(environment: RankEnvironment, report: ReportRef) -> bytes:
    path = environment.workspace.path(report.path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: can't read the report ({error.strerror})") from error


def _failure(error: Exception) -> tuple[Failure, int]:
    """What the error means. One that nobody foresaw may quote a row, so only its type is told."""
    failure, exit_code = failure_of(error, None)
    if isinstance(error, TrainerError) or failure.failure_class is not FailureClass.UNKNOWN:
        return failure, exit_code
    frames = traceback.extract_tb(error.__traceback__)[-_TRACEBACK_FRAMES:]
    where = "".join(f"  {Path(one.filename).name}:{one.lineno} in {one.name}\n" for one in frames)
    hidden = failure.model_copy(
        update={
            "message": f"{type(error).__name__}, which this step does not expect; please report it "
            "with the frames below (its own words may quote a row and are left out)",
            "traceback": where,
        }
    )
    return hidden, exit_code


def _leave_word(
    environment: RankEnvironment | None,
    step: Step,
    exit_code: int,
    *,
    failure: Failure | None = None,
    report: ReportRef | None = None,
) -> int:
    """Write the termination message; without its environment a process has nowhere to."""
    if environment is None or environment.termination_log is None:
        return exit_code
    word = Termination(
        step=step,
        attempt=environment.attempt,
        worker=environment.worker,
        exit_code=exit_code,
        failure=failure,
        report=report,
    )
    try:
        write_termination(environment.termination_log, word)
    except StorageError as error:
        sys.stderr.write(f"{error}\n")
        return exit_code or ExitCode.STORAGE
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
