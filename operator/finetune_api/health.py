"""FineTuneJob.spec.training.health and earlyStopping: when a training is not worth going on."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from finetune_api.markers import Contract


class Sign(StrEnum):
    """What a training that goes wrong shows. A loss that is no number always fails it."""

    EXPLODING_GRADIENTS = "ExplodingGradients"
    VANISHING_GRADIENTS = "VanishingGradients"
    LOSS_NOT_FALLING = "LossNotFalling"
    UNCHANGED_PARAMETERS = "UnchangedParameters"
    OVERFITTING = "Overfitting"


class SignAction(StrEnum):
    """What is done about a sign."""

    FAIL = "Fail"
    WARN = "Warn"
    IGNORE = "Ignore"


class OverfittingAction(StrEnum):
    """What is done where a training learns its rows by heart."""

    STOP = "Stop"
    WARN = "Warn"
    IGNORE = "Ignore"


class Health(Contract):
    """What is done about each sign of a training that goes wrong. Warn: status.progress says it."""

    exploding_gradients: Annotated[
        SignAction,
        Field(
            description="The gradients' norm is over 100 times its recent median, or infinite, in "
            "three steps one after the other. ZeRO stage 0 with fp32 knows no norm."
        ),
    ] = SignAction.WARN
    vanishing_gradients: Annotated[
        SignAction,
        Field(
            description="The norm is below 1e-7 in ten steps one after the other, and the loss is "
            "not small."
        ),
    ] = SignAction.WARN
    loss_not_falling: Annotated[
        SignAction,
        Field(description="The mean loss of windowSteps steps is not below that of the first."),
    ] = SignAction.WARN
    unchanged_parameters: Annotated[
        SignAction,
        Field(description="No weight has changed at the first evaluation of an attempt."),
    ] = SignAction.FAIL
    overfitting: Annotated[
        OverfittingAction,
        Field(
            description="The select rows' loss is more than 10 % above its best in as many "
            "evaluations one after the other as earlyStopping.patience says (without it three), "
            "while the training loss is lower than it was then. Stop: training ends, with its best "
            "checkpoint. Unless it is ignored, the condition Overfitting has the figures."
        ),
    ] = OverfittingAction.STOP
    window_steps: Annotated[
        int, Field(ge=1, le=100_000, description="Steps whose mean loss is compared.")
    ] = 100

    def action(self, sign: Sign) -> SignAction:
        """What to do about a sign other than overfitting, which ends no training in failure."""
        return {
            Sign.EXPLODING_GRADIENTS: self.exploding_gradients,
            Sign.VANISHING_GRADIENTS: self.vanishing_gradients,
            Sign.LOSS_NOT_FALLING: self.loss_not_falling,
            Sign.UNCHANGED_PARAMETERS: self.unchanged_parameters,
        }[sign]


class EarlyStopping(Contract):
    """Training ends, with its best checkpoint, once it does not get better any more."""

    patience: Annotated[
        int, Field(ge=1, le=1000, description="Evaluations in a row without a better one.")
    ] = 3
    min_delta: Annotated[
        float,
        Field(ge=0, le=100, description="By how much the select rows' loss must fall to count."),
    ] = 0.0
