"""Nodes that are not there: a kubelet that plays their pods, honestly, on a real API server.

It registers nodes, keeps them alive, and leads every pod that the scheduler binds to them through a
pod's life (`kubeletpod.py`), by the script of its namespace (`kubeletscript.py`). It runs in the
test's process, in a thread and under a user of its own, so whatever becomes of the operator, it
goes on, and its account (`kubeletaccount.py`) says what every pod held.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from harness.cluster import KUBELET, Cluster
from harness.clusterclient import ClusterClient, Object
from harness.kubeletaccount import Entry
from harness.kubeletgang import Workspace
from harness.kubeletnode import Node, mend, node_object, register, renew
from harness.kubeletpod import KILLED, PodPlay, Surroundings
from harness.kubeletscript import Ending, Script
from harness.kubeletserver import addresses
from harness.loopthread import LoopThread, loop_thread

_BOUND_PODS = "fieldSelector=spec.nodeName%21%3D"
_HEARTBEAT_SECONDS = 2.0
_MENDED_EVERY = 5
"""Heartbeats from one look at a node's own state to the next."""
_POWER_CUT = Ending(exit_code=255, reason="Unknown", moment_known=False)


class SimulatedKubelet:
    """The kubelet of all its nodes; made by `running_kubelet`."""

    def __init__(self, cluster: Cluster, thread: LoopThread) -> None:
        self._cluster = cluster
        self._thread = thread
        self._client: ClusterClient
        self._names = secrets.token_hex(2)
        self._nodes: dict[str, Node] = {}
        self._scripts: dict[str, Script] = {}
        self._objects: dict[str, Object] = {}
        self._plays: dict[str, PodPlay] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._entries: dict[str, Entry] = {}
        self._workspaces: dict[str, Workspace] = {}
        self._free_addresses = addresses()
        self._failure: asyncio.Future[None]

    def node(
        self,
        name: str = "node",
        *,
        cpu: str = "64",
        memory: str = "256Gi",
        gpus: int = 8,
        gpu_product: str = "H100",
        labels: Mapping[str, str] | None = None,
        provider_id: str = "",
    ) -> str:
        """Add a node, and return its name, which begins with `name`, once pods can go there."""
        full_name = f"{name}-{self._names}-{len(self._nodes)}"
        made = node_object(
            full_name,
            cpu=cpu,
            memory=memory,
            gpus=gpus,
            gpu_product=gpu_product,
            labels=labels or {},
            provider_id=provider_id,
        )
        self._thread.call(self._register(full_name, made))
        return full_name

    def play(self, namespace: str, script: Script) -> None:
        """Say how the pods of a namespace go that are bound from now on."""
        self._scripts[namespace] = script

    def account(self, namespace: str) -> tuple[Entry, ...]:
        """Return what each pod of a namespace held, in the order of binding, as it is now."""
        return self._thread.call(self._copied(namespace))

    def kill(self, uid: str, ending: Ending = KILLED) -> None:
        """End a pod's container now."""
        self._thread.call(self._kill(uid, ending))

    def silence(self, node: str) -> None:
        """Cut a node's network: no heartbeat, no status, no reply; what runs there goes on."""
        self._thread.call(self._cut(node, power=True))

    def power_off(self, node: str) -> None:
        """End all that runs on a node, without a word of it."""
        self._thread.call(self._cut(node, power=False))

    def restore(self, node: str) -> None:
        """Bring a node back: its kubelet catches up, and reports how its pods are."""
        self._thread.call(self._restore(node))

    def remove(self, node: str) -> None:
        """Take a node away for good, with its object, as an autoscaler does."""
        self.power_off(node)
        self._cluster.request("DELETE", f"/api/v1/nodes/{node}")

    async def run(self) -> None:
        """Play until cancelled."""
        async with ClusterClient(self._cluster, KUBELET.name) as self._client:
            self._failure = asyncio.get_running_loop().create_future()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch())
                tasks.create_task(self._beat())
                tasks.create_task(self._fail())

    def close(self) -> None:
        """Take the nodes away, and what is bound to them."""
        namespaces = {entry.namespace for entry in self._entries.values()}
        for namespace in sorted(namespaces):
            self._cluster.clear(namespace)
        for node in self._nodes:
            self._cluster.request("DELETE", f"/api/v1/nodes/{node}")

    async def _register(self, name: str, made: Object) -> None:
        node = self._nodes[name] = Node(name)
        node.connected.set()
        await register(self._client, made)

    async def _copied(self, namespace: str) -> tuple[Entry, ...]:
        if self._failure.done():
            self._failure.result()
        own = [entry for entry in self._entries.values() if entry.namespace == namespace]
        return tuple(copy.copy(entry) for entry in sorted(own, key=lambda entry: entry.bound))

    async def _kill(self, uid: str, ending: Ending) -> None:
        self._plays[uid].kill(ending)

    async def _cut(self, name: str, *, power: bool) -> None:
        self._nodes[name].connected.clear()
        for play in list(self._plays.values()):
            if play.node.name == name and not power:
                play.kill(_POWER_CUT)

    async def _restore(self, name: str) -> None:
        self._nodes[name].connected.set()
        await renew(self._client, name)
        await mend(self._client, name)
        for uid, play in list(self._plays.items()):
            if play.node.name == name and uid not in self._objects:
                play.removed()
        for pod in list(self._objects.values()):
            self._see(pod)

    async def _watch(self) -> None:
        async for seen in self._client.watch("/api/v1/pods", _BOUND_PODS):
            if seen.listed is not None:
                listed = {pod["metadata"]["uid"]: pod for pod in seen.listed}
                for uid in self._objects.keys() - listed.keys():
                    self._lose(uid)
                self._objects = listed
                for pod in seen.listed:
                    self._see(pod)
            elif seen.changed is not None and seen.deleted:
                uid = seen.changed["metadata"]["uid"]
                self._objects.pop(uid, None)
                self._lose(uid)
            elif seen.changed is not None:
                self._objects[seen.changed["metadata"]["uid"]] = seen.changed
                self._see(seen.changed)

    def _see(self, pod: Object) -> None:
        """Take note of a pod, unless its node is cut off."""
        node = self._nodes.get(pod["spec"]["nodeName"])
        uid = pod["metadata"]["uid"]
        if node is None or not node.connected.is_set():
            return
        if uid in self._plays:
            self._plays[uid].update(pod)
        elif uid not in self._entries:
            self._begin(uid, pod, node)

    def _begin(self, uid: str, pod: Object, node: Node) -> None:
        around = Surroundings(
            client=self._client,
            node=node,
            script=self._scripts.get(pod["metadata"]["namespace"], Script()),
            workspaces=self._workspaces,
            free_addresses=self._free_addresses,
        )
        play = self._plays[uid] = PodPlay(pod, around)
        self._entries[uid] = play.entry
        play.update(pod)
        task = asyncio.ensure_future(play.play())
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._over(uid, done))

    def _over(self, uid: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._plays.pop(uid, None)
        if not task.cancelled() and (error := task.exception()) and not self._failure.done():
            self._failure.set_exception(error)

    def _lose(self, uid: str) -> None:
        play = self._plays.get(uid)
        if play is not None and play.node.connected.is_set():
            play.removed()

    async def _beat(self) -> None:
        """Renew every node's lease, and mend one that was declared lost meanwhile."""
        for beat in itertools.count(1):
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            for node in list(self._nodes.values()):
                if node.connected.is_set():
                    await renew(self._client, node.name)
                    if beat % _MENDED_EVERY == 0:
                        await mend(self._client, node.name)

    async def _fail(self) -> None:
        """End the kubelet when playing a pod failed: a test must not wait for it in vain."""
        await self._failure


@contextmanager
def running_kubelet(cluster: Cluster) -> Iterator[SimulatedKubelet]:
    """Run a kubelet without nodes until the block ends; an error of its own is raised then."""
    with loop_thread("kubelet") as thread:
        kubelet = SimulatedKubelet(cluster, thread)
        thread.start(kubelet.run())
        try:
            yield kubelet
        finally:
            kubelet.close()
