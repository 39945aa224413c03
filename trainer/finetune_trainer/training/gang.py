"""The gang's process group: made before any library makes its own, left in order.

Used by ``session`` and by what ranks decide together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Literal, TypeVar, cast

import torch
import torch.distributed as dist

from finetune_api.report import Failure
from finetune_trainer.errors import NodeFaultError
from finetune_trainer.training.place import Place
from finetune_trainer.training.signs import SignsOfWork
from finetune_trainer.training.watch import Watch, every_group

T = TypeVar("T")

_PATIENCE = timedelta(days=1)
"""How long ranks wait for each other outside of steps, where one may wait for slow storage.

In a save a ``Watch`` looks after them there. In loading the operator does, by
``policy.stallTimeoutSeconds``, which is no longer.
"""


def claim_device(kind: Literal["cpu", "cuda"], place: Place) -> torch.device:
    """The device of this rank.

    Raises
    ------
    NodeFaultError
        If a GPU was promised and none is visible: training on the CPU instead would be paid as if
        it had one.
    """
    if kind == "cpu":
        return torch.device("cpu")
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen <= place.local_rank:
        raise NodeFaultError(
            f"rank {place.rank} was promised a GPU and sees {seen} on its worker, which has "
            f"{place.local_world_size} ranks: the node's driver or device plugin is at fault"
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)


def backend_of(device: torch.device) -> str:
    """The collectives' library for a device."""
    return "gloo" if device.type == "cpu" else "nccl"


@contextmanager
def process_group(
    place: Place,
    device: torch.device,
    *,
    step_timeout: timedelta,
    end: Callable[[Failure], None] | None = None,
) -> Iterator["Gang"]:
    """Meet the other ranks; the group is left together, or not at all after an error.

    ``end`` leaves the process of a rank that waits in a save that no longer gets on; without it
    such a rank waits on.
    """
    dist.init_process_group(
        backend=backend_of(device),
        timeout=_PATIENCE,
        rank=place.rank,
        world_size=place.world_size,
        device_id=None if device.type == "cpu" else device,
    )
    watch = None
    if place.world_size > 1 and end is not None:
        # Another store would need another port, and torch has no public name for this one.
        store = dist.distributed_c10d._get_default_store()  # noqa: SLF001
        watch = Watch(place, store, patience=step_timeout, end=end)
    yield Gang(place, device, step_timeout=step_timeout, watch=watch)
    dist.barrier()
    dist.destroy_process_group()


class Gang:
    """What the ranks say to each other beside gradients. Every call is made by all of them.

    They wait for each other patiently until steps begin, and then for at most ``step_timeout``.
    """

    def __init__(
        self,
        place: Place,
        device: torch.device,
        *,
        step_timeout: timedelta,
        watch: Watch | None = None,
    ) -> None:
        self.place = place
        self.device = device
        self._step_timeout = step_timeout
        self._watch = watch

    def begin_steps(self) -> None:
        """From now on a rank that keeps the others waiting for too long ends them all."""
        _wait_at_most(self._step_timeout)

    @contextmanager
    def patiently(self, signs: SignsOfWork) -> Iterator[None]:
        """Wait within the block, amid steps, as long as another rank's storage gets on."""
        _wait_at_most(_PATIENCE)
        try:
            with self._watch.over(signs) if self._watch else nullcontext():
                yield
        finally:
            self.begin_steps()

    def sums(self, *numbers: float) -> list[float]:
        """Add numbers up over the ranks, in fp64."""
        if self.place.world_size == 1:
            return list(numbers)
        together = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(together)
        return [float(number) for number in together.tolist()]

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the mean over the ranks into each tensor, bit for bit the same on every rank."""
        if self.place.world_size == 1 or not tensors:
            return
        together = torch.cat([one.detach().flatten().double() for one in tensors])
        dist.all_reduce(together)
        together /= self.place.world_size
        # Sums may differ in their last bits by the order in which a rank made them.
        dist.broadcast(together, src=0)
        sizes = [one.numel() for one in tensors]
        for tensor, mean in zip(tensors, torch.split(together, sizes), strict=True):
            tensor.copy_(mean.reshape(tensor.shape))

    def any(self, flag: bool) -> bool:  # noqa: FBT001
        """Whether the flag is set on any rank."""
        return self.sums(float(flag))[0] > 0

    def told_by_first(self, word: T) -> T:
        """What rank 0 says; the others' argument is not looked at."""
        words = [word]
        dist.broadcast_object_list(words, src=0, device=self.device)
        return words[0]

    def gathered(self, word: T) -> list[T]:
        """What every rank says, by rank."""
        words: list[T | None] = [None] * self.place.world_size
        dist.all_gather_object(words, word)
        # Every place is filled now, be it with a None that a rank said.
        return cast("list[T]", words)

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier()


def _wait_at_most(timeout: timedelta) -> None:
    """Set how long collectives from here on wait, in the groups that DeepSpeed made, too."""
    # DeepSpeed makes its own with torch's defaults.
    for group in every_group():
        dist.set_timeout(timeout, group)
