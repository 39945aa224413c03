"""An operator that is killed at a write, or whose writes are spoilt, leaves what it would have.

Every story is told on the real API server with pods of the simulated kubelet, whose account the
ledger is compared with.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import pytest

from harness.crowd import Crowd, Point
from harness.faultproxy import Choice, Strike, Write
from harness.kubeletscript import Script
from harness.operatorprocess import OperatorProcess
from harness.scene import QUICK, RANK_DEATH, Scene, is_last, is_number, one_of_many

FULL = "FINETUNE_FULL_SWEEP"
SIDE_BY_SIDE = 16


@pytest.mark.parametrize("script", [QUICK, RANK_DEATH], ids=["happy", "rank death"])
def test_an_operator_killed_at_any_write_leaves_what_an_undisturbed_one_does(
    scene: Scene, script: Script
) -> None:
    """Killed at each write of a story: before it and after it by turns.

    With FINETUNE_FULL_SWEEP set in the environment it is killed before and after each, in twice
    the time.
    """
    scene.kubelet.play(scene.installation.namespace, script)
    # The name in the Lease stays, so that no restart has to wait for the Lease to run out.
    with scene.operator(identity="the-one") as operator:
        points = _points(scene.undisturbed())
        names = list(points)
        for start in range(0, len(names), SIDE_BY_SIDE):
            some = names[start : start + SIDE_BY_SIDE]
            _kill_at(scene, operator, {name: points[name] for name in some})
    missed = points.keys() - scene.crowd.struck
    assert len(missed) <= len(points) // 10, missed
    scene.assert_all_as_undisturbed()


def _points(writes: int) -> dict[str, Point]:
    """By the name of a job: at which write of its own the operator is killed."""
    kinds = {"before": Strike.KILL_BEFORE, "after": Strike.KILL_AFTER}
    return {
        f"{word}-{number}": (is_number(number), strike)
        for number in range(1, writes + 1)
        for turn, (word, strike) in enumerate(kinds.items())
        if os.environ.get(FULL) or (number + turn) % 2
    } | {f"{word}-last": (is_last, strike) for word, strike in kinds.items()}


def _kill_at(scene: Scene, operator: OperatorProcess, points: dict[str, Point]) -> None:
    scene.crowd.meet(points)
    for name in points:
        scene.crowd.apply(one_of_many(name))
    scene.crowd.wait_until_met()
    operator.kill()
    scene.crowd.let_go()
    operator.start()
    scene.crowd.wait_over()


SPOILT = (
    Strike.DROP_REQUEST,
    Strike.DROP_REPLY,
    Strike.CONFLICT,
    Strike.TOO_MANY,
    Strike.FAILED,
    Strike.UNAVAILABLE,
    Strike.DUPLICATE,
)


def test_writes_that_are_refused_or_lost_or_doubled_are_made_up_for(scene: Scene) -> None:
    """Every write is spoilt in each way when it first comes.

    Two jobs share the writes by turns: were a job's every write spoilt, its every look would be,
    and it would wait longer after each.
    """
    scene.kubelet.play(scene.installation.namespace, RANK_DEATH)
    with scene.operator():
        writes = scene.undisturbed()
        strikes = {
            f"{strike.name.lower().replace('_', '-')}-{turn}": (strike, turn)
            for strike in SPOILT
            for turn in (0, 1)
        }
        scene.proxy.plan_each(_once_each(scene.crowd, strikes))
        for name in strikes:
            scene.crowd.apply(one_of_many(name))
        scene.crowd.wait_over()
    struck = Counter(write.strike for write in scene.proxy.writes)
    assert all(struck[strike] > writes // 2 for strike in SPOILT), struck
    scene.assert_all_as_undisturbed()


def _once_each(crowd: Crowd, strikes: Mapping[str, tuple[Strike, int]]) -> Choice:
    seen: dict[str, set[tuple[str, ...]]] = {name: set() for name in strikes}

    def choose(write: Write) -> Strike | None:
        name = crowd.owner(write)
        said = (write.method, write.path, _said(write))
        if name not in seen or said in seen[name]:
            return None
        seen[name].add(said)
        strike, turn = strikes[name]
        return strike if len(seen[name]) % 2 == turn else None

    return choose


def _said(write: Write) -> str:
    """What a write says, without its moments."""
    if isinstance(write.body, list):
        return " ".join(f"{one['op']} {one['path']}" for one in write.body)
    body = write.body or {}
    if "status" in body:
        status = body["status"]
        rows = [(row["number"], row["state"]) for row in status.get("attempts", [])]
        return f"{status['phase']} {rows}"
    if body.get("kind") == "UsageRecord":
        ends = ["until" in entry for entry in body["spec"].get("entries", [])]
        return f"{ends} {body['spec'].get('sealed')} {body['spec'].get('lostSettled')}"
    return write.name
