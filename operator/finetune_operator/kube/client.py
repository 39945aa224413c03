"""All requests to an API server: dicts in, dicts out.

Nothing is decoded into types, which would block the loop for seconds on a long list. Writes are
refused where they hold a field that the API server doesn't know: dropped in silence, a field of a
newer version would be missing from a pod and nobody would know. What is repeated, and what never
is, stands in ``transport``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal, Self

from finetune_operator.kube.config import Connection, find_connection
from finetune_operator.kube.errors import ExpiredError
from finetune_operator.kube.names import MANAGER
from finetune_operator.kube.resources import Json, Resource
from finetune_operator.kube.transport import OnRequest, Request, Transport

_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"
_PAGE = 500

Propagation = Literal["Background", "Foreground", "Orphan"]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All objects of a kind, in one namespace or in all, at one moment."""

    items: tuple[Json, ...]
    resource_version: str
    """The moment: every object is as it was then."""
    namespace: str | None = None
    """None: of all namespaces, or of a kind that has none."""


class KubeClient:
    """A client of one API server; usable within ``async with``.

    Every method raises an ``ApiError`` that says what was asked and what was answered.

    Parameters
    ----------
    connection
        By default what ``config.find_connection`` finds.
    timeout_seconds
        For each request, from asking for a connection to the answer's last byte.
    on_request
        Told of every answer, for metrics.
    """

    def __init__(
        self,
        connection: Connection | None = None,
        *,
        timeout_seconds: float = 30.0,
        on_request: OnRequest | None = None,
    ) -> None:
        self._connection = connection
        self._timeout_seconds = timeout_seconds
        self._on_request = on_request
        self._transport: Transport | None = None

    async def __aenter__(self) -> Self:
        connection = self._connection or await find_connection()
        self._transport = Transport(
            connection, timeout_seconds=self._timeout_seconds, on_request=self._on_request
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._open.close()
        self._transport = None

    @property
    def _open(self) -> Transport:
        assert self._transport is not None, "KubeClient is used within `async with`"
        return self._transport

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Json:
        """One object as it is now."""
        return await self._open.read(
            Request(verb="get", method="GET", resource=resource, namespace=namespace, name=name)
        )

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        page: int = _PAGE,
    ) -> Listing:
        """All objects of a kind as they are now, asked for in pages of at most ``page``.

        Pages are of one moment. If the API server has forgotten it meanwhile, all is asked for
        once more, in one piece.
        """
        selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
        query = {key: value for key, value in selectors.items() if value}
        try:
            return await self._pages(resource, namespace, {**query, "limit": str(page)})
        except ExpiredError:
            return await self._pages(resource, namespace, query)

    async def create(self, resource: Resource, body: Json, namespace: str | None = None) -> Json:
        """Make an object, in the namespace that is given or that it names itself."""
        return await self._write(
            Request(
                verb="create",
                method="POST",
                resource=resource,
                namespace=namespace or _namespace(body),
                body=body,
            )
        )

    async def apply(self, resource: Resource, body: Json, *, force: bool = True) -> Json:
        """Make an object, or make the fields that ``body`` names be so (server-side apply).

        With ``force`` fields that somebody else has set are taken over; else that is a
        ``ConflictError``.
        """
        return await self._write(
            Request(
                verb="apply",
                method="PATCH",
                resource=resource,
                namespace=_namespace(body),
                name=_name(body),
                query={"force": "true" if force else "false"},
                body={"apiVersion": resource.api_version, "kind": resource.kind, **body},
                content_type=_APPLY,
            )
        )

    async def patch_json(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        operations: Sequence[Json],
        subresource: str | None = None,
    ) -> Json:
        """Change an object by a JSON patch (RFC 6902); a failed test is an ``InvalidError``."""
        return await self._write(
            Request(
                verb="patch",
                method="PATCH",
                resource=resource,
                namespace=namespace,
                name=name,
                subresource=subresource,
                body=list(operations),
                content_type=_JSON_PATCH,
            )
        )

    async def patch_merge(
        self,
        resource: Resource,
        name: str,
        namespace: str | None,
        patch: Json,
        subresource: str | None = None,
    ) -> Json:
        """Change an object by a merge patch (RFC 7386): lists are replaced whole.

        With ``metadata.resourceVersion`` in it, an object that changed is a ``ConflictError``.
        """
        return await self._write(
            Request(
                verb="patch",
                method="PATCH",
                resource=resource,
                namespace=namespace,
                name=name,
                subresource=subresource,
                body=patch,
                content_type=_MERGE_PATCH,
            )
        )

    async def replace(self, resource: Resource, body: Json, subresource: str | None = None) -> Json:
        """Put an object in the place of the one that was read: ``ConflictError`` if it changed.

        Raises
        ------
        ValueError
            If ``body`` has no resourceVersion: it would overwrite what nobody has looked at.
        """
        if not body["metadata"].get("resourceVersion"):
            raise ValueError(f"{resource.kind} {_name(body)!r} is replaced without resourceVersion")
        return await self._write(
            Request(
                verb="update",
                method="PUT",
                resource=resource,
                namespace=_namespace(body),
                name=_name(body),
                subresource=subresource,
                body=body,
            )
        )

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
        grace_seconds: int | None = None,
        propagation: Propagation | None = None,
    ) -> Json:
        """Ask for an object's end; ``ConflictError`` if its uid or resourceVersion is another.

        Returns
        -------
        Json
            The object, where it lives on for its grace or a finalizer, else its last state or a
            bare Status. Only a watch or a listing says that it is gone.
        """
        conditions = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in conditions.items() if value is not None}
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if preconditions:
            options["preconditions"] = preconditions
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if propagation is not None:
            options["propagationPolicy"] = propagation
        return await self._open.send(
            Request(
                verb="delete",
                method="DELETE",
                resource=resource,
                namespace=namespace,
                name=name,
                body=options,
            )
        )

    async def _pages(
        self, resource: Resource, namespace: str | None, query: Mapping[str, str]
    ) -> Listing:
        items: list[Json] = []
        following: dict[str, str] = {}
        while True:
            answer = await self._open.read(
                Request(
                    verb="list",
                    method="GET",
                    resource=resource,
                    namespace=namespace,
                    query={**query, **following},
                )
            )
            # In a list the objects of a built-in kind don't say what they are.
            known = {"apiVersion": resource.api_version, "kind": resource.kind}
            items += ({**known, **item} for item in answer.get("items") or ())
            if not (token := answer["metadata"].get("continue")):
                version = answer["metadata"]["resourceVersion"]
                return Listing(items=tuple(items), resource_version=version, namespace=namespace)
            following = {"continue": token}

    async def _write(self, request: Request) -> Json:
        query = {**request.query, "fieldManager": MANAGER, "fieldValidation": "Strict"}
        return await self._open.send(replace(request, query=query))


def _name(body: Json) -> str:
    return str(body["metadata"]["name"])


def _namespace(body: Json) -> str | None:
    namespace = body["metadata"].get("namespace")
    return None if namespace is None else str(namespace)
