"""What can go wrong in a trainer process: a type per meaning, each with how the process ends.

``__main__`` turns them into an exit code and a termination message; the operator's core reads the
failure class and decides whether another attempt makes sense. Messages say what was wrong, where,
and what to do; they never hold a row's text, for they end up in status, events and logs.
"""

from typing import ClassVar

from finetune_api.report import ExitCode, FailureClass


class TrainerError(Exception):
    """Base of every error that a step raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    failure_class: ClassVar[FailureClass] = FailureClass.UNKNOWN


class UsageError(TrainerError):
    """The job, its model or the process's environment is wrong; another attempt won't help."""

    exit_code = ExitCode.USAGE
    failure_class = FailureClass.USER_ERROR


class DataError(TrainerError):
    """The rows are missing, malformed or unfit for the task; another attempt won't help."""

    exit_code = ExitCode.DATA
    failure_class = FailureClass.DATA_ERROR


class StorageError(TrainerError):
    """The workspace, a claim or a remote store can't be read or written just now."""

    exit_code = ExitCode.STORAGE
    failure_class = FailureClass.STORAGE


class NodeFaultError(TrainerError):
    """The machine does not have what the process was promised, such as a visible GPU."""

    failure_class = FailureClass.NODE_FAULT
