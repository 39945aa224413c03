"""What a step's loss and gradients say about the training's health. Pure; asked by ``boundary``.

What is known so far is data, and travels in the checkpoint: a resume takes the watch up where it
was. The thresholds are rules of thumb, wide enough that a training that works shows no sign.
"""

import math
import statistics
from typing import Annotated

from pydantic import Field

from finetune_api.health import Sign
from finetune_api.markers import Contract

_RECENT_NORMS = 50
_ENOUGH_NORMS = 10
_EXPLODING_FACTOR = 100.0
_EXPLODING_STEPS = 3
_VANISHING_NORM = 1e-7
_VANISHING_STEPS = 10
_SMALL_LOSS = 0.01
RISE = 0.1
"""By how much of itself the select rows' loss must rise to count as risen."""
PATIENCE = 3
"""Evaluations in a row that it must be so in, where earlyStopping says nothing."""

MEANING: dict[Sign, str] = {
    Sign.EXPLODING_GRADIENTS: "the gradients' norm is over 100 times its recent median; lower "
    "training.learningRate or training.maxGradNorm, or raise training.warmupRatio",
    Sign.VANISHING_GRADIENTS: "the gradients' norm is below 1e-7, so that nothing is learned; take "
    "precision bf16 or fp32, or another model",
    Sign.LOSS_NOT_FALLING: "the loss is no lower than at first; look at the labels, and try "
    "another training.learningRate",
    Sign.UNCHANGED_PARAMETERS: "no weight has changed since this attempt began; raise "
    "training.learningRate, or take precision fp32, whose steps are finer",
    Sign.OVERFITTING: "the loss on the select rows rises while the training loss falls; take fewer "
    "epochs, a lower training.learningRate, more rows, or dropout",
}
"""What each sign means, and what to do."""


class Window(Contract):
    """Losses of steps that are compared as one mean."""

    steps: Annotated[int, Field(ge=0)] = 0
    total: float = 0.0


class Fit(Contract):
    """How training and select loss go together.

    ``window`` are the training losses since the last evaluation, ``latest`` their mean before it
    and ``at_best`` before the best one. ``apart`` counts evaluations in a row at which the select
    rows' loss had risen and the training loss fallen since the best one.
    """

    window: Window = Window()
    at_best: float | None = None
    latest: float | None = None
    apart: Annotated[int, Field(ge=0)] = 0


class HealthState(Contract):
    """What the watch knows after a step."""

    norms: Annotated[tuple[float, ...], Field(max_length=_RECENT_NORMS)] = ()
    exploding: Annotated[int, Field(ge=0)] = 0
    vanishing: Annotated[int, Field(ge=0)] = 0
    window: Window = Window()
    fit: Fit = Fit()
    first_loss: float | None = None


def observe(
    state: HealthState, *, loss: float, norm: float | None, window_steps: int
) -> tuple[HealthState, tuple[Sign, ...]]:
    """Take in a step's loss and its gradients' norm (None if unknown); the signs that it shows.

    A sign is shown again at each step for as long as it lasts.
    """
    state, signs = _of_gradients(state, loss, norm) if norm is not None else (state, ())
    fit = state.fit.model_copy(update={"window": _with(state.fit.window, loss)})
    state = state.model_copy(update={"fit": fit})
    window = _with(state.window, loss)
    if window.steps < window_steps:
        return state.model_copy(update={"window": window}), signs
    mean = window.total / window.steps
    if state.first_loss is None:
        return state.model_copy(update={"window": Window(), "first_loss": mean}), signs
    if mean >= state.first_loss:
        signs = (*signs, Sign.LOSS_NOT_FALLING)
    return state.model_copy(update={"window": Window()}), signs


def observe_score(state: HealthState, *, score: float, best: float | None) -> HealthState:
    """Take in the select rows' loss at an evaluation, and the best one before it."""
    fit = state.fit
    train = fit.window.total / fit.window.steps if fit.window.steps else fit.latest
    if best is None or score < best:
        return state.model_copy(update={"fit": Fit(at_best=train, latest=train)})
    risen = score > best * (1 + RISE) and score > _SMALL_LOSS
    fallen = train is not None and fit.at_best is not None and train < fit.at_best
    apart = fit.apart + 1 if risen and fallen else 0
    return state.model_copy(update={"fit": Fit(at_best=fit.at_best, latest=train, apart=apart)})


def _with(window: Window, loss: float) -> Window:
    return Window(steps=window.steps + 1, total=window.total + loss)


def _of_gradients(
    state: HealthState, loss: float, norm: float
) -> tuple[HealthState, tuple[Sign, ...]]:
    usual = statistics.median(state.norms) if len(state.norms) >= _ENOUGH_NORMS else math.inf
    explodes = not math.isfinite(norm) or norm > _EXPLODING_FACTOR * usual
    vanishes = norm < _VANISHING_NORM and loss > _SMALL_LOSS
    # What explodes is not usual: it must not become the measure.
    norms = state.norms if explodes else (*state.norms, norm)[-_RECENT_NORMS:]
    state = state.model_copy(
        update={
            "norms": norms,
            "exploding": state.exploding + 1 if explodes else 0,
            "vanishing": state.vanishing + 1 if vanishes else 0,
        }
    )
    signs = []
    if state.exploding >= _EXPLODING_STEPS:
        signs.append(Sign.EXPLODING_GRADIENTS)
    if state.vanishing >= _VANISHING_STEPS:
        signs.append(Sign.VANISHING_GRADIENTS)
    return state, tuple(signs)
