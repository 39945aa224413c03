"""What the API server last said of one kind of object. Fed by watches, listings, own writes.

These come in any order: a watch may be behind the answer to a write, a listing behind both, and a
deletion may be overtaken by an older change. Each carries a resourceVersion, and of two words about
one name the later holds. (The versions of one kind are compared as integers, which etcd's always
were and the API's concepts state since Kubernetes 1.35.)

Objects are handed out as they are held, and must not be changed.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.client import KubeClient, Listing
from finetune_operator.kube.resources import Json, Resource

_Key = tuple[str, str]
"""Namespace, empty where there is none, and name."""


@dataclass
class _Index:
    """Names by the value of one label."""

    label: str
    names: dict[str, set[_Key]] = field(default_factory=dict)

    def add(self, key: _Key, body: Json) -> None:
        value = _labels(body).get(self.label)
        if value is not None:
            self.names.setdefault(value, set()).add(key)

    def remove(self, key: _Key, body: Json) -> None:
        value = _labels(body).get(self.label)
        if value is not None:
            self.names[value].remove(key)
            if not self.names[value]:
                del self.names[value]


class Cache:
    """Objects of one kind, in one, several or all namespaces.

    Parameters
    ----------
    resource
        Their kind.
    labels
        Those that ``by_label`` may be asked for.
    """

    def __init__(self, resource: Resource, *, labels: Iterable[str] = (JOB_UID_LABEL,)) -> None:
        self.resource = resource
        self._held: dict[_Key, Json] = {}
        self._indexes = {label: _Index(label) for label in labels}
        # When a name was last known to have ended; until a listing makes that common knowledge.
        self._ended: dict[_Key, int] = {}
        # When a namespace, or under None all of them, was last listed.
        self._listed: dict[str | None, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def get(self, namespace: str | None, name: str) -> Json | None:
        """One object, or None if there is none as far as is known."""
        return self._held.get((namespace or "", name))

    def items(self) -> tuple[Json, ...]:
        """Every object, by namespace and name."""
        return tuple(self._held[key] for key in sorted(self._held))

    def by_label(self, label: str, value: str) -> tuple[Json, ...]:
        """Every object whose label has that value, by namespace and name.

        Raises
        ------
        KeyError
            If the cache was made without that label.
        """
        return tuple(self._held[key] for key in sorted(self._indexes[label].names.get(value, ())))

    def put(self, body: Json) -> None:
        """Take in an object from a watch or from the answer to a write, unless it is old news."""
        key = _key(body)
        if _version(body) > max(self._told_until(key), self._listed_until(key[0])):
            self._hold(key, body)

    def remove(self, body: Json) -> None:
        """Take in that an object is gone: a watch's last word, or what was asked for in vain.

        A namesake that was made after it stays.
        """
        key, version = _key(body), _version(body)
        held = self._held.get(key)
        if held is not None:
            # Of the same object nothing can follow its end, however old the word for it is.
            if held["metadata"]["uid"] == body["metadata"]["uid"]:
                version = max(version, _version(held))
            if _version(held) > version:
                return
            self._drop(key)
        self._ended[key] = max(version, self._ended.get(key, 0))

    def replace(self, listing: Listing) -> None:
        """Take in all that there is in a namespace or in all, but keep what is newer."""
        moment, scope = int(listing.resource_version), listing.namespace
        if moment < self._listed_until(scope):
            return
        listed = {_key(body) for body in listing.items}
        for key in [key for key in self._held if _within(key, scope) and key not in listed]:
            if _version(self._held[key]) <= moment:
                self._drop(key)
        for body in listing.items:
            key = _key(body)
            later = self._listed_until(key[0])
            # A later listing of its namespace alone has left it out, if it isn't held.
            known = max(self._told_until(key), later if later > moment else 0)
            if _version(body) > known:
                self._hold(key, body)
        self._listed[scope] = moment
        # From here on anything older is known to be old by the listing itself.
        for key in [key for key, ended in self._ended.items() if ended <= moment]:
            if _within(key, scope):
                del self._ended[key]

    def _told_until(self, key: _Key) -> int:
        """The version of the last word about this very name."""
        held = self._held.get(key)
        return max(0 if held is None else _version(held), self._ended.get(key, 0))

    def _listed_until(self, namespace: str | None) -> int:
        """The version up to which all is known of a namespace, or under None of every one."""
        return max(self._listed.get(namespace, 0), self._listed.get(None, 0))

    def _hold(self, key: _Key, body: Json) -> None:
        self._drop(key)
        self._held[key] = body
        for index in self._indexes.values():
            index.add(key, body)

    def _drop(self, key: _Key) -> None:
        body = self._held.pop(key, None)
        if body is not None:
            for index in self._indexes.values():
                index.remove(key, body)


async def relist(
    client: KubeClient,
    cache: Cache,
    *,
    namespaces: Collection[str] = (),
    label_selector: str | None = None,
) -> None:
    """Ask for all objects of a cache's kind, and put right what a watch has missed.

    Parameters
    ----------
    client
        Of the API server that the cache is about.
    cache
        What is put right.
    namespaces
        Empty: all of them, or the kind has none.
    label_selector
        The same one that the cache's watch has.
    """
    for namespace in namespaces or (None,):
        cache.replace(await client.list(cache.resource, namespace, label_selector=label_selector))


def _key(body: Json) -> _Key:
    metadata = body["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _version(body: Json) -> int:
    return int(body["metadata"]["resourceVersion"])


def _labels(body: Json) -> Any:
    return body["metadata"].get("labels") or {}


def _within(key: _Key, scope: str | None) -> bool:
    return scope is None or key[0] == scope
