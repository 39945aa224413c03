"""The process of one rank: its edge. Started by ``launcher`` as a module, with two descriptors.

First the process is made safe (it ends with its launcher, and signals only set a flag), then the
heavy libraries are imported. Whatever ends it is told to the launcher before it ends.
"""

import argparse
import ctypes
import faulthandler
import logging
import os
import signal
import sys
import time

from finetune_api.report import ExitCode, Failure
from finetune_trainer.environment import RankEnvironment
from finetune_trainer.imports import importing
from finetune_trainer.reporting.events import Failed, Staged
from finetune_trainer.training.channel import Channel
from finetune_trainer.training.failure import failure_of
from finetune_trainer.training.place import Place
from finetune_trainer.training.stop import STACK_SIGNAL, StopRequest

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Train, and leave at once: the teardown of collectives can hang or abort (seen: 134)."""
    parser = argparse.ArgumentParser(description="One rank of a gang; started by the launcher.")
    parser.add_argument("--events", type=int, required=True, help="Descriptor to write events to.")
    parser.add_argument("--launcher", type=int, required=True, help="Process id of the launcher.")
    arguments = parser.parse_args()
    end_with(arguments.launcher)
    stop = StopRequest()
    stop.install()
    # Written without the interpreter: a rank that is stuck in a library can still do it.
    faulthandler.register(STACK_SIGNAL, all_threads=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    code = _run(Channel(arguments.events), stop)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def end_with(launcher: int) -> None:
    """Die when the launcher does, however it died: no rank may hold a device that nobody counts."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:
        # It was gone before the kernel was asked.
        os._exit(ExitCode.INTERNAL)


def _run(channel: Channel, stop: StopRequest) -> int:
    place = Place.from_env(os.environ)
    say = channel.send if place.local_rank == 0 else (lambda _: None)

    def tell(failure: Failure, code: ExitCode) -> ExitCode:
        channel.send(Failed(at=time.monotonic(), exit_code=code, failure=failure))
        return code

    def end(failure: Failure) -> None:
        os._exit(tell(failure, ExitCode.INTERNAL))

    try:
        environment = RankEnvironment.from_env(os.environ)
        run = environment.load_run()
        say(Staged(stage="loading"))
        # Seconds of imports, which must not come before the lines above.
        with importing():
            from finetune_trainer.training.session import train

        return train(environment, run, place, stop, say, end)
    except Exception as error:  # noqa: BLE001  # the process's edge
        return tell(*failure_of(error, place.rank))


if __name__ == "__main__":
    main()
