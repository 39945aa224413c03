"""What the simulated kubelet's pods do: how long each part takes, and what goes wrong.

A `Script` is told to a kubelet for a namespace. It says nothing that the run itself says: steps,
the number of workers, how often to save are read from the run file, as the trainer reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from finetune_api.report import FailureClass, Step


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong in one worker's pod.

    It comes once the training has made `at_step` steps, or else `after_seconds` after the start of
    its container.
    """

    step: Step = Step.TRAIN
    attempt: int | None = None
    """The number that the pod was released with; None is every attempt."""
    worker: int = 0
    at_step: int | None = None
    after_seconds: float = 0.0

    def meets(self, step: Step, attempt: int, worker: int) -> bool:
        """Whether it is meant for that pod."""
        return self.step is step and self.attempt in (None, attempt) and self.worker == worker


@dataclass(frozen=True, kw_only=True)
class Kill(Fault):
    """The container ends, without a word or with the failure as its termination message."""

    exit_code: int = 137
    reason: str = "Error"
    """In the kubelet's words: `OOMKilled` after the memory limit."""
    failure: FailureClass | None = None
    message: str = ""
    """The failure's message; without a failure, the last lines of the log."""


@dataclass(frozen=True, kw_only=True)
class Evict(Fault):
    """The pod is evicted: through the API with its grace, or at once under node pressure."""

    pressure: bool = False


@dataclass(frozen=True, kw_only=True)
class Hang(Fault):
    """From then on the gang makes no step; it still answers SIGTERM, but saves nothing."""


@dataclass(frozen=True, kw_only=True)
class IgnoreSigterm(Fault):
    """The container hears no SIGTERM, and is killed when the grace is over."""


@dataclass(frozen=True, kw_only=True)
class ImagePullFailure(Fault):
    """The image can't be had: the container waits for ever."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """How the pods of a namespace go. Seconds are real ones."""

    pull_seconds: float = 0.0
    """From the binding to the start of the container."""
    prepare_seconds: float = 0.3
    evaluate_seconds: float = 0.3
    init_seconds: float = 0.3
    """From the start of the last worker to the first step."""
    step_seconds: float = 0.05
    save_seconds: float = 0.1
    teardown_seconds: float = 1.0
    """From SIGTERM to the end of a worker that has lost a peer."""
    passed: bool = True
    """Whether the evaluation's gate passes."""
    faults: tuple[Fault, ...] = field(default=())


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a container ended."""

    exit_code: int
    reason: str = ""
    """Empty: as the exit code says."""
    message: str = ""
    """What it left in its termination log."""
    log: str = ""
    """The last lines of its log."""
    evicted: str = ""
    """Why the kubelet itself evicted the pod."""
    moment_known: bool = True
    """Whether the kubelet saw it end; after a power cut it did not."""
