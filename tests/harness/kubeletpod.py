"""One pod's life on a simulated node, from its binding to its last word, as a kubelet leads it.

Written after what the kubelet of Kubernetes 1.34 does, in its order: each status is reported before
the next step that others may see, and an object is deleted only once its end has been reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from finetune_api.report import Step
from harness.clusterclient import STRATEGIC_MERGE, ClusterClient, Object
from harness.kubeletaccount import Entry, open_entry
from harness.kubeletfiles import environment, mounted, run_file
from harness.kubeletgang import Workspace
from harness.kubeletnode import Node
from harness.kubeletprocess import Process
from harness.kubeletscript import (
    Ending,
    Evict,
    Fault,
    Hang,
    IgnoreSigterm,
    ImagePullFailure,
    Kill,
    Script,
)
from harness.kubeletserver import PodServer, reserve
from harness.kubeletstatus import Life, pod_status, whole_now
from harness.kubeletstories import killed, tell

_T = TypeVar("_T")
_AGAIN_SECONDS = 0.2
_NEVER_STARTED = Ending(exit_code=137, reason="ContainerStatusUnknown")
KILLED = Ending(exit_code=137, reason="Error")
_PRESSURE = "The node was low on resource: memory."


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a pod needs of its kubelet."""

    client: ClusterClient
    node: Node
    script: Script
    workspaces: dict[str, Workspace]
    """By the job's uid."""
    free_addresses: Iterator[str]


