"""Pod Security "restricted", asked of a pod's spec without an API server.

Written after the Pod Security Standards of Kubernetes 1.34, for pods of Linux with plain and init
containers; an integration test compares it with the real admission.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# A pod's spec as JSON has it.
Object = dict[str, Any]

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: Object) -> list[str]:
    """Return everything in a pod's spec that "restricted" forbids."""
    pod = spec.get("securityContext", {})
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    found += [f"securityContext.{key}" for key in _of_the_host(pod)]
    found += [
        f"volume {volume['name']}"
        for volume in spec.get("volumes", ())
        if set(volume) - {"name"} - _VOLUMES
    ]
    for container in (*spec["containers"], *spec.get("initContainers", ())):
        found += [f"{container['name']}: {what}" for what in _of_container(container, pod)]
    return found


def _of_the_host(context: Object) -> Iterator[str]:
    if context.get("sysctls"):
        yield "sysctls"
    if "seLinuxOptions" in context:
        yield "seLinuxOptions"
    if context.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield "appArmorProfile"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "windowsOptions"


def _of_container(container: Object, pod: Object) -> Iterator[str]:
    own = container.get("securityContext", {})
    yield from _of_the_host(own)
    if own.get("privileged"):
        yield "privileged"
    if own.get("procMount", "Default") != "Default":
        yield "procMount"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", ()):
        yield "capabilities.drop"
    if set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runAsUser"
    profile = own.get("seccompProfile", pod.get("seccompProfile", {}))
    if profile.get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "seccompProfile"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield "hostPort"
    probes = (container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness", "startup"))
    if any(probe.get(way, {}).get("host") for probe in probes for way in ("httpGet", "tcpSocket")):
        yield "probe host"
