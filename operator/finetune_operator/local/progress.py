"""Asking rank 0 how far it is. The reply is bounded in size and time, and must name its pod."""

import asyncio

from pydantic import ValidationError

from finetune_api.report import Progress

_LIMIT_BYTES = 64 * 1024
_PATIENCE_SECONDS = 1.0


async def pull(address: str, pod_uid: str, attempt: int) -> Progress | None:
    """What the pod's rank 0 says at ``/progress``; None if it says nothing usable in time.

    A reply that names another pod or attempt is none: ports are used again.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            body = await _get(host, int(port))
    except (OSError, TimeoutError):
        return None
    try:
        progress = Progress.model_validate_json(body)
    except ValidationError:
        return None
    is_its = (progress.pod_uid, progress.attempt) == (pod_uid, attempt)
    return progress if is_its else None


async def _get(host: str, port: int) -> bytes:
    """The body of one HTTP/1.0 reply, empty if it is no success or too long."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET /progress HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        await writer.drain()
        reply = bytearray()
        while len(reply) <= _LIMIT_BYTES and (chunk := await reader.read(8192)):
            reply += chunk
    finally:
        writer.close()
    head, _, body = bytes(reply).partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0].split(b" ")
    succeeded = len(status) > 1 and status[1] == b"200"
    return body if succeeded and len(reply) <= _LIMIT_BYTES else b""
