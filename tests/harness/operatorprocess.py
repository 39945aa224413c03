"""The operator as a process of its own, to be killed and started again as a test likes.

It gets its settings by the environment and reaches the API server by a kubeconfig, as in a pod's
place; nothing of this machine's other settings reaches it. As a Deployment would, it starts an
operator again that ends by itself, as one does that lost its Lease on a busy machine.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.processes import end_with_parent, free_port, stop, wait_until_ready

_HOST = "127.0.0.1"
_NOT_PASSED_ON = ("FINETUNE_", "KUBERNETES_", "KUBECONFIG")
_AGAIN_SECONDS = 1.0


class OperatorProcess:
    """One replica, over all its starts; made by `operator_process`."""

    def __init__(
        self,
        *,
        kubeconfig: Path,
        folder: Path,
        environment: Mapping[str, str],
        name: str,
        kept: bool,
    ) -> None:
        self.log = folder / f"{name}.log"
        """What all its starts have said, one after the other."""
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(_NOT_PASSED_ON)},
            "KUBECONFIG": str(kubeconfig),
            **environment,
        }
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._kept = kept
        self._lock = threading.Lock()
        """Held while it is started again, or while it is decided that it shall not be."""
        self._wanted = threading.Event()
        """Whether it is started again when it ends by itself."""

    @property
    def is_running(self) -> bool:
        """Whether it has been started and hasn't ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of its newest process."""
        return self._started().pid

    def start(self, *, wait: bool = True) -> None:
        """Start it; with `wait`, return once it says that it is ready.

        Raises ServerFailedError, with the end of its log, when it doesn't get ready.
        """
        with self._lock:
            assert not self.is_running, "it runs already"
            process = self._launch()
        if wait:
            self.wait_until_ready()
        if self._kept:
            self._wanted.set()
            threading.Thread(target=self._keep, args=(process,), daemon=True).start()

    def _launch(self) -> subprocess.Popen[bytes]:
        self._port = free_port()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "finetune_operator", "run"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env=self._environment | {"FINETUNE_LISTEN": f"{_HOST}:{self._port}"},
                start_new_session=True,
                # Nothing between fork and exec but one system call. It ends with the thread that
                # makes it: the main one, or the one that waits for its end.
                preexec_fn=end_with_parent,  # noqa: PLW1509
            )
        return self._process

    def _keep(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            process.wait()
            time.sleep(_AGAIN_SECONDS)
            with self._lock:
                if self._process is not process or not self._wanted.is_set():
                    return
                with self.log.open("a") as log:
                    log.write(f"-- it ended ({process.returncode}) and is started again\n")
                process = self._launch()

    def wait_until_ready(self) -> None:
        """Return once it says that it is ready."""
        wait_until_ready(self._started(), log=self.log, ready=lambda: self.get("/readyz")[0] == 200)

    def get(self, path: str) -> tuple[int, str]:
        """Ask its own server, for example for `/metrics`; status 0 is no answer."""
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=5)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def kill(self) -> None:
        """End it with SIGKILL, and return once it is gone; any thread may ask."""
        process = self._given_up()
        process.kill()
        process.wait()

    def pause(self) -> None:
        """Let it do nothing until `resume`, without its knowledge (SIGSTOP)."""
        self._started().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._started().send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """Ask it to end with SIGTERM, and return its exit code (-9 if it had to be killed)."""
        process = self._given_up()
        stop(process)
        return process.returncode

    def wait(self) -> int:
        """Return its exit code once it has ended, whoever ended it."""
        return self._started().wait()

    def restart(self, *, wait: bool = True) -> None:
        """Kill it if it still runs, and start it again."""
        if self._process is not None:
            self.kill()
        self.start(wait=wait)

    def close(self) -> None:
        """Let nothing of it be left."""
        if self._process is not None:
            stop(self._given_up())

    def _given_up(self) -> subprocess.Popen[bytes]:
        """The process, which is not started again from now on."""
        with self._lock:
            self._wanted.clear()
            return self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was never started"
        return self._process


@contextmanager
def operator_process(
    *,
    kubeconfig: Path,
    folder: Path,
    environment: Mapping[str, str],
    name: str = "operator",
    started: bool = True,
    kept: bool = True,
) -> Iterator[OperatorProcess]:
    """Run an operator until the block ends.

    Parameters
    ----------
    kubeconfig
        The way to the API server; a fault proxy's, where writes are to fail.
    folder
        Where its log lies.
    environment
        Its settings, `FINETUNE_…`; where it listens is decided here.
    name
        Of its log, where a test runs several.
    started
        Whether to start it, and wait until it is ready.
    kept
        Whether it is started again when it ends by itself.
    """
    process = OperatorProcess(
        kubeconfig=kubeconfig, folder=folder, environment=environment, name=name, kept=kept
    )
    try:
        if started:
            process.start()
        yield process
    finally:
        process.close()
