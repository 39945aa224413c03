"""How the processes of a step start: what they import, and when the collector looks at it."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.report import ExitCode, Step
from finetune_api.run import Env
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.imports import importing
from finetune_trainer.training.place import Place, variables
from harness.processes import free_port
from harness.trainer import a_run, an_environment

THE_END = """
import gc, sys
print(code, gc.isenabled(), gc.get_freeze_count() > len(gc.get_objects()), "torch" in sys.modules)
"""
OF_A_STEP = "from finetune_trainer.__main__ import main\nimport sys\ncode = main(sys.argv[1:])"
OF_A_RANK = """
import os
from finetune_trainer.training import rank
from finetune_trainer.training.channel import Channel
from finetune_trainer.training.stop import StopRequest
code = rank._run(Channel(os.open(os.devnull, os.O_WRONLY)), StopRequest())
"""
OF_A_LAUNCHER = """
import sys
import finetune_trainer.__main__
import finetune_trainer.training.launcher
print({"torch", "transformers", "deepspeed", "datasets", "numpy", "pyarrow"} & set(sys.modules))
"""
OF_THE_COMMAND_LINE = """
import sys
import finetune_operator.cli.main
print({"aiohttp", "asyncio", "cel", "rich", "jinja2"} & set(sys.modules))
"""


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    """What a test froze here must not stay so for the tests after it."""
    yield
    gc.unfreeze()


def said(program: str, *arguments: str, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "leaked" not in done.stderr
    return done.stdout.splitlines()[-1].split()


def test_the_collector_rests_while_libraries_are_imported_and_leaves_them_alone_after() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(gc.get_objects())


def test_the_collector_works_again_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError("no such library")
    assert gc.isenabled()


@pytest.mark.parametrize("step", [Step.PREPARE, Step.EVALUATE])
def test_a_step_loads_its_libraries_so(step: Step, tmp_path: Path) -> None:
    # Nothing is there to work on: the step ends as soon as its libraries are loaded.
    environment = an_environment(tmp_path, a_run(dataset={"train": "pvc://no/rows"}, step=step))
    code, *loaded = said(OF_A_STEP + THE_END, step.value, environment=environment)
    assert code != str(ExitCode.DONE)
    assert loaded == ["True", "True", "True"]


def test_a_rank_loads_its_libraries_so(tmp_path: Path) -> None:
    run = a_run(dataset={"train": "pvc://no/rows"}, step=Step.TRAIN)
    named = an_environment(tmp_path, run) | {Env.MASTER_PORT.value: str(free_port())}
    environment = RankEnvironment.from_env(named)
    of_rank = variables(Place.of(run.gang, 0, 0), environment, run.gang, named)
    code, *loaded = said(OF_A_RANK + THE_END, environment=of_rank)
    assert code == str(ExitCode.DATA)
    assert loaded == ["True", "True", "True"]


def test_a_launcher_loads_no_library_of_training() -> None:
    assert said(OF_A_LAUNCHER, environment={}) == ["set()"]


def test_the_command_line_loads_what_one_command_needs_with_that_command() -> None:
    assert said(OF_THE_COMMAND_LINE, environment={}) == ["set()"]


def test_a_run_of_another_contract_ends_before_there_is_a_rank(tmp_path: Path) -> None:
    environment = an_environment(tmp_path, a_run(dataset={"train": "pvc://no/rows"}))
    Path(environment[Env.RUN_FILE.value]).write_text('{"step": "train"}')
    done = subprocess.run(
        [sys.executable, "-m", "finetune_trainer", "train"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    (line,) = done.stderr.splitlines()
    assert "not a run that this trainer reads" in line
