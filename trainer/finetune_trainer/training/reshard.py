"""Taking up a checkpoint that another number of ranks wrote, in memory. Called by ``trainer``.

ZeRO keeps a shard of the optimizer per rank, and DeepSpeed reads it back on as many ranks only.
Here each rank cuts its own shard out of all that were written, and gives it to DeepSpeed as if it
had been read. Nothing is written: a kill in the middle leaves what was there.

DeepSpeed's own way, its "universal" checkpoints, takes the optimizer's size on the disk once more,
and under ZeRO 3 gives every weight the first group's decay (0.19.8, stage3.py).
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

# Names in a shard: of ZeRO 1 and 2, and of ZeRO 3.
_FLAT_WEIGHTS, _FLAT_STATE = "single_partition_of_fp32_groups", "base_optimizer_state"
_WEIGHTS, _STATE = "fp32_flat_groups", "optimizer_state_dict"

_Shard = dict[str, Any]  # what DeepSpeed pickles has no types


def take_up(engine: Any, folder: Path, *, rank: int, strict: bool) -> None:
    """Load weights, optimizer and counters of a checkpoint into an engine of another world size.

    Parameters
    ----------
    engine
        A DeepSpeed engine, just made.
    folder
        The checkpoint, as the Trainer writes it.
    rank
        This rank, of the new world.
    strict
        Whether the checkpoint holds every weight of the model.
    """
    if not engine.zero_optimization():
        # Nothing is sharded, and it doesn't matter how many ranks there were.
        engine.load_checkpoint(str(folder), load_module_strict=strict)
        return
    saved = folder / (folder / "latest").read_text().strip()
    shards = [_read(path)["optimizer_state_dict"] for path in _shard_files(saved)]
    # All of them say the same of the model but for ZeRO 3's weights, which are in the shards.
    model = _read(min(saved.glob("*model_states.pt")))
    optimizer = engine.optimizer
    sharded_weights = engine.zero_optimization_stage() == 3
    if sharded_weights:
        optimizer.checkpoint_event_prologue()
    engine.load_module_state_dict(checkpoint=model, strict=strict)
    for counter in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, counter, model[counter])
    cut = _cut_by_weight if sharded_weights else _cut_flat
    shard = cut(optimizer, shards, model["param_shapes"], rank)
    optimizer.load_state_dict({rank: shard}, load_from_fp32_weights=True)
    if sharded_weights:
        optimizer.checkpoint_event_epilogue()


def piece(
    parts: Sequence[torch.Tensor], start: int, size: int, length: int | None = None
) -> torch.Tensor:
    """Elements ``start`` to ``start + size`` of the parts laid end to end.

    Zeros stand for what lies beyond their end, or beyond ``length`` elements. Only what is asked
    for is read, where the parts are mapped from disk.
    """
    cut = torch.zeros(size, dtype=parts[0].dtype)
    end = start + size if length is None else min(start + size, length)
    begin = 0
    for part in parts:
        first, last = max(start, begin), min(end, begin + part.numel())
        if first < last:
            cut[first - start : last - start] = part[first - begin : last - begin]
        begin += part.numel()
    return cut


def _cut_flat(
    optimizer: Any, shards: Sequence[_Shard], shapes: Sequence[Mapping[str, Any]], rank: int
) -> _Shard:
    """ZeRO 1 and 2: each group of weights is one flat line, cut into as many pieces as ranks."""
    del shapes
    real = [[part.numel() for part in shard[_FLAT_WEIGHTS]] for shard in shards]

    def cut(group: int, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        # The optimizer's own tensors still have the padding that the weights have lost.
        whole = [part[: real[of][group]] for of, part in enumerate(parts)]
        size = int(optimizer.partition_size[group])
        return piece(whole, rank * size, size)

    def cut_state(group: int) -> _Shard:
        states = [shard[_FLAT_STATE]["state"][group] for shard in shards]
        return {
            key: cut(group, [state[key] for state in states]) if _is_moment(value) else value
            for key, value in states[0].items()
        }

    groups = range(len(optimizer.single_partition_of_fp32_groups))
    return {
        **shards[0],
        _FLAT_WEIGHTS: [cut(i, [shard[_FLAT_WEIGHTS][i] for shard in shards]) for i in groups],
        _FLAT_STATE: {
            "state": {i: cut_state(i) for i in groups},
            "param_groups": shards[0][_FLAT_STATE]["param_groups"],
        },
    }


def _cut_by_weight(
    optimizer: Any, shards: Sequence[_Shard], shapes: Sequence[Mapping[str, Any]], rank: int
) -> _Shard:
    """ZeRO 3: each weight by itself is cut into as many pieces as ranks, the last ones padded.

    Weights are found by name: how they are put together in sub-groups depends on the world size.
    """
    world, places = optimizer.partition_count, dict(_places(shapes, len(shards)))
    base = [shard[_STATE] for shard in shards]

    def cut(group: Sequence[Any], tensors: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
        pieces = []
        for weight in group:
            sub_group, offset, length = places[optimizer.param_names[weight]]
            share = -(-length // len(shards))
            parts = [of_rank[sub_group][offset : offset + share] for of_rank in tensors]
            size = -(-length // world)
            pieces.append(piece(parts, rank * size, size, length))
        return torch.cat(pieces)

    def moments(key: str) -> list[list[torch.Tensor]]:
        return [[state[key] for state in one["state"].values()] for one in base]

    state = base[0]["state"][0]
    return {
        **shards[0],
        _WEIGHTS: [
            cut(group, [shard[_WEIGHTS] for shard in shards]) for group in optimizer.fp16_groups
        ],
        _STATE: {
            "state": {
                i: {
                    # Each has a step of its own: Adam counts it up in place.
                    key: cut(group, moments(key)) if _is_moment(value) else copy.deepcopy(value)
                    for key, value in state.items()
                }
                for i, group in enumerate(optimizer.fp16_groups)
            },
            "param_groups": [
                {**group, "params": _sub_groups_of(optimizer, number)}
                for number, group in enumerate(base[0]["param_groups"])
            ],
        },
    }


def _places(
    shapes: Sequence[Mapping[str, Any]], world: int
) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Of each weight: its sub-group, where it begins in each rank's flat tensor, its elements."""
    for sub_group, members in enumerate(shapes):
        offset = 0
        for name, shape in members.items():
            length = shape.numel()
            yield name, (sub_group, offset, length)
            offset += -(-length // world)


def _sub_groups_of(optimizer: Any, group: int) -> list[int]:
    return [i for i, of in optimizer.sub_group_to_group_id.items() if of == group]


def _is_moment(value: Any) -> bool:
    """Whether there is one number per weight; Adam's ``step`` is one for all."""
    return torch.is_tensor(value) and value.dim() > 0


def _shard_files(saved: Path) -> list[Path]:
    def rank_of(path: Path) -> int:
        found = re.search(r"zero_pp_rank_(\d+)_", path.name)
        return int(found[1]) if found else -1

    return sorted(saved.glob("*_optim_states.pt"), key=rank_of)


def _read(path: Path) -> _Shard:
    """A file that this trainer wrote (its digest was checked); tensors stay on the disk."""
    loaded: _Shard = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    return loaded
