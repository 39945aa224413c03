"""A local job from where it is to where it can go no further by itself. Called by ``cli.run``."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from finetune_operator import engine as port
from finetune_operator.core.decision import Decision
from finetune_operator.engine import EngineError
from finetune_operator.local.engine import LocalEngine

_LONGEST_WAIT_SECONDS = 1.0
_SHORTEST_WAIT_SECONDS = 0.05
_FIRST_DELAY_SECONDS = 0.5
_TRIES = 5


async def drive(engine: LocalEngine, show: Callable[[Decision], None]) -> Decision:
    """Look, decide and act until nothing is left to do.

    Raises
    ------
    EngineError
        If the same look failed several times over. Pods that still run notice the end of this
        process, save, and stop.
    """
    failures = 0
    while True:
        engine.changed.clear()
        try:
            decision = await port.step(engine, datetime.now(UTC))
        except EngineError:
            failures += 1
            if failures == _TRIES:
                raise
            await asyncio.sleep(_FIRST_DELAY_SECONDS * 2 ** (failures - 1))
            continue
        failures = 0
        show(decision)
        if decision.finished:
            return decision
        await _wait(engine, decision.look_again_seconds)


async def _wait(engine: LocalEngine, seconds: float | None) -> None:
    wanted = _LONGEST_WAIT_SECONDS if seconds is None else seconds
    await asyncio.sleep(_SHORTEST_WAIT_SECONDS)
    try:
        async with asyncio.timeout(min(wanted, _LONGEST_WAIT_SECONDS)):
            await engine.changed.wait()
    except TimeoutError:
        return
