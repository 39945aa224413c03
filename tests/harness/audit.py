"""Who asked the API server for what: its audit log, counted.

`controlplane.py` starts the API server with the policy that is written here. Tests count the
requests of one client, which has a user of its own, by verb, resource and subresource.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from finetune_api.times import parse_time

COMPLETE = "ResponseComplete"
# Everything at Metadata level but the questions for health; each request once, when it has been
# answered. A watch stands there when it ends.
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        {"level": "None", "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*"]},
        {"level": "Metadata"},
    ],
}


@dataclass(frozen=True)
class Asked:
    """One request that was answered."""

    user: str
    verb: str
    resource: str
    """In the plural, empty for an address that is no resource, for example `/apis`."""
    subresource: str
    namespace: str
    name: str
    code: int
    at: datetime
    """When it came in."""
    path: str


def write_audit_policy(folder: Path) -> Path:
    """Write the policy for an API server, and return where it lies."""
    path = folder / "audit-policy.json"
    path.write_text(json.dumps(POLICY))
    return path


def asked(log: Path) -> Iterator[Asked]:
    """Read the log as far as it is written; a line that is being written is left for later."""
    with log.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                event = json.loads(line)
                if event["stage"] == COMPLETE:
                    yield read_event(event)


def read_event(event: dict[str, Any]) -> Asked:
    """Take what is counted out of an event of `audit.k8s.io/v1`."""
    target = event.get("objectRef", {})
    return Asked(
        user=event["user"]["username"],
        verb=event["verb"],
        resource=target.get("resource", ""),
        subresource=target.get("subresource", ""),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        at=parse_time(event["requestReceivedTimestamp"]),
        path=event["requestURI"],
    )


def count_requests(
    log: Path,
    *,
    user: str | None = None,
    namespace: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Counter[tuple[str, str, str]]:
    """Count requests by verb, resource and subresource.

    Parameters
    ----------
    log
        The API server's audit log.
    user
        Only those of this user; a service account's name is
        `system:serviceaccount:NAMESPACE:NAME`.
    namespace
        Only those for something in this namespace.
    since, until
        Only those that came in from this moment on, and before that one.
    """
    start = since or datetime.min.replace(tzinfo=UTC)
    end = until or datetime.max.replace(tzinfo=UTC)
    return Counter(
        (one.verb, one.resource, one.subresource)
        for one in asked(log)
        if (user is None or one.user == user)
        and (namespace is None or one.namespace == namespace)
        and start <= one.at < end
    )
