"""What an error means: its failure class, its exit code, and whether it is only an echo.

A rank asks at its edge, about the exception that ended it; the launcher asks about a rank that
died without a word. Libraries raise bare ``RuntimeError`` for most of this, so their words count.
"""

import errno
import signal
import traceback

from finetune_api.report import ExitCode, Failure, FailureClass
from finetune_trainer.errors import TrainerError

TRACEBACK_LIMIT = 2400
MESSAGE_LIMIT = 1024
_STORAGE_ERRNO = {
    errno.ENOSPC,
    errno.EROFS,
    errno.EIO,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ESTALE,
    errno.EACCES,
    errno.EPERM,
}
_STORAGE_WORDS = (
    "No space left on device",
    "Read-only file system",
    "Input/output error",
    "Disk quota exceeded",
    "File too large",
    "Stale file handle",
    "PytorchStreamWriter failed writing",
    # What torch's writer says when it is closed over a write that failed.
    "inline_container.cc",
)
_DEVICE_MEMORY_WORDS = ("CUDA out of memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC")
_HOST_MEMORY_WORDS = ("DefaultCPUAllocator", "Cannot allocate memory")
_PEER_WORDS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Socket closed",
    "recvValue failed",
    "sendBytes failed",
    "recvBytes failed",
    "ncclRemoteError",
    "remote process exited",
    "Broken pipe",
)
_HANG_WORDS = (
    "Timed out waiting",
    "wait timeout",
    "Watchdog caught collective operation timeout",
    "Collective operation timed out",
    "timed out after",
)


def failure_of(error: BaseException, rank: int | None) -> tuple[Failure, ExitCode]:
    """The failure that an exception is, and its exit code."""
    failure_class, exit_code, by_peer = _meaning(error)
    text = str(error) if isinstance(error, TrainerError) else f"{type(error).__name__}: {error}"
    lines = "" if isinstance(error, TrainerError) else _tail_of(error)
    failure = Failure(
        failure_class=failure_class,
        message=text[:MESSAGE_LIMIT],
        rank=rank,
        by_peer=by_peer,
        traceback=lines,
    )
    return failure, exit_code


def failure_of_death(
    returncode: int, last_lines: str, rank: int, *, out_of_memory: bool
) -> tuple[Failure, int]:
    """The failure of a rank that ended without a word, and the exit code that stands for it.

    ``returncode`` is negative for a signal, as ``subprocess`` has it. A kill alone is no
    out-of-memory: ``out_of_memory`` says that the kernel counted one.
    """
    if returncode < 0:
        name = signal.Signals(-returncode).name
        how, exit_code = f"was killed by {name}", 128 - returncode
    else:
        how, exit_code = f"ended with exit code {returncode}", returncode or ExitCode.INTERNAL
    failure_class = FailureClass.UNKNOWN
    if out_of_memory and returncode == -signal.SIGKILL:
        failure_class = FailureClass.HOST_OOM
        how += " as the memory of its pod was used up: raise the memory that the pod may use"
    elif any(words in last_lines for words in _HANG_WORDS):
        failure_class = FailureClass.COLLECTIVE_HANG
    failure = Failure(
        failure_class=failure_class,
        message=f"rank {rank} {how}",
        rank=rank,
        traceback=last_lines[-TRACEBACK_LIMIT:],
    )
    return failure, exit_code


def is_of_storage(error: BaseException) -> bool:
    """Whether something could not be written or read, in a system's or a library's words."""
    by_number = isinstance(error, OSError) and error.errno in _STORAGE_ERRNO
    return by_number or _says(str(error), _STORAGE_WORDS)


def _meaning(error: BaseException) -> tuple[FailureClass, ExitCode, bool]:
    if isinstance(error, TrainerError):
        return error.failure_class, error.exit_code, False
    text = str(error)
    # torch's own type, by name: the launcher and its tests need no torch.
    if type(error).__name__ == "OutOfMemoryError" or _says(text, _DEVICE_MEMORY_WORDS):
        return FailureClass.DEVICE_OOM, ExitCode.DEVICE_OUT_OF_MEMORY, False
    if isinstance(error, MemoryError) or _says(text, _HOST_MEMORY_WORDS):
        return FailureClass.HOST_OOM, ExitCode.INTERNAL, False
    if is_of_storage(error):
        return FailureClass.STORAGE, ExitCode.STORAGE, False
    if _says(text, _HANG_WORDS):
        return FailureClass.COLLECTIVE_HANG, ExitCode.INTERNAL, False
    return FailureClass.UNKNOWN, ExitCode.INTERNAL, _says(text, _PEER_WORDS)


def _says(text: str, words: tuple[str, ...]) -> bool:
    return any(one in text for one in words)


def _tail_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-TRACEBACK_LIMIT:]
