"""The kinds of objects that the operator reads or writes, and where the API server keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from finetune_operator.kube.names import GROUP, VERSION

Json = Mapping[str, Any]
"""An object as the API server sends it: JSON, whose fields are asked for by name."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One kind of object."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What an object of this kind says in ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version


FINETUNE_JOBS = Resource(group=GROUP, version=VERSION, plural="finetunejobs", kind="FineTuneJob")
USAGE_RECORDS = Resource(group=GROUP, version=VERSION, plural="usagerecords", kind="UsageRecord")
RATE_CARDS = Resource(
    group=GROUP, version=VERSION, plural="ratecards", kind="RateCard", namespaced=False
)
JOBS = Resource(group="batch", version="v1", plural="jobs", kind="Job")
PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps", kind="ConfigMap")
SERVICES = Resource(group="", version="v1", plural="services", kind="Service")
CLAIMS = Resource(
    group="", version="v1", plural="persistentvolumeclaims", kind="PersistentVolumeClaim"
)
NETWORK_POLICIES = Resource(
    group="networking.k8s.io", version="v1", plural="networkpolicies", kind="NetworkPolicy"
)
# Of the core group, not of events.k8s.io: there a repetition's count can be patched.
EVENTS = Resource(group="", version="v1", plural="events", kind="Event")
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
NODES = Resource(group="", version="v1", plural="nodes", kind="Node", namespaced=False)


def path(
    resource: Resource,
    namespace: str | None = None,
    name: str | None = None,
    subresource: str | None = None,
) -> str:
    """The path of an object, or without a name of its collection.

    Without a namespace the collection is that of all namespaces.

    Raises
    ------
    ValueError
        If a namespace is given to what has none, or an object of a namespace is asked for
        without one: the API server would answer such a path with a bare 404.
    """
    if namespace is not None and not resource.namespaced:
        raise ValueError(f"a {resource.kind} is in no namespace, but {namespace!r} was given")
    if name is not None and namespace is None and resource.namespaced:
        raise ValueError(f"{resource.kind} {name!r} was asked for without its namespace")
    prefix = f"/apis/{resource.group}" if resource.group else "/api"
    parts = [prefix, resource.version]
    if namespace is not None:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(resource.plural)
    if name is not None:
        parts.append(quote(name, safe=""))
        if subresource is not None:
            parts.append(subresource)
    return "/".join(parts)
