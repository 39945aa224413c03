"""What went wrong with the cluster, in words for the person who called for it."""

from __future__ import annotations

from pathlib import Path

_LAST_LINES = 15


class ClusterError(Exception):
    """A part could not be started, built or stopped; the message says which and why."""


def with_log(message: str, log: Path) -> ClusterError:
    """Return an error with the end of a log under it."""
    lines = log.read_text(errors="replace").splitlines()[-_LAST_LINES:] if log.exists() else []
    return ClusterError(
        "\n".join([message, f"the end of {log}:", *(f"  {line}" for line in lines)])
    )
