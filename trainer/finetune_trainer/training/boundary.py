"""What happens between two optimizer steps: agree, report, score, save, stop.

Every rank runs it at the same step, and decides only upon what all of them know; so none of them
can be in another collective call than the others.
"""

import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_api.health import EarlyStopping, Health, OverfittingAction, Sign, SignAction
from finetune_api.report import Overfitting, TrainResult
from finetune_api.times import format_time
from finetune_trainer.errors import UsageError
from finetune_trainer.reporting.curve import Curve
from finetune_trainer.reporting.events import (
    Evaluated,
    Event,
    Planned,
    Saved,
    Staged,
    Stepped,
    Warned,
)
from finetune_trainer.training.cadence import Cadence
from finetune_trainer.training.checkpoints import CheckpointStore
from finetune_trainer.training.gang import Gang
from finetune_trainer.training.health import MEANING, PATIENCE, observe, observe_score
from finetune_trainer.training.manifest import Best, TrainingState
from finetune_trainer.training.plan import StepPlan
from finetune_trainer.training.resume import Resume
from finetune_trainer.training.rows import PreparedRows
from finetune_trainer.training.signs import SignsOfWork
from finetune_trainer.training.stop import StopRequest
from finetune_trainer.training.trainer import FineTuneTrainer

_log = logging.getLogger(__name__)


class DivergedError(UsageError):
    """The loss is no number any more; the same run would end there again."""


class UnhealthyError(UsageError):
    """The training shows a sign at which its manifest lets it fail."""


@dataclass(frozen=True)
class Parts:
    """What the boundary works with; each is built by ``session``.

    ``packed_fill`` is the share of the packed sequences that rows fill, where they are packed;
    ``grace_seconds`` are those from a request to stop to the end of the process.
    """

    gang: Gang
    stop: StopRequest
    plan: StepPlan
    cadence: Cadence
    select_rows: PreparedRows
    store: CheckpointStore
    packed_fill: float | None
    say: Callable[[Event], None]
    signs: SignsOfWork
    health: Health
    early_stopping: EarlyStopping | None
    grace_seconds: int


