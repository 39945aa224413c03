"""Builds the programs that the tests run against: a Kubernetes, Helm, an object store, Prometheus.

Called by the Makefile (`make tools`, `make test`) with the names of the
programs wanted; needs nothing beyond the standard library and Go. Every family
of programs is a small Go module beside this file, so versions and digests
stand in its `go.mod` and `go.sum`, and a program is built again only when they
change. What is found in the folder that `KUBEBUILDER_ASSETS` names (the envtest
convention) is taken from there.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
DEFAULT_CACHE = TOOLS.parent / ".cache" / "tools"

# Without these, clients see a server of version v0.0.0 and refuse newer fields.
KUBERNETES_VERSION_FLAGS = (
    "-X k8s.io/component-base/version.gitVersion={version}",
    "-X k8s.io/component-base/version.gitMajor={major}",
    "-X k8s.io/component-base/version.gitMinor={minor}",
)


@dataclass(frozen=True)
class Program:
    """One executable: the Go package it comes from and the module that pins it."""

    name: str
    family: str
    package: str
    module: str
    version_flags: tuple[str, ...] = ()


def kubernetes(name: str) -> Program:
    """Return the program of that name in the Kubernetes repository."""
    return Program(
        name=name,
        family="kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        module="k8s.io/kubernetes",
        version_flags=KUBERNETES_VERSION_FLAGS,
    )


# In the order in which they are built: what most tests wait for comes first.
PROGRAMS = {
    program.name: program
    for program in (
        Program("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
        kubernetes("kube-apiserver"),
        kubernetes("kubectl"),
        Program("helm", "helm", "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3"),
        Program(
            "versitygw",
            "versitygw",
            "github.com/versity/versitygw/cmd/versitygw",
            "github.com/versity/versitygw",
        ),
        Program(
            "fake-gcs-server",
            "fakegcs",
            "github.com/fsouza/fake-gcs-server",
            "github.com/fsouza/fake-gcs-server",
        ),
        kubernetes("kube-controller-manager"),
        kubernetes("kube-scheduler"),
        kubernetes("kubelet"),
        kubernetes("kube-proxy"),
        Program("coredns", "coredns", "github.com/coredns/coredns", "github.com/coredns/coredns"),
        Program(
            "prometheus",
            "prometheus",
            "github.com/prometheus/prometheus/cmd/prometheus",
            "github.com/prometheus/prometheus",
        ),
    )
}


class BuildError(Exception):
    """A program can't be had; the message says which, why, and what to do."""


def pinned_version(program: Program) -> str:
    """Read the program's version from the `go.mod` of its family."""
    go_mod = TOOLS / program.family / "go.mod"
    pin = re.compile(rf"^\s*(?:require\s+)?{re.escape(program.module)}\s+(v\S+)", re.MULTILINE)
    found = pin.search(go_mod.read_text())
    if found is None:
        raise BuildError(f"{go_mod} requires no version of {program.module}: add a require line")
    return found[1]


def linker_flags(program: Program, version: str) -> str:
    """Return the `-ldflags` of the build: no debug tables, and the version where it is read."""
    major, minor = version.removeprefix("v").split(".")[:2]
    stamps = [
        flag.format(version=version, major=major, minor=minor) for flag in program.version_flags
    ]
    return " ".join(["-s", "-w", *stamps])


def recipe(program: Program, version: str) -> str:
    """Return a text that changes whenever the program would be built differently."""
    digest = hashlib.sha256(linker_flags(program, version).encode())
    for name in ("go.mod", "go.sum"):
        digest.update((TOOLS / program.family / name).read_bytes())
    return f"{version} {digest.hexdigest()[:16]}"


def given_program(program: Program) -> Path | None:
    """Return the program in the folder that `KUBEBUILDER_ASSETS` names, if it has one."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return None
    candidate = Path(assets).resolve() / program.name
    return candidate if os.access(candidate, os.X_OK) else None


def ensure(program: Program, cache: Path) -> None:
    """Put the program into `cache/bin`, unless what is there is already the one wanted."""
    target = cache / "bin" / program.name
    stamp = cache / "stamps" / program.name
    had = stamp.read_text() if stamp.exists() and target.exists() else ""
    given = given_program(program)
    version = pinned_version(program)
    wanted = f"given {given}" if given else recipe(program, version)
    if had == wanted:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    target.unlink(missing_ok=True)
    if given:
        target.symlink_to(given)
        say(f"{program.name}: taken from KUBEBUILDER_ASSETS ({given})")
    else:
        build(program, version, target, reason=why_build(had, version))
    stamp.write_text(wanted)


def why_build(had: str, version: str) -> str:
    """Say in a few words why what is in the cache, by its stamp, will not do."""
    if not had:
        return "not there yet"
    had_version = had.split(maxsplit=1)[0]
    return f"was {had_version}" if had_version != version else "its modules or flags changed"


def build(program: Program, version: str, target: Path, *, reason: str) -> None:
    """Build the program with Go and move it to `target` once it is whole."""
    go = shutil.which("go")
    if go is None:
        raise BuildError(
            f"{program.name} must be built and there is no `go` on the PATH: "
            "install Go, or set KUBEBUILDER_ASSETS to a folder that has it"
        )
    say(f"{program.name}: building {version} ({reason})")
    half_built = target.with_name(f".{program.name}.partial")
    command = [go, "build", "-trimpath", "-ldflags", linker_flags(program, version)]
    started = time.monotonic()
    done = subprocess.run(
        [*command, "-o", str(half_built), program.package],
        cwd=TOOLS / program.family,
        env=os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"},
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(
            f"{program.name}: `go build {program.package}` in tools/{program.family} "
            f"ended with {done.returncode}; its message is above"
        )
    half_built.replace(target)
    say(f"{program.name}: built in {time.monotonic() - started:.0f} s")


def say(line: str) -> None:
    """Print a line at once, so that a long build is seen to be one."""
    print(f"tools: {line}", flush=True)


def main() -> int:
    """Build the programs named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Build the programs that the tests run against.")
    parser.add_argument("program", nargs="*", help=f"some of: {' '.join(PROGRAMS)}; all if none")
    wanted = parser.parse_args().program or list(PROGRAMS)
    unknown = sorted(set(wanted) - set(PROGRAMS))
    if unknown:
        parser.error(f"no such program: {' '.join(unknown)}; there are: {' '.join(PROGRAMS)}")
    cache = Path(os.environ.get("FINETUNE_TOOLS") or DEFAULT_CACHE).resolve()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at once build each program once
        try:
            for program in PROGRAMS.values():
                if program.name in wanted:
                    ensure(program, cache)
        except BuildError as error:
            say(str(error))
            return 1
    say(f"{len(set(wanted))} programs ready in {cache / 'bin'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
