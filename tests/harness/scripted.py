"""A world of pods on a virtual clock, behind the engine's port: the fast test bed of the core.

Nothing sleeps. Gangs train at a known pace, save every so many steps, and end as the script says;
the world keeps its own account of what every pod held, which the ledger is compared with. Writes
can be made to crash before or after they take hold.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from finetune_api.datareport import BaselineFit, DataReport, ModelFacts, PrepareReport
from finetune_api.evaluationreport import BaselineScores, ClassScores, EvaluationReport, Interval
from finetune_api.job import FineTuneJob
from finetune_api.ratecard import RateCard
from finetune_api.report import (
    Failure,
    FailureClass,
    Marks,
    Overfitting,
    Progress,
    ReportRef,
    Step,
    Termination,
    TrainResult,
)
from finetune_api.status import JobStatus
from finetune_api.tasks import TASKS, Baseline, Metric, Task
from finetune_api.times import format_time
from finetune_api.usage import EndEvidence, UsageRecord
from finetune_operator.core.decision import (
    CreateGang,
    Decision,
    Event,
    ForgetGang,
    ReleaseGang,
    StopGang,
)
from finetune_operator.core.observed import EngineFacts, Observed, Problem, StoredReport
from finetune_operator.cost.pods import Placement, PodView
from finetune_operator.engine import step as take_step

START = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)
DIGEST = "sha256:" + "0" * 64
TRAIN_ROWS = 320
STEP_SECONDS = 2
INIT_SECONDS = 5
SAVE_SECONDS = 3
SAVE_EVERY = 4
SERVICE_SECONDS = 8


class CrashError(Exception):
    """The controller died here."""


@dataclass
class Fault:
    """A pod's end that the script plans: which attempt and worker, when after its release."""

    attempt: int
    worker: int
    after_seconds: float
    exit_code: int = 137
    failure: FailureClass | None = None
    disrupted: str | None = None


@dataclass
class Silence:
    """A node that is lost with a pod on it, and perhaps comes back; seconds from the release."""

    attempt: int
    worker: int
    after_seconds: float
    back_seconds: float | None = None


@dataclass
class Gang:
    """One attempt's pods, and how they will go."""

    action: CreateGang
    created_at: datetime
    released_at: datetime | None = None
    stop_at: datetime | None = None
    ends: dict[int, tuple[datetime, int]] = field(default_factory=dict)
    resumed_from: int = 0
    deadline_seconds: int | None = None