class Boundary(TrainerCallback):
    """Called by the Trainer after each step, with the optimizer, schedule and step moved on."""

    def __init__(self, trainer: FineTuneTrainer, parts: Parts, resume: Resume | None) -> None:
        self._trainer = trainer
        self._parts = parts
        self._resume = resume
        self._state = resume.state if resume else TrainingState()
        self._curve = Curve.of(self._state.curve, stride=self._state.curve_stride)
        self._learning_rate = 0.0
        self._step_began = time.monotonic()
        self._warned: set[Sign] = set()
        self._saves_slowly = False
        self._beginning: tuple[float, ...] | None = None
        self._effective_steps = 0
        self.result: TrainResult | None = None
        self.stopped = False

    @property
    def first_step(self) -> int:
        """The step that this attempt goes on from; 0 if it begins anew."""
        return self._resume.state.step if self._resume else 0

    def on_train_begin(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **_: Any,  # the Trainer's parts, which this has already
    ) -> None:
        """Say where this attempt begins, and make up for an evaluation that a stop cut off."""
        step, cadence = state.global_step, self._parts.cadence
        self._parts.say(
            Planned(
                at=_now(),
                step=step,
                total_steps=cadence.total_steps,
                resumed_from_attempt=self._resume.attempt if self._resume else None,
                curve=self._curve.points(),
                curve_stride=self._curve.stride,
                remaining_checkpoints=cadence.remaining_checkpoints(step),
                remaining_evaluations=cadence.remaining_evaluations(step),
            )
        )
        self._parts.say(Staged(stage="training"))
        self._parts.gang.begin_steps()
        # Loading leaves copies of the weights in cycles, which would stay until chance frees them.
        gc.collect()
        self._beginning = self._trainer.fingerprint()
        if step > 0 and cadence.evaluates_at(step) and not self._state.evaluated:
            self._score_and_save(step, control, stopping=False)
        self._step_began = time.monotonic()

    def on_optimizer_step(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Note the rate that this step used, before the schedule moves on."""
        self._learning_rate = self._trainer.learning_rate

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        """Agree on the step's loss and on a stop, then do what is due."""
        step = state.global_step
        self._trainer.settle_statistics()
        stopping = self._agree(step)
        self._score_and_save(step, control, stopping=stopping)
        self._step_began = time.monotonic()

    def _agree(self, step: int) -> bool:
        """Add up the ranks' parts; one small exchange per step carries all there is to agree on."""
        sums = self._trainer.take_sums()
        stop_wish = float(self._parts.stop.requested)
        loss, tokens, stops = self._parts.gang.sums(float(sums.loss), float(sums.tokens), stop_wish)
        if not math.isfinite(loss):
            parts = self._parts.gang.gathered([float(sums.loss)])
            first = [rank for rank, (part,) in enumerate(parts) if not math.isfinite(part)]
            raise DivergedError(
                f"training diverged: the loss is {loss} at step {step} (rank {first[0]} of "
                f"{len(parts)} computed it first); lower training.learningRate, or raise "
                "training.warmupRatio"
            )
        self._curve.add_loss(step, loss)
        self._state = self._state.model_copy(
            update={"step": step, "loss": loss, "evaluated": False}
        )
        norm = self._trainer.gradient_norm
        self._parts.say(
            Stepped(
                at=_now(),
                step=step,
                loss=loss,
                learning_rate=self._learning_rate,
                gradient_norm=norm if norm is not None and math.isfinite(norm) else None,
                rows=len(self._parts.plan.global_batch(step - 1)),
                tokens=int(tokens),
                seconds=time.monotonic() - self._step_began,
                remaining_checkpoints=self._parts.cadence.remaining_checkpoints(step),
                remaining_evaluations=self._parts.cadence.remaining_evaluations(step),
            )
        )
        self._watch(step, loss, norm)
        return stops > 0

    def _watch(self, step: int, loss: float, norm: float | None) -> None:
        """Look for signs in what every rank knows alike, so that all act alike."""
        if self._learning_rate > 0 and (norm is None or math.isfinite(norm)):
            self._effective_steps += 1
        health, signs = observe(
            self._state.health,
            loss=loss,
            norm=norm,
            window_steps=self._parts.health.window_steps,
        )
        self._state = self._state.model_copy(update={"health": health})
        for sign in signs:
            self._act(sign, step)

    def _look_for_change(self, step: int) -> None:
        """Once in an attempt, at its first evaluation after a step that should have moved."""
        if self._beginning is None or not self._effective_steps:
            return
        moved = self._trainer.fingerprint() != self._beginning
        self._beginning = None
        if not self._parts.gang.any(moved):
            self._act(Sign.UNCHANGED_PARAMETERS, step)

    def _act(self, sign: Sign, step: int) -> None:
        action = self._parts.health.action(sign)
        if action is SignAction.FAIL:
            raise UnhealthyError(_told(sign, step))
        if action is SignAction.WARN:
            self._warn(sign, step)

    def _warn(self, sign: Sign, step: int) -> None:
        if sign not in self._warned:
            self._warned.add(sign)
            message = _told(sign, step)
            _log.warning("%s", message)
            self._parts.say(Warned(message=message))

    def _score_and_save(self, step: int, control: TrainerControl, *, stopping: bool) -> None:
        cadence = self._parts.cadence
        improved = False
        if cadence.evaluates_at(step) and not stopping:
            score = self._score(step)
            stopping = score is None
            self._look_for_change(step)
            improved = score is not None and self._take_score(step, score)
        early = (self._out_of_patience or self._overfits) and step < cadence.total_steps
        finished = self._state.evaluated and (early or step == cadence.total_steps)
        if improved or stopping or finished or cadence.saves_at(step):
            self._save(step, finished=finished, early=early)
        if stopping and not finished:
            self.stopped = True
        if stopping or early:
            control.should_training_stop = True

    @property
    def _out_of_patience(self) -> bool:
        rule = self._parts.early_stopping
        return rule is not None and self._state.evaluations_without_better >= rule.patience

    @property
    def _overfits(self) -> bool:
        stops = self._parts.health.overfitting is OverfittingAction.STOP
        return stops and self._state.overfitting is not None

    def _score(self, step: int) -> float | None:
        self._parts.say(Staged(stage="evaluating"))
        began = time.monotonic()
        score = self._trainer.select_loss(
            self._parts.select_rows, self._parts.stop, self._parts.signs
        )
        if score is not None:
            if not math.isfinite(score):
                raise DivergedError(
                    f"training diverged: the loss on the select rows is {score} at step {step}; "
                    "lower training.learningRate, or raise training.warmupRatio"
                )
            milliseconds = _milliseconds_since(began)
            self._parts.say(Evaluated(step=step, select_loss=score, milliseconds=milliseconds))
        self._parts.say(Staged(stage="training"))
        return score

    def _take_score(self, step: int, score: float) -> bool:
        """Note the score; whether it is the best so far."""
        self._curve.add_score(step, score)
        self._compare_with_training(step, score)
        best = self._state.best
        improved = best is None or score < best.select_loss
        rule = self._parts.early_stopping or EarlyStopping()
        better = best is None or score < best.select_loss - rule.min_delta
        waited = 0 if better else self._state.evaluations_without_better + 1
        if improved:
            best = Best(
                attempt=self._parts.store.attempt,
                step=step,
                select_loss=score,
                path=self._parts.store.path_of(step),
            )
        self._state = self._state.model_copy(
            update={"evaluated": True, "best": best, "evaluations_without_better": waited}
        )
        return improved

    def _compare_with_training(self, step: int, score: float) -> None:
        """See whether the select rows' loss rises while that of the training rows falls."""
        best, rule = self._state.best, self._parts.early_stopping
        health = observe_score(
            self._state.health, score=score, best=None if best is None else best.select_loss
        )
        fit, found = health.fit, self._state.overfitting
        if best is None or score < best.select_loss:
            found = None
        elif (
            found is None
            and fit.apart >= (PATIENCE if rule is None else rule.patience)
            and fit.latest is not None
            and fit.at_best is not None
            and self._parts.health.overfitting is not OverfittingAction.IGNORE
        ):
            found = Overfitting(
                step=step,
                select_loss=score,
                train_loss=fit.latest,
                best_step=best.step,
                best_select_loss=best.select_loss,
                train_loss_at_best=fit.at_best,
            )
            self._warn(Sign.OVERFITTING, step)
        self._state = self._state.model_copy(update={"health": health, "overfitting": found})

    def _save(self, step: int, *, finished: bool, early: bool) -> None:
        self._parts.say(Staged(stage="saving"))
        began = time.monotonic()
        self._state = self._state.model_copy(
            update={"curve": self._curve.points(), "curve_stride": self._curve.stride}
        )
        result = self._result(early=early) if finished else None
        self._parts.store.save(self._trainer.write_checkpoint, self._state, result)
        self.result = result
        milliseconds = _milliseconds_since(began)
        self._parts.say(Saved(at=_now(), step=step, milliseconds=milliseconds))
        self._hold_against_grace(step, milliseconds / 1000)
        self._parts.say(Staged(stage="training"))

    def _hold_against_grace(self, step: int, seconds: float) -> None:
        """Warn once if a request to stop would be cut off in the middle of a save like this."""
        if self._saves_slowly or seconds <= self._parts.grace_seconds:
            return
        self._saves_slowly = True
        message = (
            f"SlowStorage: the checkpoint of step {step} took {seconds:.1f} s, and a request to "
            f"stop leaves {self._parts.grace_seconds} s: the work since the last checkpoint would "
            "be lost; raise policy.gracePeriodSeconds, or use faster storage"
        )
        _log.warning("%s", message)
        self._parts.say(Warned(message=message))

    def _result(self, *, early: bool) -> TrainResult | None:
        best = self._state.best
        if best is None:
            return None
        return TrainResult(
            steps=self._state.step,
            best_step=best.step,
            best_select_loss=best.select_loss,
            final_loss=self._curve.newest_loss,
            stopped_early=early,
            overfitting=self._state.overfitting,
            checkpoint=best.path,
            packed_fill=self._parts.packed_fill,
        )


def _told(sign: Sign, step: int) -> str:
    return f"{sign} at step {step}: {MEANING[sign]}"


def _now() -> str:
    return format_time(datetime.now(UTC))


def _milliseconds_since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)
