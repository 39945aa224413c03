"""Which rows each optimizer step learns from, and which rank computes which of them.

The whole training is one flat list of optimizer steps. A step's global batch is a slice of its
epoch's seeded permutation and depends on nothing else: not on workers, ranks, micro-batches or on
where an attempt resumed. ``trainer`` feeds ranks from here; no torch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from finetune_api.run import RunTraining, steps_per_epoch


@dataclass(frozen=True)
class MicroBatch:
    """What one rank computes at once.

    ``rows`` always has the micro-batch's full length, so that every rank makes the same shapes of
    collective calls; entries where ``real`` is false only fill up and weigh nothing. They are the
    batch's rows once more, so that statistics over a micro-batch stay those of the data. ``turns``
    number what is learned from over the whole training: a row that is drawn twice has two.
    """

    rows: npt.NDArray[np.int64]
    turns: npt.NDArray[np.int64]
    real: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """Rows of each step for a training set of ``rows`` rows and a gang of ``world_size`` ranks.

    ``balance`` has each epoch draw as many rows of each class.
    """

    rows: int
    global_batch_size: int
    micro_batch_size: int
    accumulation_steps: int
    world_size: int
    seed: int
    balance: "Balance | None" = None

    def __post_init__(self) -> None:
        """Refuse a split that does not give every rank the same share."""
        split = self.micro_batch_size * self.accumulation_steps * self.world_size
        if split != self.global_batch_size:
            raise ValueError(
                f"micro-batch {self.micro_batch_size} × accumulation {self.accumulation_steps} × "
                f"{self.world_size} ranks is {split}, not the global batch "
                f"{self.global_batch_size}"
            )

    @classmethod
    def of(
        cls,
        training: RunTraining,
        *,
        rows: int,
        world_size: int,
        balance: "Balance | None" = None,
    ) -> "StepPlan":
        """Plan the training of a resolved run."""
        return cls(
            rows=rows,
            global_batch_size=training.global_batch_size,
            micro_batch_size=training.micro_batch_size,
            accumulation_steps=training.accumulation_steps,
            world_size=world_size,
            seed=training.seed,
            balance=balance,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the rows, the last and smaller one included."""
        return steps_per_epoch(self.rows, self.global_batch_size)

    def global_batch(self, step: int) -> npt.NDArray[np.int64]:
        """Row numbers of optimizer step ``step`` (from 0), the same on any gang."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.global_batch_size
        if self.balance is None:
            order = _permutation(self.seed, epoch, self.rows)
        else:
            order = _balanced(self.balance, self.seed, epoch)
        return order[start : start + self.global_batch_size]

    def micro_batch(self, step: int, micro: int, rank: int) -> MicroBatch:
        """Rows that ``rank`` computes in micro-batch ``micro`` of ``step``, all from 0.

        A batch that is not full is dealt out row by row, so that ranks share what there is.
        """
        batch = self.global_batch(step)
        places = rank + self.world_size * (
            np.arange(self.micro_batch_size) + micro * self.micro_batch_size
        )
        real = places < len(batch)
        places %= len(batch)
        turns = step * self.global_batch_size + places
        return MicroBatch(rows=batch[places], turns=turns, real=real)


@dataclass(frozen=True, eq=False)
class Balance:
    """The class number of each training row, by which an epoch is drawn."""

    classes: npt.NDArray[np.int64]

    def draw(self, random: np.random.RandomState) -> npt.NDArray[np.int64]:
        """As many rows as there are, in random order, every class as often, to one row.

        The rows of a class are gone through in random order, again and again, so that of two of
        them none is drawn twice more often. Chance decides which classes get what is left over.
        """
        numbers = np.unique(self.classes)
        each, rest = divmod(len(self.classes), len(numbers))
        more = set(random.permutation(numbers)[:rest].tolist())
        drawn = []
        for number in numbers.tolist():
            rows = np.flatnonzero(self.classes == number)
            wanted = each + (number in more)
            rounds = [random.permutation(rows) for _ in range(-(-wanted // len(rows)))]
            drawn.append(np.concatenate([rows[:0], *rounds])[:wanted])
        return random.permutation(np.concatenate(drawn))


@lru_cache(maxsize=2)
def _balanced(balance: Balance, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The drawn rows of an epoch; kept, and of a frozen stream, as ``_permutation`` is."""
    made = balance.draw(np.random.RandomState([seed, epoch]))
    made.setflags(write=False)
    return made


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, rows: int) -> npt.NDArray[np.int64]:
    """The rows of an epoch in their order; kept, for every step of it asks."""
    # The legacy generator's stream is frozen for good; numpy may change the newer one's
    # between releases, and an attempt may resume on a newer image.
    made = np.random.RandomState([seed, epoch]).permutation(rows)
    made.setflags(write=False)
    return made
