"""When the select rows are scored and when the work is saved. Pure; asked after every step."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """The due steps of one training, counted from 1."""

    total_steps: int
    steps_per_epoch: int
    evals_per_epoch: int
    checkpoint_every_steps: int

    def evaluates_at(self, step: int) -> bool:
        """Whether the select rows are scored after ``step``: evenly over an epoch, and at the end.

        An epoch shorter than ``evals_per_epoch`` steps is scored after each step.
        """
        if step == self.total_steps:
            return True
        return self._evaluations(step) > self._evaluations(step - 1)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is due after ``step``, whatever the evaluation says."""
        return step == self.total_steps or step % self.checkpoint_every_steps == 0

    def remaining_evaluations(self, step: int) -> int:
        """Evaluations due after ``step``."""
        if step >= self.total_steps:
            return 0
        last = self.total_steps - 1
        return self._evaluations(last) - self._evaluations(min(step, last)) + 1

    def remaining_checkpoints(self, step: int) -> int:
        """The most checkpoints that can still come: each evaluation may find a new best."""
        if step >= self.total_steps:
            return 0
        every = self.checkpoint_every_steps
        periodic = (self.total_steps - 1) // every - step // every
        return min(self.total_steps - step, periodic + self.remaining_evaluations(step))

    def _evaluations(self, step: int) -> int:
        """Evaluations due in steps 1 … ``step``, the one at the very end aside."""
        per_epoch = min(self.evals_per_epoch, self.steps_per_epoch)
        epochs, position = divmod(step, self.steps_per_epoch)
        return epochs * per_epoch + position * per_epoch // self.steps_per_epoch
