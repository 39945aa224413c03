"""Which of several operators works: the holder of a Lease. The others wait in ``acquire``.

A holder is given up on when its Lease was seen unchanged for as long as it promised to renew it,
by the clock of whoever waits: two machines' clocks are never compared. The holder itself stops
earlier, when it could not renew in time, so that both don't work at once. (The algorithm is that of
client-go's leaderelection; each write carries the resourceVersion it replaces, so one can win.)
"""

import asyncio
import logging
import math
import random
from datetime import UTC, datetime, timedelta

from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    NotFoundError,
)
from finetune_operator.kube.resources import LEASES, Json

_log = logging.getLogger(__name__)

_JITTER = 0.2
"""Waits are up to this share longer, by chance, so that waiting operators don't ask in step."""
_RELEASED_DURATION_SECONDS = 1
_KIND = {"apiVersion": LEASES.api_version, "kind": LEASES.kind}


class Lease:
    """One operator's part in the election.

    Parameters
    ----------
    client
        Of the API server that keeps the Lease.
    namespace, name
        The Lease that all of them compete for; it is made if it isn't there.
    identity
        Who this is, and nobody else.
    duration
        For how long others respect a Lease that isn't renewed. Its holder trusts in it for two
        thirds of that, and renews it every two fifteenths (15, 10 and 2 s, as in Kubernetes' own
        components).

    Attributes
    ----------
    held
        Set while this one is the holder.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        duration: timedelta = timedelta(seconds=15),
    ) -> None:
        seconds = duration.total_seconds()
        self.held = asyncio.Event()
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration_seconds = math.ceil(seconds)
        self._trusted_seconds = seconds * 10 / 15
        self._retry_seconds = seconds * 2 / 15
        self._random = random.SystemRandom()
        self._trusted_until = 0.0
        self._seen: Json = {}
        self._seen_at = 0.0

    async def acquire(self) -> None:
        """Wait until this one is the holder, however long that takes."""
        while True:
            try:
                if await self._take():
                    return
            except (AlreadyExistsError, ConflictError):
                # Somebody else was quicker.
                pass
            except ApiError as error:
                _log.warning("the lease can't be taken yet: %s", error)
            await self._pause()

    async def keep(self) -> None:
        """Renew what was acquired, and return when that has failed.

        All work must end then, at once: somebody else may begin.
        """
        while await self._renewed_in_time():
            await self._pause()
        self.held.clear()
        _log.error("the lease %s/%s is lost", self._namespace, self._name)

    async def release(self) -> None:
        """Let the next one begin at once. Called last, when ``keep`` and all work have ended."""
        if not self.held.is_set():
            return
        self.held.clear()
        try:
            lease = await self._client.get(LEASES, self._name, self._namespace)
            if _holder(lease) == self._identity:
                released = {
                    **lease["spec"],
                    "holderIdentity": "",
                    "leaseDurationSeconds": _RELEASED_DURATION_SECONDS,
                    "renewTime": _micro_time(),
                }
                await self._client.replace(LEASES, {**lease, "spec": released})
        except ApiError as error:
            _log.warning("the lease was not released and ends by itself: %s", error)

    async def _renewed_in_time(self) -> bool:
        try:
            async with asyncio.timeout_at(self._trusted_until):
                while True:
                    try:
                        return await self._renew()
                    except ApiError as error:
                        _log.warning("the lease can't be renewed yet: %s", error)
                    await self._pause()
        except TimeoutError:
            return False

    async def _take(self) -> bool:
        """Take the lease if nobody has it; whether it is ours now."""
        lease = await self._read()
        if lease is not None and not self._is_free(lease):
            return False
        await self._write(lease)
        self.held.set()
        return True

    async def _renew(self) -> bool:
        """Renew the lease unless somebody else has it; whether it is ours still."""
        lease = await self._read()
        if lease is not None and _holder(lease) != self._identity:
            return False
        await self._write(lease)
        return True

    async def _read(self) -> Json | None:
        try:
            return await self._client.get(LEASES, self._name, self._namespace)
        except NotFoundError:
            return None

    def _is_free(self, lease: Json) -> bool:
        """Whether nobody holds it, or its holder let it lie for as long as it promised not to."""
        now, spec = _now(), lease["spec"]
        if spec != self._seen:
            self._seen, self._seen_at = spec, now
        if _holder(lease) in {"", self._identity}:
            return True
        return now - self._seen_at >= float(spec.get("leaseDurationSeconds", 0))

    async def _write(self, lease: Json | None) -> None:
        """Put our name into the lease as it was read, or into a new one."""
        asked_at, time = _now(), _micro_time()
        old: Json = {} if lease is None else lease["spec"]
        same = lease is not None and _holder(lease) == self._identity
        spec = {
            **old,
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._duration_seconds,
            "acquireTime": old["acquireTime"] if same else time,
            "renewTime": time,
            "leaseTransitions": old.get("leaseTransitions", 0) + (0 if same or not old else 1),
        }
        if lease is None:
            metadata = {"namespace": self._namespace, "name": self._name}
            await self._client.create(LEASES, {**_KIND, "metadata": metadata, "spec": spec})
        else:
            await self._client.replace(LEASES, {**lease, "spec": spec})
        # From when it was asked, not answered: others count from the write, which lies between.
        self._trusted_until = asked_at + self._trusted_seconds

    async def _pause(self) -> None:
        jitter = self._random.uniform(0, _JITTER)
        await asyncio.sleep(self._retry_seconds * (1 + jitter))


def _holder(lease: Json) -> str:
    return str(lease["spec"].get("holderIdentity") or "")


def _now() -> float:
    """The clock that `asyncio.timeout_at` goes by; it never jumps."""
    return asyncio.get_running_loop().time()


def _micro_time() -> str:
    """Now, as Kubernetes' MicroTime: in UTC, always with six digits."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
