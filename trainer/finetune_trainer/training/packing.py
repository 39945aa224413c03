"""Which rows of a step share a sequence, and which rank computes which sequences. No torch.

A step's global batch is what ``plan.StepPlan`` says, packed or not: rows are packed within it, so
that packing changes no result. Sequences are dealt out to ranks and micro-batches afterwards.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from finetune_trainer.training.plan import StepPlan

Lengths = npt.NDArray[np.int64]
_LENGTHS_TRIED = 64
_STEPS_LOOKED_AT = 100


def best_fit(lengths: Lengths, capacity: int) -> list[list[int]]:
    """Pack items into as few bins as best-fit decreasing finds; the places of each bin's items.

    The longest item goes first, each into the fullest bin that still has room for it; of equal
    ones the earlier. At most 11/9 of the fewest bins, and one more (Johnson et al. 1974).

    Raises
    ------
    ValueError
        If an item is longer than ``capacity``.
    """
    if len(lengths) and int(lengths.max()) > capacity:
        raise ValueError(f"an item of {int(lengths.max())} is longer than the capacity {capacity}")
    bins: list[list[int]] = []
    # Room left and number of each bin, the fullest first.
    room: list[tuple[int, int]] = []
    for place in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[place])
        found = bisect_left(room, (length, -1))
        if found < len(room):
            left, number = room.pop(found)
        else:
            left, number = capacity, len(bins)
            bins.append([])
        bins[number].append(place)
        insort(room, (left - length, number))
    return bins


def short_fit(lengths: Lengths, capacity: int, *, ranks: int, most: int) -> list[list[int]]:
    """Pack items into the bins of at most ``capacity`` that ``ranks`` compute soonest.

    Bins count as the fullest of them, as sequences are padded to the longest. Many short ones are
    computed sooner than a few long ones that hold the same, for a token has fewer to attend to;
    and they can be dealt out more evenly. Attention counts as half of all else at ``capacity``:
    it is more in a small model, less in a large one.

    Raises
    ------
    ValueError
        If an item is longer than ``capacity``, or the items don't fit into ``most`` bins.
    """
    if not len(lengths):
        return []
    fits = [best_fit(lengths, capacity)]
    if len(fits[0]) > most:
        raise ValueError(f"{len(fits[0])} sequences are more than the {most} that have a place")
    least = int(lengths.max())
    for tried in np.linspace(least, capacity, _LENGTHS_TRIED, endpoint=False, dtype=np.int64):
        fitted = best_fit(lengths, int(tried))
        if len(fitted) <= most:
            fits.append(fitted)

    def cost(bins: list[list[int]]) -> int:
        length = _longest(lengths, bins)
        return -(-len(bins) // ranks) * length * (2 * capacity + length)

    return min(fits, key=cost)


def _longest(lengths: Lengths, bins: list[list[int]]) -> int:
    return max(int(lengths[one].sum()) for one in bins)


@dataclass(frozen=True)
class PackedBatch:
    """What one rank computes at once: row numbers of each of its sequences.

    A rank that has nothing to compute gets ``filler``, one row that weighs nothing: every rank
    makes as many collective calls.
    """

    sequences: tuple[tuple[int, ...], ...]
    filler: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedPlan:
    """How the rows of each step of ``plan`` are packed into sequences of ``capacity`` tokens.

    ``accumulation_steps`` is the same in every step, as DeepSpeed wants it.
    """

    plan: StepPlan
    lengths: Lengths
    capacity: int
    accumulation_steps: int

    @classmethod
    def of(cls, plan: StepPlan, lengths: Lengths, capacity: int, steps: int) -> "PackedPlan":
        """Find the fewest micro-batches in which each of the ``steps`` fits.

        A micro-batch has at most as many sequences as ``plan`` has rows in one.
        """
        most = max(
            len(best_fit(lengths[plan.global_batch(step)], capacity)) for step in range(steps)
        )
        at_once = plan.micro_batch_size * plan.world_size
        return cls(
            plan=plan, lengths=lengths, capacity=capacity, accumulation_steps=-(-most // at_once)
        )

    def micro_batch(self, step: int, micro: int, rank: int) -> PackedBatch:
        """Sequences that ``rank`` computes in micro-batch ``micro`` of ``step``, all from 0."""
        rows = self.plan.global_batch(step)
        sequences = _sequences(self, step)
        # Dealt out one by one, so that ranks and micro-batches get as many, or one more.
        slots = self.accumulation_steps * self.plan.world_size
        mine = sequences[micro * self.plan.world_size + rank :: slots]
        if not mine:
            return PackedBatch(((int(rows[0]),),), filler=True)
        return PackedBatch(tuple(tuple(rows[one].tolist()) for one in mine))

    def fill(self, steps: int) -> float:
        """The share of sequences, all padded to their step's longest, that holds tokens of rows.

        Of the first ``steps``, or of a hundred if they are more.
        """
        tokens = cells = 0
        for step in range(min(steps, _STEPS_LOOKED_AT)):
            lengths = self.lengths[self.plan.global_batch(step)]
            sequences = _sequences(self, step)
            tokens += int(lengths.sum())
            cells += len(sequences) * _longest(lengths, sequences)
        return tokens / cells


@lru_cache(maxsize=2)
def _sequences(packed: PackedPlan, step: int) -> list[list[int]]:
    """Places in a step's global batch, by sequence; kept, for every micro-batch of it asks."""
    plan = packed.plan
    return short_fit(
        packed.lengths[plan.global_batch(step)],
        packed.capacity,
        ranks=plan.world_size,
        most=packed.accumulation_steps * plan.world_size * plan.micro_batch_size,
    )
