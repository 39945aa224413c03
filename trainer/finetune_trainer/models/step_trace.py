"""What a training step holds besides weights and optimizer, counted on the model's shapes.

``facts`` asks, in the prepare step. The model is made of fake tensors, which have shapes and no
memory, and learns from a few rows once. Every operation is watched, and after each one all that is
alive is added up: what the forward pass keeps, the outputs, their gradients, what a backward step
needs for itself, and the weights' gradients. No formula knows every architecture; torch does.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import finalize

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finetune_api.datareport import Moment, StepTrace

_DTYPES = {2: torch.bfloat16, 4: torch.float32}
# More than one, for batch normalization; and a batch of one is never copied to be contiguous.
_FEW, _MORE = 2, 4
# DeepSpeed 0.19's stage3_param_persistence_threshold: weights up to that size stay whole.
_WHOLE_ELEMENTS = 100_000
_BATCHES_OF_NOTE = [2.0**power for power in range(-6, 13)]


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What is to be traced.

    ``model`` stands on the meta device, as it is trained, adapter and all; ``inputs`` gives what it
    is called with, for so many rows of ``tokens`` tokens (1 for an image), and ``call`` further
    keywords. ``per_token`` says that there is a loss for each token. ``fused`` takes dropout and
    attention as a GPU's kernels do them: a byte for a mask, and no scores, with dropout too. A CPU
    keeps both whole. ``gathered`` takes linear layers as ZeRO 3 does them: they keep their inputs,
    also where their weights are frozen and ask for none.
    """

    model: torch.nn.Module
    inputs: Callable[[int], Mapping[str, Any]]
    tokens: int
    per_token: bool = False
    call: Mapping[str, Any] = field(default_factory=dict)
    fused: bool = True
    gathered: bool = False

    @property
    def largest_weight(self) -> int:
        """Numbers of the largest weight that is trained."""
        return max(one.numel() for one in self.model.parameters() if one.requires_grad)


def trace_step(traced: Traced, *, element: int, recomputed: bool) -> StepTrace:
    """Trace one step in numbers of ``element`` bytes.

    ``recomputed`` asks for activation checkpointing. What grows with the rows is told from what
    doesn't (gradients) by tracing two batches.

    Raises
    ------
    RuntimeError, NotImplementedError
        Of many kinds, where the model's way depends on values that fake tensors don't have.
    """
    few, more = (_watched(traced, rows, element, recomputed=recomputed) for rows in (_FEW, _MORE))
    if len(few.totals) != len(more.totals):
        raise NotImplementedError("the model's operations depend on the number of rows")
    timeline = [_moment(one, other) for one, other in zip(few.totals, more.totals, strict=True)]
    before = [moment for moment in timeline if not moment.exchanging]
    after = [moment for moment in timeline if moment.exchanging]
    return StepTrace(
        element=element,
        recomputed=recomputed,
        tokens=traced.tokens,
        moments=(*_highest(before), *_highest(after)),
        last_gathered=None if few.last_large is None else timeline[few.last_large],
    )


@dataclass(frozen=True)
class _Total:
    """Bytes alive after an operation, and whether a weight has its gradient by then."""

    size: int
    exchanging: bool


def _moment(few: _Total, more: _Total) -> Moment:
    row = max(0, more.size - few.size) // (_MORE - _FEW)
    return Moment(
        row_bytes=row, fixed_bytes=max(0, few.size - row * _FEW), exchanging=few.exchanging
    )


def _highest(timeline: Sequence[Moment]) -> Iterator[Moment]:
    """The moments that are highest for some number of rows, in their order."""
    if not timeline:
        return
    best = {
        max(
            range(len(timeline)),
            key=lambda at: rows * timeline[at].row_bytes + timeline[at].fixed_bytes,
        )
        for rows in _BATCHES_OF_NOTE
    }
    for at in sorted(best):
        yield timeline[at]


def _watched(traced: Traced, rows: int, element: int, *, recomputed: bool) -> "_Alive":
    """Bytes alive after each operation of a step of so many rows, without the weights'."""
    model = deepcopy(traced.model)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _make_fake(model, _DTYPES[element])
        model.train()
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()
        if recomputed:
            enable: Any = model.activation_checkpointing_enable
            again = partial(_as_computed, traced)
            enable({"use_reentrant": False, "context_fn": lambda: (nullcontext(), again())})
        inputs = {
            name: value.to(_DTYPES[element]) if value.is_floating_point() else value
            for name, value in traced.inputs(rows).items()
        }
        alive = _Alive(model)
        with _as_computed(traced), alive:
            loss = _loss(model(**inputs, **traced.call).logits, per_token=traced.per_token)
            torch.autograd.backward(loss)
    return alive