class PodPlay:
    """Plays one pod; `play` returns when its object may go."""

    def __init__(self, pod: Object, around: Surroundings) -> None:
        self.entry: Entry = open_entry(pod)
        self.node = around.node
        self._pod = pod
        self._around = around
        self._path = (
            f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"
        )
        self._life = Life(began=whole_now())
        self._conditions: dict[str, Object] = {}
        self._status: Object | None = None
        self._sender: asyncio.Task[None] | None = None
        self._deleting = asyncio.Event()
        self._sigterm = asyncio.Event()
        self._killed: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._kill_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._server: PodServer | None = None

    def update(self, pod: Object) -> None:
        """Take note of what the API server says of the pod now."""
        self._pod = pod
        metadata = pod["metadata"]
        if "deletionTimestamp" in metadata:
            self._deleting.set()
            self.stop(metadata.get("deletionGracePeriodSeconds", 0))
        elif pod["status"].get("phase") == "Failed" and self._life.ending is None:
            # Declared so by others while its node was silent.
            self.stop(pod["spec"].get("terminationGracePeriodSeconds", 0))

    def removed(self) -> None:
        """Its object is gone: whatever still runs is ended at once."""
        self._deleting.set()
        self.stop(0)

    def stop(self, grace_seconds: float) -> None:
        """Ask the container to end, and kill it after the grace; the earliest end holds."""
        loop = asyncio.get_running_loop()
        kill_at = loop.time() + grace_seconds
        if self._kill_at is None or kill_at < self._kill_at:
            if self._timer is not None:
                self._timer.cancel()
            self._kill_at = kill_at
            self._timer = loop.call_at(kill_at, self.kill, KILLED)
        self._sigterm.set()

    def kill(self, ending: Ending) -> None:
        """End the container now, in that way."""
        if not self._killed.done():
            self._killed.set_result(ending)

    async def play(self) -> None:
        """Lead the pod from its binding to the end of its object."""
        try:
            ending = await self._container()
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._server is not None:
                await self._server.close()
        finished = max(whole_now(), self._life.started or self._life.began)
        self.entry.ended(finished, ending)
        self._live(finished=finished, ending=ending, ready=False)
        await self._deleting.wait()
        await self._reported()
        await self._let_go()

    async def _container(self) -> Ending:
        self._live()
        files = await self._unless_ended(self._prepare())
        if files is None:
            return self._killed.result() if self._killed.done() else _NEVER_STARTED
        process = await self._start(files)
        metadata = self._pod["metadata"]
        job = process.run.job.uid if process.run else metadata["uid"]
        workspace = self._around.workspaces.setdefault(job, Workspace())
        story = asyncio.ensure_future(tell(process, self._around.script, workspace))
        faults = [
            asyncio.ensure_future(self._suffer(fault, process, workspace))
            for fault in self._faults()
        ]
        try:
            await asyncio.wait({story, self._killed}, return_when=asyncio.FIRST_COMPLETED)
            for fault in faults:
                if fault.done():
                    fault.result()
            return story.result() if story.done() else self._killed.result()
        finally:
            for task in (story, *faults):
                task.cancel()
            await asyncio.gather(story, *faults, return_exceptions=True)

    async def _prepare(self) -> dict[str, dict[str, str]]:
        """Pull the image and mount what is to be mounted, however long that takes."""
        if any(isinstance(fault, ImagePullFailure) for fault in self._faults()):
            await self._fail_to_pull()
        await asyncio.sleep(self._around.script.pull_seconds)
        while True:
            await self._connected()
            files = await mounted(self._around.client, self._pod)
            if files is not None:
                return files
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _fail_to_pull(self) -> None:
        image = self._pod["spec"]["containers"][0]["image"]
        self._live(waiting=("ErrImagePull", f'failed to pull "{image}": not found'))
        await self._reported()
        self._live(waiting=("ImagePullBackOff", f'Back-off pulling image "{image}"'))
        await asyncio.Event().wait()

    async def _start(self, files: dict[str, dict[str, str]]) -> Process:
        reserved = reserve(self._around.free_addresses)
        self._server = server = PodServer(reserved, self.node, changed=self._probe)
        env = environment(self._pod, server.ip)
        started = max(whole_now(), self._life.began)
        self.entry.started = started
        self._live(ip=server.ip, started=started, ready=self._probe_path() is None)
        deaf = any(isinstance(fault, IgnoreSigterm) for fault in self._faults())
        return Process(
            uid=self._pod["metadata"]["uid"],
            name=self._pod["metadata"]["name"],
            started=started,
            env=env,
            run=run_file(self._pod, env, files),
            sigterm=asyncio.Event() if deaf else self._sigterm,
            server=server,
            node=self.node,
        )

    def _faults(self) -> list[Fault]:
        entry = self.entry
        if entry.step is None or entry.attempt is None:
            return []
        return [
            fault
            for fault in self._around.script.faults
            if fault.meets(entry.step, entry.attempt, entry.worker)
        ]

    async def _suffer(self, fault: Fault, process: Process, workspace: Workspace) -> None:
        """Let a fault happen when it is due."""
        run = process.run
        training = None
        if run is not None and run.step is Step.TRAIN:
            training = workspace.training(process, run, self._around.script)
        if training is not None and fault.at_step is not None:
            await training.reached(fault.at_step)
        else:
            await asyncio.sleep(fault.after_seconds)
        match fault:
            case Kill():
                self.kill(killed(process, fault))
            case Evict(pressure=True):
                self.kill(replace(KILLED, evicted=_PRESSURE))
            case Evict():
                await self._evict()
            case Hang() if training is not None:
                training.hang()

    async def _evict(self) -> None:
        metadata = self._pod["metadata"]
        body = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        }
        await self._around.client.request("POST", f"{self._path}/eviction", body)

    def _probe_path(self) -> str | None:
        probe = self._pod["spec"]["containers"][0].get("readinessProbe")
        return str(probe["httpGet"]["path"]) if probe else None

    def _probe(self) -> None:
        """Look again whether the container is ready, now that it serves more."""
        path = self._probe_path()
        if path is not None and self._server is not None and self._server.answers(path):
            self._live(ready=True)

    # The fields of a `Life`, whatever they are here.
    def _live(self, **changes: Any) -> None:
        """Go on to the next part of its life, and report it."""
        self._life = replace(self._life, **changes)
        self._status, self._conditions = pod_status(self._pod, self._life, self._conditions)
        if self._sender is None or self._sender.done():
            if self._sender is not None:
                self._sender.result()
            self._sender = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        """Report the newest status until it is known, or nobody is left to know it."""
        while self._status is not None:
            await self._connected()
            status = self._status
            reply = await self._around.client.request(
                "PATCH",
                f"{self._path}/status",
                {"metadata": {"uid": self._pod["metadata"]["uid"]}, "status": status},
                content_type=STRATEGIC_MERGE,
            )
            if reply.status in (404, 409):
                return
            assert reply.status < 400 or reply.status >= 429, f"{self._path}: {reply.message}"
            if reply.status != 200:
                await asyncio.sleep(_AGAIN_SECONDS)
            elif self._status is status:
                return

    async def _reported(self) -> None:
        if self._sender is not None:
            await self._sender

    async def _let_go(self) -> None:
        """Delete the object for good; finalizers decide when it goes."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": {"uid": self._pod["metadata"]["uid"]},
        }
        await self._connected()
        await self._around.client.request("DELETE", self._path, body)

    async def _connected(self) -> None:
        await self.node.connected.wait()

    async def _unless_ended(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """Do something before the container starts; None if the pod is to end first."""
        task = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._sigterm.wait())
        try:
            await asyncio.wait({task, asked, self._killed}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            asked.cancel()
            await asyncio.gather(task, asked, return_exceptions=True)