@dataclass
class World:
    """What is true, whoever looks: pods, checkpoints, time, and what was made durable."""

    job: FineTuneJob
    cards: tuple[RateCard, ...] = ()
    faults: tuple[Fault, ...] = ()
    silences: tuple[Silence, ...] = ()
    passed: bool = True
    stall_attempt: int | None = None
    slow_save: timedelta = timedelta(0)
    """For how long the attempt that stalls gets on with a save first."""
    unplaced: frozenset[int] = frozenset()
    """Attempts whose last worker no node has room for."""
    silent: bool = False
    """Rank 0 ends before anybody has asked it for its progress."""
    missed_reports: int = 0
    """Reports that are lost before one is received."""
    blocked: str | None = None
    ahead: str | None = None
    problems: tuple[Problem, ...] = ()
    overfitting: Overfitting | None = None
    """What a training ends with."""
    baselines: tuple[BaselineFit, ...] = ()
    """What the prepare step says of them."""
    now: datetime = START
    gangs: dict[int, Gang] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)
    held: dict[str, tuple[datetime, datetime | None]] = field(default_factory=dict)
    checkpoint: int = 0
    status: JobStatus | None = None
    records: dict[str, UsageRecord] = field(default_factory=dict)
    interrupted: bool = False
    smoke: bool = False
    look_seconds: float = 1.0
    max_ranks: int | None = 8
    deletes_jobs: bool = False
    device_memory_bytes: int | None = None
    model_parameters: int = 1000
    writes: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    before_write: Callable[[str], None] = lambda _: None
    after_write: Callable[[str], None] = lambda _: None

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        training = self.job.spec.training
        return training.max_steps or -(-TRAIN_ROWS * 3 // training.global_batch_size)

    def settle(self) -> None:
        """Let everything happen that is due by now."""
        for gang in self.gangs.values():
            self._settle_gang(gang)

    def _settle_gang(self, gang: Gang) -> None:
        if gang.released_at is None:
            return
        for worker in range(gang.action.run.gang.workers):
            if worker not in gang.ends:
                end = self._end_of(gang, worker)
                if end is not None and end[0] <= self.now:
                    gang.ends[worker] = end
                    uid = pod_uid(gang, worker)
                    if uid in self.held:
                        self.held[uid] = (self.held[uid][0], end[0])
        if gang.action.step is Step.TRAIN:
            self.checkpoint = max(self.checkpoint, self._saved(gang))

    def _end_of(self, gang: Gang, worker: int) -> tuple[datetime, int] | None:
        silence = self.silence_of(gang, worker)
        if silence is not None:
            # It hears of nothing until its node is back, whose kubelet ends it then.
            back = silence[1]
            return (back + timedelta(seconds=SAVE_SECONDS), 137) if back else None
        ends = []
        broken = self._broken_at(gang)
        for fault in self._faults(gang):
            if fault.worker == worker and gang.released_at:
                at = gang.released_at + timedelta(seconds=fault.after_seconds)
                ends.append((at, fault.exit_code))
        if gang.stop_at is not None:
            if broken is not None and broken <= gang.stop_at:
                ends.append((gang.stop_at + timedelta(seconds=1), 70))
            else:
                ends.append((gang.stop_at + timedelta(seconds=SAVE_SECONDS), 75))
        natural = self._natural_end(gang)
        if natural is not None and (broken is None or natural < broken):
            ends.append((natural, 0))
        return min(ends) if ends else None

    def silence_of(self, gang: Gang, worker: int) -> tuple[datetime, datetime | None] | None:
        """From when to when the node of a worker is not heard of."""
        for one in self.silences:
            if (one.attempt, one.worker) == (gang.action.attempt, worker) and gang.released_at:
                since, back = one.after_seconds, one.back_seconds
                return (
                    gang.released_at + timedelta(seconds=since),
                    None if back is None else gang.released_at + timedelta(seconds=back),
                )
        return None

    def lost_since(self, gang: Gang, worker: int) -> datetime | None:
        """Since when a worker's node is silent now."""
        silence = self.silence_of(gang, worker)
        if silence is None or self.now < silence[0]:
            return None
        return None if silence[1] is not None and silence[1] <= self.now else silence[0]

    def places(self, gang: Gang, worker: int) -> bool:
        """Whether a node has room for a worker."""
        last = gang.action.run.gang.workers - 1
        return gang.action.attempt not in self.unplaced or worker != last

    def _faults(self, gang: Gang) -> list[Fault]:
        workers = gang.action.run.gang.workers
        number = gang.action.attempt
        return [f for f in self.faults if f.attempt == number and f.worker < workers]

    def _broken_at(self, gang: Gang) -> datetime | None:
        if gang.released_at is None:
            return None
        times = [gang.released_at + timedelta(seconds=f.after_seconds) for f in self._faults(gang)]
        silences = [self.silence_of(gang, w) for w in range(gang.action.run.gang.workers)]
        times += [silence[0] for silence in silences if silence is not None]
        return min(times) if times else None

    def first_step_at(self, gang: Gang) -> datetime | None:
        """When the last worker has started and the first step is done."""
        if gang.released_at is None or gang.action.attempt in self.unplaced:
            return None
        slowest = gang.action.run.gang.workers - 1
        return gang.released_at + timedelta(seconds=2 + slowest + INIT_SECONDS)

    def _natural_end(self, gang: Gang) -> datetime | None:
        if gang.released_at is None or self.stall_attempt == gang.action.attempt:
            return None
        if gang.action.attempt in self.unplaced:
            return None
        if gang.action.step is not Step.TRAIN:
            return gang.released_at + timedelta(seconds=SERVICE_SECONDS)
        first = self.first_step_at(gang)
        left = self.total_steps - gang.resumed_from
        return first + timedelta(seconds=STEP_SECONDS * left) if first else None

    def steps_done(self, gang: Gang, at: datetime) -> int:
        """Global step that a gang has reached by a moment."""
        first = self.first_step_at(gang)
        if first is None or at < first or self.stall_attempt == gang.action.attempt:
            return gang.resumed_from
        halts = [at, *(t for t in (gang.stop_at, self._broken_at(gang)) if t is not None)]
        done = int((min(halts) - first).total_seconds() // STEP_SECONDS)
        return min(self.total_steps, gang.resumed_from + max(0, done))

    def _saved(self, gang: Gang) -> int:
        done = self.steps_done(gang, self.now)
        periodic = done // SAVE_EVERY * SAVE_EVERY
        orderly = [code for _, code in gang.ends.values() if code in (0, 75)]
        return done if orderly and len(orderly) == gang.action.run.gang.workers else periodic

    def marks(self, gang: Gang) -> Marks:
        """What rank 0 would report now."""
        first = self.first_step_at(gang)
        last = gang.ends.get(0, (self.now, 0))[0]
        at = min(self.now, last)
        if gang.action.step is not Step.TRAIN or first is None or at < first:
            return Marks()
        done = self.steps_done(gang, at)
        last_step_at = first + timedelta(seconds=STEP_SECONDS * (done - gang.resumed_from))
        return Marks(
            started_at=format_time(first - timedelta(seconds=INIT_SECONDS)),
            first_step_at=format_time(first),
            last_step_at=format_time(min(last_step_at, at)),
            working_at=format_time(min(last_step_at + self.slow_save, at))
            if self.slow_save
            else None,
            resumed_from_step=gang.resumed_from,
            last_step=done,
            checkpoint_step=self.checkpoint or None,
        )


def pod_uid(gang: Gang, worker: int) -> str:
    """UID of a pod of the world."""
    return f"pod-{gang.action.attempt}-{worker}"


class ScriptedEngine:
    """The engine's port over a ``World``; made anew after each crash, as a controller would be."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def look(self) -> Observed:
        """What a controller can know now."""
        world = self.world
        world.settle()
        job = world.job.model_copy(update={"status": world.status})
        gangs = [g for n, g in sorted(world.gangs.items()) if n not in world.forgotten]
        pods = tuple(self._pod(g, w) for g in gangs for w in range(g.action.run.gang.workers))
        return Observed(
            job=job,
            engine=EngineFacts(
                device="cpu",
                max_ranks=world.max_ranks,
                device_memory_bytes=world.device_memory_bytes,
                placements=dict.fromkeys(Step, placement()),
                control_interval_seconds=world.look_seconds,
                deletes_jobs=world.deletes_jobs,
            ),
            pods=pods,
            records=tuple(world.records.values()),
            rate_cards=world.cards,
            progress=self._progress(gangs),
            reports=tuple(self._reports()),
            blocked=world.blocked,
            ahead=world.ahead,
            problems=world.problems,
            interrupted=world.interrupted,
            smoke=world.smoke,
        )

    def _pod(self, gang: Gang, worker: int) -> PodView:
        released = gang.released_at
        end = gang.ends.get(worker)
        started = released + timedelta(seconds=2 + worker) if released else None
        bound = released + timedelta(seconds=1) if released else None
        if released and not self.world.places(gang, worker):
            started = bound = None
        now = self.world.now
        unborn = bool(end and started and end[0] < started)
        fault = next((f for f in self.world._faults(gang) if f.worker == worker), None)
        told = fault if end and fault and end[1] == fault.exit_code else None
        lost = self.world.lost_since(gang, worker)
        seen = PodView(
            uid=pod_uid(gang, worker),
            step=gang.action.step,
            attempt=gang.action.attempt,
            worker=worker,
            created_at=gang.created_at,
            released=released is not None,
            released_at=released,
            waiting="Unschedulable: 0/3 nodes have room" if released and not bound else None,
            placement=placement() if bound else None,
            bound_at=bound if bound and bound <= now else None,
            started_at=started if started and started <= now and not unborn else None,
            finished_at=end[0] if end else None,
            end_evidence=EndEvidence.CONTAINERS_TERMINATED if end else None,
            exit_code=end[1] if end else None,
            termination=self._termination(gang, worker, end[1], told) if end else None,
            disrupted=told.disrupted if told else None,
            stopping=gang.stop_at is not None,
        )
        if lost is None:
            return seen
        evidence = EndEvidence.NODE_GONE
        return replace(seen, finished_at=lost, end_evidence=evidence, confirmed=False, silent=True)

    def _termination(
        self, gang: Gang, worker: int, code: int, told: Fault | None
    ) -> Termination | None:
        if code > 128:
            return None
        step, attempt = gang.action.step, gang.action.attempt
        failure = None
        if told is not None and told.failure is not None:
            failure = Failure(failure_class=told.failure, message=f"{told.failure} as scripted")
        elif code == 70:
            failure = Failure(
                failure_class=FailureClass.UNKNOWN, message="a peer was lost", by_peer=True
            )
        train = None
        report = None
        if code == 0 and step is Step.TRAIN:
            train = TrainResult(
                steps=self.world.total_steps,
                best_step=self.world.total_steps,
                best_select_loss=0.3,
                stopped_early=self.world.overfitting is not None,
                overfitting=self.world.overfitting,
                checkpoint=f"checkpoints/{attempt}/{self.world.total_steps}",
            )
        if code == 0 and step is not Step.TRAIN:
            report = ReportRef(path=f"{step}.json", digest=DIGEST)
        return Termination(
            step=step,
            attempt=attempt,
            worker=worker,
            exit_code=code,
            failure=failure,
            marks=self.world.marks(gang) if worker == 0 else Marks(),
            train=train,
            report=report,
        )

    def _progress(self, gangs: Sequence[Gang]) -> Progress | None:
        if self.world.silent:
            return None
        running = [g for g in gangs if g.released_at and 0 not in g.ends]
        if not running or running[-1].action.step is not Step.TRAIN:
            return None
        gang = running[-1]
        first = self.world.first_step_at(gang)
        if first is None or self.world.now < first:
            return None
        return Progress(
            pod_uid=pod_uid(gang, 0),
            attempt=gang.action.attempt,
            step=self.world.steps_done(gang, self.world.now),
            total_steps=self.world.total_steps,
            loss=0.5,
            seconds_per_step=float(STEP_SECONDS),
            stage="training",
            marks=self.world.marks(gang),
        )

    def _reports(self) -> list[StoredReport]:
        gangs = self.world.gangs.values()
        served = [g for g in gangs if g.action.step is not Step.TRAIN and g.ends.get(0)]
        if len(served) <= self.world.missed_reports:
            return []
        return [
            StoredReport(
                ref=ReportRef(path="prepare.json", digest=DIGEST),
                prepare=prepared(self.world.model_parameters).model_copy(
                    update={"baselines": self.world.baselines}
                ),
            ),
            StoredReport(
                ref=ReportRef(path="evaluate.json", digest=DIGEST),
                evaluation=evaluated(passed=self.world.passed),
            ),
        ]

    def _write(self, what: str, effect: Callable[[], None]) -> None:
        self.world.before_write(what)
        effect()
        self.world.writes.append(what)
        self.world.after_write(what)

    async def write_record(self, record: UsageRecord) -> None:
        """Keep a record."""
        name = record.metadata.name

        def effect() -> None:
            self.world.records[name] = record

        self._write(f"record {record.spec.attempt} sealed={record.spec.sealed}", effect)

    async def write_status(self, job: FineTuneJob, status: JobStatus) -> None:
        """Keep the status."""
        assert job.metadata.uid == self.world.job.metadata.uid

        def effect() -> None:
            self.world.status = status

        self._write("status", effect)

    async def create_gang(self, action: CreateGang) -> None:
        """Make a gang, once."""

        def effect() -> None:
            self.world.gangs.setdefault(
                action.attempt, Gang(action=action, created_at=self.world.now)
            )

        self._write(f"create {action.attempt}", effect)

    async def release_gang(self, action: ReleaseGang) -> None:
        """Let it run, and note what is live beside it."""

        def effect() -> None:
            gang = self.world.gangs[action.attempt]
            if gang.released_at is not None:
                return
            self.world.settle()
            others = [
                g
                for g in self.world.gangs.values()
                if g is not gang
                and g.released_at
                and any(
                    worker not in g.ends and self.world.lost_since(g, worker) is None
                    for worker in range(g.action.run.gang.workers)
                )
            ]
            assert not others, "a gang was released while an earlier one lives (I1)"
            status, names = self.world.status, self.world.records
            number = action.attempt
            assert status is not None, "a gang was released before any status was written"
            assert status.attempt >= number, "a gang was released before its number was durable"
            assert any(name.endswith(f"-{number}") for name in names), "… before its record was"
            gang.released_at = self.world.now
            gang.deadline_seconds = action.deadline_seconds
            gang.resumed_from = self.world.checkpoint
            for worker in range(gang.action.run.gang.workers):
                if self.world.places(gang, worker):
                    bound = self.world.now + timedelta(seconds=1)
                    self.world.held[pod_uid(gang, worker)] = (bound, None)

        self._write(f"release {action.attempt}", effect)

    async def stop_gang(self, action: StopGang) -> None:
        """Ask it to end."""

        def effect() -> None:
            gang = self.world.gangs[action.attempt]
            if gang.stop_at is None:
                gang.stop_at = self.world.now
            if gang.released_at is None:
                workers = range(gang.action.run.gang.workers)
                gang.ends = dict.fromkeys(workers, (self.world.now, 143))

        self._write(f"stop {action.attempt}", effect)

    async def forget_gang(self, action: ForgetGang) -> None:
        """Let go of its pods."""
        self._write(f"forget {action.attempt}", lambda: self.world.forgotten.add(action.attempt))

    async def tell(self, events: Sequence[Event]) -> None:
        """Keep the events."""
        self.world.events += events


async def drive(
    world: World,
    *,
    until: Callable[[Decision], bool] = lambda decision: decision.finished,
    limit: int = 2000,
) -> Decision:
    """Run the loop until a decision is as wished, restarting after each crash."""
    for _ in range(limit):
        try:
            decision = await take_step(ScriptedEngine(world), world.now)
        except CrashError:
            world.now += timedelta(seconds=1)
            continue
        if until(decision):
            return decision
        pause = decision.look_again_seconds
        world.now += timedelta(seconds=1.0 if pause is None else max(0.2, pause))
    raise AssertionError(f"not there after {limit} looks: {world.status}")


def placement() -> Placement:
    """Where the world's pods are bound."""
    return Placement(node="laptop", device="cpu", milli_devices=1000, local=True)


def prepared(parameters: int = 1000) -> PrepareReport:
    """What the prepare step reports."""
    return PrepareReport(
        data=DataReport(
            read_rows=400,
            kept_rows=400,
            train_rows=TRAIN_ROWS,
            select_rows=30,
            test_rows=50,
            data_digest=DIGEST,
            split_digest=DIGEST,
        ),
        model=ModelFacts(
            architecture="BertForSequenceClassification",
            model_type="bert",
            parameters=parameters,
            trainable_parameters=parameters,
            layers=2,
            hidden_size=8,
            intermediate_size=16,
            attention_heads=2,
            vocabulary=50,
            max_positions=64,
            classes=2,
        ),
        labels=("bad", "good"),
    )


def evaluated(*, passed: bool) -> EvaluationReport:
    """What the evaluate step reports."""
    half = Interval(value=0.5, low=0.4, high=0.6)
    return EvaluationReport(
        task=Task.TEXT_CLASSIFICATION,
        test_rows=50,
        checkpoint_step=30,
        split_digest=DIGEST,
        inputs_digest=DIGEST,
        labels=("bad", "good"),
        metrics={
            **dict.fromkeys(TASKS[Task.TEXT_CLASSIFICATION].metrics, half),
            Metric.LOSS: Interval(value=0.6),
        },
        per_class=(
            ClassScores(label="bad", precision=0.5, recall=0.5, f1=0.5, support=25),
            ClassScores(label="good", precision=0.5, recall=0.5, f1=0.5, support=25),
        ),
        confusion_matrix=((12, 13), (12, 13)),
        baselines=(
            BaselineScores(
                name=Baseline.MAJORITY, metrics={Metric.ACCURACY: half, Metric.MACRO_F1: half}
            ),
        ),
        passed=passed,
        resamples=2000,
        predictions=ReportRef(path="output/predictions.parquet", digest=DIGEST),
        model=ReportRef(path="output/model/MANIFEST.json", digest=DIGEST) if passed else None,
    )


def a_job(**spec: object) -> FineTuneJob:
    """A valid job; blocks of the spec are given by their wire names."""
    return FineTuneJob.model_validate(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": "reviews", "uid": "3f9c1b2e-0000-4000-8000-000000000001"},
            "spec": {
                "task": "text-classification",
                "model": {"uri": "model"},
                "dataset": {"train": "rows.csv"},
                "compute": {"workers": 2, "gpusPerWorker": 1},
                **spec,
            },
        }
    )


def a_card(price: str = "0.36", currency: str = "USD") -> RateCard:
    """A rate card with a price for local runs."""
    return RateCard.model_validate(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "RateCard",
            "metadata": {"name": "example"},
            "spec": {
                "currency": currency,
                "entries": [
                    {
                        "name": "local",
                        "pricePerHour": price,
                        "effectiveFrom": "2026-01-01T00:00:00Z",
                        "source": "an example",
                    }
                ],
            },
        }
    )