def _make_fake(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give a model on the meta device fake numbers, of one type; what is shared stays so.

    By the modules' own tables, since torch sets no attribute of a meta parameter to another kind.
    """
    made: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():  # noqa: SLF001
            if weight is not None and id(weight) not in made:
                values = torch.empty(weight.shape, dtype=dtype)
                made[id(weight)] = torch.nn.Parameter(values, requires_grad=weight.requires_grad)
            if weight is not None:
                module._parameters[name] = made[id(weight)]  # noqa: SLF001
        for name, buffer in module._buffers.items():  # noqa: SLF001
            if buffer is not None:
                kind = dtype if buffer.is_floating_point() else buffer.dtype
                module._buffers[name] = torch.empty(buffer.shape, dtype=kind)  # noqa: SLF001


def _loss(logits: torch.Tensor, *, per_token: bool) -> torch.Tensor:
    """As the tasks' losses have it: the learned tokens are picked out, then widened to fp32."""
    if per_token:
        logits = logits.flatten(0, 1)
        logits = logits[torch.zeros(len(logits), dtype=torch.long)]
    targets = torch.zeros(len(logits), dtype=torch.long)
    return cross_entropy(logits.float(), targets, reduction="none").sum()


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # publishes no types
    """Adds up what is alive after each operation; a view counts as what it is a view of, once.

    ``totals`` has it by operation. ``last_large`` is the operation before the one that is the first
    to use the last of the weights that ZeRO 3 would shard; None where there are none.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.last_large: int | None = None
        self._unused = {_key(one) for one in model.parameters() if one.numel() > _WHOLE_ELEMENTS}
        self._known = {_key(one) for one in (*model.parameters(), *model.buffers())}
        self._now = 0
        self._exchanging = False
        self.totals: list[_Total] = []
        for weight in model.parameters():
            if weight.requires_grad:
                hook: Any = weight.register_post_accumulate_grad_hook
                hook(self._begin_exchange)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # as torch calls it
        for taken in tree_leaves((args, kwargs)):
            if isinstance(taken, torch.Tensor) and _key(taken) in self._unused:
                self._unused.remove(_key(taken))
                self.last_large = max(0, len(self.totals) - 1)
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and _key(made) not in self._known:
                self._count(made)
        self.totals.append(_Total(self._now, self._exchanging))
        return result

    def _begin_exchange(self, _weight: torch.Tensor) -> None:
        self._exchanging = True

    def _count(self, made: torch.Tensor) -> None:
        storage, key = made.untyped_storage(), _key(made)
        size = storage.nbytes()
        self._known.add(key)
        self._now += size
        finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _key(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - all that tells two storages apart


class _Fused(TorchFunctionMode):
    """Dropout and attention as a GPU has them, on fake tensors that stand on a CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # as torch calls it
        kwargs = kwargs or {}
        if func is torch.nn.functional.dropout:
            return _dropout(*args, **kwargs)
        if func is torch.nn.functional.scaled_dot_product_attention:
            # Its masks are drawn again in the backward pass, not kept.
            kwargs = {**kwargs, "dropout_p": 0.0}
        return func(*args, **kwargs)


def _dropout(
    values: torch.Tensor,
    p: float = 0.5,
    training: bool = True,  # noqa: FBT001, FBT002 - as torch's own has it
    inplace: bool = False,  # noqa: FBT001, FBT002, ARG001 - likewise
) -> torch.Tensor:
    if not training or p == 0:
        return values
    return torch.native_dropout(values, p, train=True)[0]


class _Gathered(TorchFunctionMode):
    """Linear layers as DeepSpeed's stage 3 has them."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # as torch calls it
        if func is torch.nn.functional.linear:
            # Imported here alone: DeepSpeed takes its time, and full fine-tunes need it not.
            from deepspeed.runtime.zero.linear import zero3_linear_wrap

            return zero3_linear_wrap(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def _as_computed(traced: Traced) -> Iterator[None]:
    with ExitStack() as modes:
        if traced.gathered:
            modes.enter_context(_Gathered())
        if traced.fused:
            modes.enter_context(_Fused())
        yield
