"""One request to an API server and its answer, or the error that the answer means.

Used by ``client`` alone, which says what can be asked.

Repetition: a GET that got no answer is asked once more. No write is repeated here; aiohttp itself
repeats a PUT or DELETE once, if a kept connection turns out to be closed. Both are safe: a PUT
carries the resourceVersion that it replaces, and what is deleted twice is gone. A request that was
refused as unauthenticated (401) did nothing, and is asked again if there are newer credentials.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from finetune_operator.kube.config import ConfigurationError, Connection
from finetune_operator.kube.errors import (
    ApiError,
    Refusal,
    UnauthenticatedError,
    UnreachableError,
    error_of,
)
from finetune_operator.kube.names import MANAGER
from finetune_operator.kube.resources import Json, Resource, path

_log = logging.getLogger(__name__)

JSON = "application/json"
_SHOWN_OF_ANSWER = 300

OnRequest = Callable[[str, str, int], None]
"""Told of each answer: the verb, the resource's plural, and the HTTP status, 0 for none."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of the API server."""

    verb: str
    """As RBAC and the API server's own metrics name it, and ``apply``."""
    method: str
    resource: Resource
    namespace: str | None
    name: str | None = None
    subresource: str | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    # An object, or the list of operations of a JSON patch.
    body: Any = None
    content_type: str = JSON

    def __str__(self) -> str:
        """What was asked, for people."""
        name = self.name
        if name is None and isinstance(self.body, Mapping):
            name = self.body["metadata"].get("name")
        place = "/".join(part for part in (self.namespace, name) if part)
        what = "/".join(part for part in (self.resource.plural, self.subresource) if part)
        return f"{self.verb} {what} {place}".rstrip()

    @property
    def path(self) -> str:
        """Where it is asked."""
        return path(self.resource, self.namespace, self.name, self.subresource)


class Transport:
    """Connections to one API server; opened and closed by ``client``."""

    def __init__(
        self, connection: Connection, *, timeout_seconds: float, on_request: OnRequest | None
    ) -> None:
        self._connection = connection
        self._on_request = on_request
        # Proxies come from the kubeconfig, never from the environment: `trust_env` is off.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=connection.ssl),
            timeout=aiohttp.ClientTimeout(total=timeout_seconds),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def read(self, request: Request) -> Json:
        """Send a GET, and once more at once if its connection broke.

        Not after a timeout, and not if the server says that it is in trouble.
        """
        try:
            return await self.send(request)
        except UnreachableError as error:
            if error.status is not None or isinstance(error.__cause__, TimeoutError):
                raise
        return await self.send(request)

    async def send(self, request: Request) -> Json:
        """Send a request, and again if it was unauthenticated and there are newer credentials.

        Raises
        ------
        ApiError
            What was asked and what was answered.
        """
        authorization = await self._authorization(request)
        try:
            return await self._exchange(request, authorization)
        except UnauthenticatedError:
            if not await self._connection.renew(authorization):
                raise
        return await self._exchange(request, await self._authorization(request))

    async def _authorization(self, request: Request) -> str | None:
        try:
            return await self._connection.authorization()
        except ConfigurationError as error:
            raise _unreachable(request, error) from error

    async def _exchange(self, request: Request, authorization: str | None) -> Json:
        headers = {"Accept": JSON, "User-Agent": MANAGER}
        if authorization is not None:
            headers["Authorization"] = authorization
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        status = 0
        try:
            async with self._session.request(
                request.method,
                self._connection.server + request.path,
                params=request.query,
                headers=headers,
                data=None if request.body is None else json.dumps(request.body),
                proxy=self._connection.proxy,
                server_hostname=self._connection.server_hostname,
                allow_redirects=False,
            ) as response:
                content = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _unreachable(request, error) from error
        finally:
            if self._on_request is not None:
                self._on_request(request.verb, request.resource.plural, status)
        for warning in response.headers.getall("Warning", ()):
            _log.warning("%s: the API server warns: %s", request, warning)
        return _answer(request, response, content)


def _answer(request: Request, response: aiohttp.ClientResponse, content: bytes) -> Json:
    """The object that came back.

    Raises
    ------
    ApiError
        If it is a refusal, or something else than the API server has answered.
    """
    try:
        answer: Any = json.loads(content)
    except ValueError:
        answer = None
    if response.ok and isinstance(answer, dict):
        return answer
    if response.ok:
        raise _unreachable(request, f"an answer that is no object: {_shown(content)}")
    told = answer if isinstance(answer, dict) and answer.get("kind") == "Status" else {}
    details = told.get("details") or {}
    after = response.headers.get("Retry-After") or details.get("retryAfterSeconds")
    raise error_of(
        str(request),
        Refusal(
            status=response.status,
            reason=told.get("reason", ""),
            message=told.get("message") or _shown(content) or response.reason or "",
            retry_after=_seconds(after),
        ),
    )


def _unreachable(request: Request, why: object) -> ApiError:
    # Some of these errors, a timeout among them, have no text of their own.
    text = str(why) or type(why).__name__
    return error_of(str(request), Refusal(status=None, message=f"no answer: {text}"))


def _shown(content: bytes) -> str:
    return content[:_SHOWN_OF_ANSWER].decode(errors="replace")


def _seconds(text: object) -> float | None:
    """Retry-After as the API server writes it: seconds. A proxy's date says nothing to us."""
    try:
        return None if text is None else float(str(text))
    except ValueError:
        return None
