"""containerd: its configuration, and the store of images that every node starts from."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.cluster.commands import run, run_logged, say, succeeds, wait_for
from tools.cluster.place import IMAGE_STORE, IMAGES

_STOP_SECONDS = 60
_SWEEP = "sweep"
KUBERNETES = "k8s.io"
"""containerd's own namespace in which the kubelet looks for images."""


def configuration(root: Path, state: Path, socket: Path, *, pause: str, networks: Path) -> str:
    """Return the configuration of a containerd for the kubelet (TOML, version 2)."""
    return f"""\
version = 2
root = "{root}"
state = "{state}"

[grpc]
  address = "{socket}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # A machine that is itself a guest may not lower the score of its processes.
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
"""


def ctr(socket: Path, *arguments: str | Path) -> str:
    """Run containerd's own client, where the kubelet's images and containers are."""
    return run("ctr", "--address", socket, "--namespace", KUBERNETES, *arguments)


def answers(socket: Path) -> bool:
    """Return whether a containerd serves there."""
    return socket.exists() and succeeds("ctr", "--address", str(socket), "version")


def imported(archive: Path, log: Path) -> None:
    """Bring an archive's images into the store, and remove what no image stands on any more."""
    with _serving_store(log) as socket:
        client: list[str | Path] = ["ctr", "--address", socket, "--namespace", KUBERNETES]
        run_logged("image import", log, [*client, "images", "import", archive])
        # The client has no word for it: what is unused goes before this removal returns.
        ctr(socket, "leases", "create", "--id", _SWEEP)
        ctr(socket, "leases", "delete", "--sync", _SWEEP)


def copied_store(root: Path) -> None:
    """Give a node all images at no cost: files are shared with the store, its index is copied.

    Layers are never written to once they are unpacked; a container writes beside them.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    if not IMAGE_STORE.is_dir():
        root.mkdir()
        return
    run("cp", "--archive", "--link", IMAGE_STORE, root)
    for index in root.rglob("*.db"):
        original = IMAGE_STORE / index.relative_to(root)
        index.unlink()
        run("cp", "--archive", original, index)


@contextmanager
def _serving_store(log: Path) -> Iterator[Path]:
    """Run a containerd on the store until the block ends."""
    state = IMAGES / "state"
    socket = state / "containerd.sock"
    config = IMAGES / "containerd.toml"
    config.write_text(
        configuration(IMAGE_STORE, state, socket, pause="unused", networks=IMAGES / "networks")
    )
    with log.open("ab") as output:
        server = subprocess.Popen(
            ["containerd", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for("the image store's containerd", lambda: answers(socket))
        yield socket
    finally:
        server.terminate()
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            say("images: the store's containerd did not end; it is killed")
            server.kill()
            server.wait()
