"""What a rank tells its launcher while it works: one JSON line each, over an inherited pipe.

The launcher outlives its ranks, so marks, progress and the reason of a death are never lost with
a rank that the kernel killed. ``progress`` folds these into what the operator reads.
"""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from finetune_api.markers import Contract, Text, Timestamp
from finetune_api.report import CurvePoint, Failure, TrainResult


class Staged(Contract):
    """The rank turned to something else."""

    kind: Literal["staged"] = "staged"
    stage: str


class Planned(Contract):
    """Everything is loaded and the first step of this attempt begins."""

    kind: Literal["planned"] = "planned"
    at: Timestamp
    step: int
    total_steps: int
    resumed_from_attempt: int | None
    curve: tuple[CurvePoint, ...]
    curve_stride: int
    remaining_checkpoints: int
    remaining_evaluations: int


class Stepped(Contract):
    """An optimizer step is done; loss, rows and tokens are those of the whole global batch.

    ``gradient_norm`` is that before clipping; None where it is not known, or not finite.
    """

    kind: Literal["stepped"] = "stepped"
    at: Timestamp
    step: int
    loss: float
    learning_rate: float
    gradient_norm: float | None
    rows: int
    tokens: int
    seconds: float
    remaining_checkpoints: int
    remaining_evaluations: int


class Evaluated(Contract):
    """The select rows were scored."""

    kind: Literal["evaluated"] = "evaluated"
    step: int
    select_loss: float
    milliseconds: int


class Saved(Contract):
    """A checkpoint is complete."""

    kind: Literal["saved"] = "saved"
    at: Timestamp
    step: int
    milliseconds: int


class Working(Contract):
    """It gets on with what makes no step: a save, or scoring the select rows."""

    kind: Literal["working"] = "working"
    at: Timestamp


class Warned(Contract):
    """The training shows a sign of going wrong, for the first time in this attempt."""

    kind: Literal["warned"] = "warned"
    message: Text


class Finished(Contract):
    """Training reached its end."""

    kind: Literal["finished"] = "finished"
    result: TrainResult


class Failed(Contract):
    """The rank ends with an error.

    ``at`` is seconds of the machine's monotonic clock, comparable among the ranks of one pod.
    """

    kind: Literal["failed"] = "failed"
    at: float
    exit_code: int
    failure: Failure


Event = Annotated[
    Staged | Planned | Stepped | Evaluated | Saved | Working | Warned | Finished | Failed,
    Field(discriminator="kind"),
]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def read_event(line: bytes) -> Event:
    """Parse one line; raises ``pydantic.ValidationError`` if it is no event."""
    return _EVENT.validate_json(line)


def write_event(event: Event) -> bytes:
    """Format an event as one line."""
    return event.model_dump_json(by_alias=True).encode() + b"\n"
