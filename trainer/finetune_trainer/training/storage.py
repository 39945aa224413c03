"""Storage that fails for a moment, and storage that has no room. Used by ``checkpoints``.

What is retried must be no part of a collective call: other ranks would wait in another one.
"""

import errno
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from finetune_trainer.errors import StorageError

T = TypeVar("T")

_PASSING = frozenset(
    {
        errno.EIO,
        errno.ESTALE,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EAGAIN,
        errno.EBUSY,
        errno.ETIMEDOUT,
    }
)
_WAITS_SECONDS = (1.0, 2.0, 4.0, 8.0)
_log = logging.getLogger(__name__)


def persistently(work: Callable[[], T], waits: Sequence[float] = _WAITS_SECONDS) -> T:
    """Do a piece of work again, after each of the waits (seconds), while storage fails.

    Raises the last ``OSError``, or at once one that time does not heal.
    """
    for wait in waits:
        try:
            return work()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            _log.warning("storage failed, tried again in %g s: %s", wait, error)
            time.sleep(wait)
    return work()


def free_bytes(folder: Path) -> int:
    """What may still be written where a folder lies; a quota of one's own is not seen."""
    return shutil.disk_usage(folder).free


def require_room(folder: Path, needed: int, free: int) -> None:
    """Hold the room that there is against what the last checkpoint took.

    Raises
    ------
    StorageError
        If it does not suffice; nothing has been written then.
    """
    if free < needed:
        raise StorageError(
            f"{folder}: no room for a checkpoint: the last one took {needed:,} bytes, and "
            f"{free:,} are free; enlarge the volume, free space on it, or lower checkpoint.keep"
        )
