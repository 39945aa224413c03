"""A pod's time is divided into classes that sum to it, whatever anybody says."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.report import Marks, Step
from finetune_api.usage import TimeClass
from finetune_operator.cost.instants import instant, instant_of, moment_of, wire
from finetune_operator.cost.metering import Held, Span, shares, timeline
from unit.builders_cost import at, by_name, said, some_marks

STALL = 30_000
WORKED = some_marks(started_at=3, first_step_at=20, last_step_at=80, last_step=100)


def seconds(**classes: float) -> dict[str, int]:
    """Return a table of classes, given in seconds."""
    return {name: round(value * 1000) for name, value in classes.items()}


def divided(
    until: float,
    marks: Marks | None,
    *,
    started: float | None = 10,
    ended: bool = True,
    peers: tuple[float | None, ...] = (),
    step: Step = Step.TRAIN,
    stall: int | None = STALL,
) -> dict[str, int]:
    """Divide a pod that is bound at noon; it and its peers are given by their starts."""
    starts = [None if start is None else instant(at(start)) for start in (started, *peers)]
    held = Held(
        step=step,
        since=instant(at(0)),
        started=starts[0],
        until=instant(at(until)),
        ended=ended,
    )
    return by_name(shares(timeline(held, starts, marks, stall), held.since, held.until))


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        (None, seconds(pulling=10, unknown=90)),
        (some_marks(started_at=3), seconds(pulling=10, init=90)),
        (
            WORKED,
            seconds(pulling=10, init=10, productive=60, teardown=20),
        ),
        (
            some_marks(first_step_at=20, last_step_at=80, checkpoint_milliseconds=5_000),
            seconds(pulling=10, init=10, productive=55, checkpoint=5, teardown=20),
        ),
        (
            some_marks(
                first_step_at=20, last_step_at=80, checkpoint_at=90, checkpoint_milliseconds=10_000
            ),
            seconds(pulling=10, init=10, productive=60, checkpoint=10, teardown=10),
        ),
        (
            some_marks(first_step_at=20, last_step_at=80, checkpoint_at=50),
            seconds(pulling=10, init=10, productive=60, teardown=20),
        ),
        (
            some_marks(first_step_at=20, last_step_at=80, checkpoint_milliseconds=10**11),
            seconds(pulling=10, init=10, checkpoint=60, teardown=20),
        ),
        (some_marks(first_step_at=90), seconds(pulling=10, init=80, teardown=10)),
        (
            some_marks(first_step_at=5, last_step_at=80),
            seconds(pulling=10, productive=70, teardown=20),
        ),
        (
            some_marks(first_step_at=80, last_step_at=20),
            seconds(pulling=10, init=70, teardown=20),
        ),
        (
            some_marks(first_step_at=20, last_step_at=1000),
            seconds(pulling=10, init=10, productive=80),
        ),
        (some_marks(first_step_at=1000, last_step_at=2000), seconds(pulling=10, init=90)),
    ],
)
def test_a_training_pod_that_ended(marks: Marks | None, expected: dict[str, int]) -> None:
    assert divided(100, marks) == expected


@pytest.mark.parametrize(
    ("peers", "marks", "expected"),
    [
        ((10,), None, seconds(pulling=10, unknown=90)),
        ((4,), None, seconds(pulling=10, unknown=90)),
        ((30, 25), None, seconds(pulling=10, gangWait=20, unknown=70)),
        ((30, None), None, seconds(pulling=10, gangWait=90)),
        ((None,), some_marks(started_at=1), seconds(pulling=10, gangWait=90)),
        (
            (None,),
            WORKED,
            seconds(pulling=10, gangWait=10, productive=60, teardown=20),
        ),
        (
            (50,),
            WORKED,
            seconds(pulling=10, gangWait=40, productive=30, teardown=20),
        ),
        ((500,), WORKED, seconds(pulling=10, gangWait=90)),
    ],
)
def test_a_gang_waits_for_the_last_of_its_pods(
    peers: tuple[float | None, ...], marks: Marks | None, expected: dict[str, int]
) -> None:
    assert divided(100, marks, peers=peers) == expected


def test_a_pod_that_has_not_started_is_pulling_while_others_wait() -> None:
    told = some_marks(started_at=3)
    assert divided(100, told, started=None, ended=False, peers=(3,)) == seconds(pulling=100)


def test_a_start_that_nobody_saw_came_before_the_first_step() -> None:
    expected = seconds(pulling=20, productive=60, teardown=20)
    assert divided(100, WORKED, started=None) == expected


@pytest.mark.parametrize(
    ("until", "ended", "stall", "tail"),
    [
        (110, True, STALL, "teardown"),
        (110.001, True, STALL, "stalled"),
        (110, False, STALL, "productive"),
        (110.001, False, STALL, "stalled"),
        (100_000, True, None, "teardown"),
        (100_000, False, None, "productive"),
        (80.001, True, 0, "stalled"),
    ],
)
def test_silence_after_the_last_work_is_stalled_once_it_passes_the_limit(
    until: float, *, ended: bool, stall: int | None, tail: str
) -> None:
    expected = seconds(pulling=10, init=10, productive=60)
    expected[tail] = expected.get(tail, 0) + round((until - 80) * 1000)
    assert divided(until, WORKED, ended=ended, stall=stall) == expected


def test_a_save_that_gets_on_is_work() -> None:
    saving = some_marks(first_step_at=20, last_step_at=80, working_at=400)
    assert divided(410, saving) == seconds(pulling=10, init=10, productive=380, teardown=10)


def test_saving_is_not_taken_from_the_step_that_still_runs() -> None:
    told = some_marks(first_step_at=20, last_step_at=21, checkpoint_milliseconds=5_000)
    expected = seconds(pulling=10, init=10, checkpoint=1, productive=19)
    assert divided(40, told, ended=False) == expected


@pytest.mark.parametrize("step", [Step.PREPARE, Step.EVALUATE])
@pytest.mark.parametrize("marks", [None, WORKED])
@pytest.mark.parametrize("ended", [True, False])
def test_the_other_steps_work_from_their_start_on(
    step: Step, marks: Marks | None, *, ended: bool
) -> None:
    expected = seconds(pulling=10, productive=90)
    assert divided(100, marks, step=step, ended=ended) == expected
    assert divided(100, marks, step=step, ended=ended, started=None) == seconds(pulling=100)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (1, 2, {"productive": 1}),
        (2, 3, {"productive": 1}),
        (3, 4, {"checkpoint": 1}),
        (1, 3, {"productive": 2}),
        (0, 9, {"productive": 2, "checkpoint": 1}),
        (4, 9, {}),
        (3, 3, {}),
    ],
)
def test_saving_is_spread_over_the_work_from_its_beginning(
    start: int, end: int, expected: dict[str, int]
) -> None:
    spans = [Span(TimeClass.PRODUCTIVE, 1, 4, saving=1)]
    assert by_name(shares(spans, start, end)) == expected


def test_a_negative_interval_is_none() -> None:
    assert divided(-5, WORKED) == {}


def test_a_start_before_the_binding_counts_from_the_binding() -> None:
    assert divided(100, None, started=-20) == seconds(unknown=100)


def test_instants_are_whole_milliseconds_cut_off_as_on_the_wire() -> None:
    assert instant(at(0.001)) - instant(at(0)) == 1
    assert instant(at(0) + timedelta(microseconds=1999)) - instant(at(0)) == 1
    assert moment_of(instant(at(1.5))) == at(1.5)
    assert wire(instant_of(said(1.5))) == said(1.5)
    assert instant_of("1970-01-01T01:00:01+01:00") == 1000
    assert wire(instant_of("0001-01-01T00:00:00Z")) == "0001-01-01T00:00:00Z"


moments = st.one_of(
    st.none(),
    st.floats(min_value=-200, max_value=400).map(said),
    st.sampled_from([said(0), said(100), "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z"]),
)
whole = st.integers(min_value=0, max_value=10**10)
absurd_marks = st.one_of(
    st.none(),
    st.builds(
        Marks,
        started_at=moments,
        first_step_at=moments,
        last_step_at=moments,
        checkpoint_at=moments,
        last_step=whole,
        resumed_from_step=whole,
        checkpoint_milliseconds=st.one_of(whole, st.integers(0, 300_000)),
        evaluation_milliseconds=whole,
    ),
)
starts = st.one_of(st.none(), st.integers(min_value=-50, max_value=150))


@given(
    marks=absurd_marks,
    until=st.integers(min_value=-100_000, max_value=200_000),
    started=starts,
    peers=st.lists(starts, max_size=3).map(tuple),
    ended=st.booleans(),
    step=st.sampled_from(Step),
    stall=st.one_of(st.none(), st.integers(0, 100_000)),
)
def test_classes_partition_the_interval_whatever_is_said(
    marks: Marks | None,
    until: int,
    started: int | None,
    peers: tuple[int | None, ...],
    *,
    ended: bool,
    step: Step,
    stall: int | None,
) -> None:
    table = divided(
        until / 1000, marks, started=started, ended=ended, peers=peers, step=step, stall=stall
    )
    assert sum(table.values()) == max(0, until)
    assert all(milliseconds > 0 for milliseconds in table.values())


@given(
    marks=absurd_marks,
    started=starts,
    cuts=st.lists(st.integers(min_value=0, max_value=100_000), max_size=5),
    ended=st.booleans(),
)
def test_cutting_a_timeline_loses_and_moves_nothing(
    marks: Marks | None, started: int | None, cuts: list[int], *, ended: bool
) -> None:
    since = instant(at(0))
    held = Held(
        step=Step.TRAIN,
        since=since,
        started=None if started is None else since + started * 1000,
        until=since + 100_000,
        ended=ended,
    )
    spans = timeline(held, [held.started], marks, None)
    edges = [since, *sorted(since + cut for cut in cuts), held.until]
    total = dict.fromkeys(TimeClass, 0)
    for start, end in pairwise(edges):
        part = shares(spans, start, end)
        assert sum(share.milliseconds for share in part) == end - start
        assert all(share.milliseconds > 0 for share in part)
        for share in part:
            total[share.name] += share.milliseconds
    undivided = {share.name: share.milliseconds for share in shares(spans, since, held.until)}
    assert {name: ms for name, ms in total.items() if ms} == undivided
