"""What a container finds when it starts: its environment and its run file, from the pod's spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from finetune_api.run import Env, Run
from harness.clusterclient import ClusterClient, Object

_KEYED = re.compile(r"metadata\.(annotations|labels)\['([^']+)'\]")


def environment(pod: Object, ip: str) -> dict[str, str]:
    """Return the container's variables, those of the downward API as they are at its start."""
    return {
        one["name"]: _field(pod, ip, one["valueFrom"]["fieldRef"]["fieldPath"])
        if "valueFrom" in one
        else one.get("value", "")
        for one in pod["spec"]["containers"][0].get("env", ())
    }


def _field(pod: Object, ip: str, path: str) -> str:
    keyed = _KEYED.fullmatch(path)
    if keyed is not None:
        values: Mapping[str, str] = pod["metadata"].get(keyed[1], {})
        return values.get(keyed[2], "")
    plain: dict[str, str] = {
        "metadata.name": pod["metadata"]["name"],
        "metadata.namespace": pod["metadata"]["namespace"],
        "metadata.uid": pod["metadata"]["uid"],
        "spec.nodeName": pod["spec"]["nodeName"],
        "status.podIP": ip,
        "status.hostIP": "127.0.0.1",
    }
    return plain[path]


def config_maps(pod: Object) -> dict[str, str]:
    """Return the ConfigMaps that must be there before the container starts, by volume."""
    return {
        volume["name"]: volume["configMap"]["name"]
        for volume in pod["spec"].get("volumes", ())
        if "configMap" in volume and not volume["configMap"].get("optional")
    }


async def mounted(client: ClusterClient, pod: Object) -> dict[str, dict[str, str]] | None:
    """Return the files of each ConfigMap volume; None while one isn't there."""
    files = {}
    for volume, name in config_maps(pod).items():
        path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/configmaps/{name}"
        reply = await client.request("GET", path)
        if reply.status != 200:
            return None
        files[volume] = reply.body.get("data", {})
    return files


def run_file(
    pod: Object, env: Mapping[str, str], files: Mapping[str, Mapping[str, str]]
) -> Run | None:
    """Read the run where the environment says that it lies; None for a pod that has none."""
    if Env.RUN_FILE not in env:
        return None
    path = PurePosixPath(env[Env.RUN_FILE])
    for mount in pod["spec"]["containers"][0].get("volumeMounts", ()):
        place = PurePosixPath(mount["mountPath"])
        content = files.get(mount["name"], {})
        if mount.get("subPath") and place == path:
            return Run.model_validate_json(content[mount["subPath"]])
        if path.parent == place and path.name in content:
            return Run.model_validate_json(content[path.name])
    raise LookupError(f"{pod['metadata']['name']}: nothing is mounted at {path}")
