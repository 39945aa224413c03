"""The termination message: a pod's last words, at most 4 KiB of JSON.

The kubelet keeps the tail of a longer message, and JSON without its head is none; so what is long
is shortened here, the least needed first: the traceback, then the failure's message.
"""

import os
from pathlib import Path

from finetune_api.report import TERMINATION_LIMIT_BYTES, Failure, Termination
from finetune_trainer.errors import StorageError

_CUT = "…"


def write_termination(path: Path, termination: Termination) -> None:
    """Write the message in one piece, so that a reader never sees half of it.

    On a cluster the file is there before, mounted by the kubelet, and can't be replaced by a
    rename; one write of at most 4 KiB is then as whole as it gets.

    Raises
    ------
    StorageError
        If the file can't be written.
    """
    message = encode_termination(termination)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists():
            path.write_bytes(message)
            return
        temporary.write_bytes(message)
        temporary.replace(path)
    except OSError as error:
        raise StorageError(f"{path}: can't write the termination message ({error})") from error


def encode_termination(termination: Termination) -> bytes:
    """Encode the message within the limit; the last lines of a traceback are the ones kept."""
    message = _encode(termination)
    while len(message) > TERMINATION_LIMIT_BYTES:
        failure = termination.failure
        if failure is None:
            raise ValueError(f"a termination message of {len(message)} bytes, with nothing to cut")
        excess = len(message) - TERMINATION_LIMIT_BYTES
        termination = termination.model_copy(update={"failure": _shorter(failure, excess)})
        message = _encode(termination)
    return message


def _shorter(failure: Failure, excess: int) -> Failure:
    """Cut about ``excess`` encoded bytes: a character may take several, so the caller asks again.

    At least one character goes each time.
    """
    if failure.traceback:
        kept = failure.traceback.removeprefix(_CUT)[max(1, excess // 6) + len(_CUT) :]
        return failure.model_copy(update={"traceback": _CUT + kept if kept else ""})
    if len(failure.message) > len(_CUT):
        kept = failure.message[: -(max(1, excess // 6) + len(_CUT))]
        return failure.model_copy(update={"message": kept + _CUT})
    raise ValueError("a termination message that is too long without its failure")


def _encode(termination: Termination) -> bytes:
    return termination.model_dump_json(by_alias=True, exclude_none=True).encode()
