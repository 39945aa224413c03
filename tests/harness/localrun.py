"""``finetune run`` with the trainer of ``childtrainer``: ``python localrun.py MANIFEST WORKSPACE``.

For tests that end the run itself. The job is JSON, so that nothing but the engine is at work.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_api.job import FineTuneJob
from finetune_api.phases import Phase
from finetune_api.report import ExitCode
from finetune_operator.core.decision import Event
from finetune_operator.local import machine
from finetune_operator.local.drive import drive
from finetune_operator.local.engine import LocalEngine
from finetune_operator.local.resume import open_state
from finetune_operator.local.workspace import State, Workspace

TRAINER = (sys.executable, str(Path(__file__).with_name("childtrainer.py")))


def run(manifest: Path, root: Path) -> int:
    workspace = Workspace(root=root)
    job = FineTuneJob.model_validate_json(manifest.read_bytes())
    with workspace.lock():
        state = open_state(workspace, job, (), manifest.parent, smoke=False)
        return asyncio.run(go(workspace, state))


async def go(workspace: Workspace, state: State) -> int:
    engine = LocalEngine(
        workspace=workspace,
        state=state,
        facts=machine.facts(state.job),
        tell=tell,
        trainer=TRAINER,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, engine.interrupt)
    decision = await drive(engine, lambda _: None)
    codes = {Phase.COMPLETE: ExitCode.DONE, Phase.SUSPENDED: ExitCode.STOPPED}
    return codes.get(decision.status.phase, 1)


def tell(event: Event) -> None:
    sys.stdout.write(f"{event.reason}: {event.message}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2])))
