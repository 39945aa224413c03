"""What a node object says of the node's life: whether it answers, and since when it doesn't."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.times import parse_time


@dataclass(frozen=True, kw_only=True)
class NodeLife:
    """One node as it is now."""

    ready: bool
    gone: bool = False
    """Its object was deleted."""
    lost_at: datetime | None = None
    """Since when it isn't ready: its kubelet's last word came at most a grace before."""


def life_of(node: Mapping[str, Any] | None) -> NodeLife:
    """Read a node's Ready condition; None is a node whose object is gone.

    A node that has no such condition yet counts as ready: its kubelet has only begun.
    """
    if node is None:
        return NodeLife(ready=False, gone=True)
    conditions = node.get("status", {}).get("conditions", [])
    ready = next((one for one in conditions if one["type"] == "Ready"), None)
    if ready is None or ready["status"] == "True":
        return NodeLife(ready=True)
    # Not the condition's heartbeat: kubelets renew that every five minutes, and a Lease instead.
    since = ready.get("lastTransitionTime")
    return NodeLife(ready=False, lost_at=None if since is None else parse_time(since))
