"""What a running trainer pod serves: its progress, and its report when a step's work is done.

Called by both engines. Pods run other people's code: every reply is bounded in size and time,
leads nowhere else, and must name its pod.
"""

import asyncio
from http import HTTPStatus

import aiohttp
from pydantic import ValidationError

from finetune_api.report import Progress

_PROGRESS_BYTES = 64 * 1024
_REPORT_BYTES = 900 * 1024
"""What a ConfigMap can keep, with room for its own fields."""
_PATIENCE = aiohttp.ClientTimeout(total=1.0)
_REPORT_PATIENCE = aiohttp.ClientTimeout(total=10.0)


async def pull_progress(address: str, pod_uid: str, attempt: int) -> Progress | None:
    """What rank 0 says at ``HOST:PORT/progress``; None if it says nothing usable in time.

    A reply that names another pod or attempt is none: addresses are used again.
    """
    body = await _get(f"http://{address}/progress", _PROGRESS_BYTES, _PATIENCE)
    if body is None:
        return None
    try:
        progress = Progress.model_validate_json(body)
    except ValidationError:
        return None
    is_its = (progress.pod_uid, progress.attempt) == (pod_uid, attempt)
    return progress if is_its else None


async def pull_report(address: str) -> bytes | None:
    """The report that a pod offers at ``HOST:PORT/report``; None while it offers none."""
    return await _get(f"http://{address}/report", _REPORT_BYTES, _REPORT_PATIENCE)


async def acknowledge_report(address: str, digest: str) -> None:
    """Tell the pod that its report of this digest is durable, so that it may end.

    One that can't be told ends by itself a little later.
    """
    try:
        async with (
            aiohttp.ClientSession(timeout=_PATIENCE) as session,
            session.post(f"http://{address}/report/ack", params={"digest": digest}),
        ):
            pass
    except (aiohttp.ClientError, TimeoutError, OSError):
        return


async def _get(url: str, limit: int, patience: aiohttp.ClientTimeout) -> bytes | None:
    """The body of a reply; None if there is no success, none in time, or too much of it."""
    try:
        async with (
            aiohttp.ClientSession(timeout=patience) as session,
            session.get(url, allow_redirects=False) as reply,
        ):
            if reply.status != HTTPStatus.OK:
                return None
            body = await reply.content.read(limit + 1)
            while len(body) <= limit and not reply.content.at_eof():
                body += await reply.content.read(limit + 1 - len(body))
    except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError):
        return None
    return body if len(body) <= limit else None
