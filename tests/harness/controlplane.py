"""A real etcd and kube-apiserver for the tests, and two ways to talk to them.

`cluster.py` starts it once per run, with controllers beside it. Everything listens on loopback and
lies in one folder, logs included: the API server's audit log too, in which `audit.py` counts.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.audit import write_audit_policy
from harness.processes import free_port, program, running
from tools.cluster.certificates import ClusterCertificates, make_certificates

HOST = "127.0.0.1"
SERVICE_RANGE = "10.96.0.0/16"
FIRST_SERVICE_ADDRESS = "10.96.0.1"
MASTERS = "system:masters"
AUDIT_LOG = "audit.log"
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True)
class Reply:
    """What the API server answered: the HTTP status and the JSON body."""

    status: int
    # An API object or a Status: whatever the server sent, as a test wants to look at it.
    body: Any

    @property
    def message(self) -> str:
        """Return the text of a refusal; empty for an object."""
        return str(self.body.get("message", "")) if isinstance(self.body, dict) else ""


@dataclass(frozen=True)
class User:
    """Somebody whom the API server knows by a token of its own: one for each kind of client."""

    name: str
    groups: tuple[str, ...] = ()


ADMIN = User("admin", (MASTERS,))


@dataclass(frozen=True)
class ControlPlane:
    """A running API server, and the administrator's way in."""

    port: int
    folder: Path
    certificates: ClusterCertificates
    tokens: Mapping[str, str]
    """By the user's name."""

    @property
    def url(self) -> str:
        """Where the API server answers."""
        return f"https://{HOST}:{self.port}"

    @property
    def audit_log(self) -> Path:
        """The file in which the API server writes who asked for what."""
        return self.folder / AUDIT_LOG

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.kubeconfig_for(ADMIN.name)

    def kubeconfig_for(self, user: str) -> Path:
        """Return the kubeconfig of a user that the control plane was started with."""
        return write_kubeconfig(
            self.folder / f"{user.replace(':', '-')}.kubeconfig",
            server=self.url,
            authority=self.certificates.authority,
            user=user,
            token=self.tokens[user],
        )

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator; with `check`, a refusal is an AssertionError."""
        done = subprocess.run(
            [str(program("kubectl")), "--kubeconfig", str(self.kubeconfig), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 or not check, (
            f"kubectl {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}"
        )
        return done

    def request(
        self,
        method: Method,
        path: str,
        body: Mapping[str, Any] | list[Any] | None = None,
        *,
        content_type: str = "application/json",
    ) -> Reply:
        """Send one request as the administrator; a refusal is a reply, not an error.

        A PATCH names its kind by `content_type`, for example `application/merge-patch+json`.
        """
        trust = ssl.create_default_context(cafile=self.certificates.authority)
        connection = http.client.HTTPSConnection(HOST, self.port, context=trust)
        token = self.tokens[ADMIN.name]
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, body=payload, headers=headers)
            response = connection.getresponse()
            text = response.read().decode()
            is_json = response.headers.get_content_type() == "application/json"
            return Reply(status=response.status, body=json.loads(text) if is_json else text)
        finally:
            connection.close()

    def ready(self) -> bool:
        """Return whether the API server says that it is ready."""
        try:
            return self.request("GET", "/readyz").status == http.client.OK
        except OSError:
            return False


@contextmanager
def running_control_plane(folder: Path, *, users: tuple[User, ...] = ()) -> Iterator[ControlPlane]:
    """Run etcd and an API server until the block ends; the API server stops first.

    It knows the administrator, and `users`.
    """
    known = (ADMIN, *users)
    plane = ControlPlane(
        port=free_port(),
        folder=folder,
        certificates=make_certificates(folder, addresses=(HOST, FIRST_SERVICE_ADDRESS)),
        tokens={user.name: secrets.token_urlsafe() for user in known},
    )
    with ExitStack() as servers:
        etcd_url = servers.enter_context(running_etcd(folder))
        servers.enter_context(
            running(
                api_server_command(plane, etcd_url, known),
                log=folder / "kube-apiserver.log",
                ready=plane.ready,
            )
        )
        yield plane


@contextmanager
def running_etcd(folder: Path) -> Iterator[str]:
    """Run etcd until the block ends, and give its client address."""
    client = f"http://{HOST}:{free_port()}"
    peer = f"http://{HOST}:{free_port()}"
    command: list[str | Path] = [
        program("etcd"),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # nothing here must outlive a power cut
    ]
    with running(command, log=folder / "etcd.log", ready=lambda: etcd_healthy(client)):
        yield client


def etcd_healthy(url: str) -> bool:
    """Return whether etcd has elected itself and takes writes."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def api_server_command(
    plane: ControlPlane, etcd_url: str, users: Iterable[User]
) -> list[str | Path]:
    """Return the command of an API server with RBAC on, as on a real cluster."""
    passes = plane.folder / "tokens.csv"
    passes.touch(mode=0o600)
    with passes.open("w") as rows:
        for user in users:
            groups = ",".join(user.groups)
            rows.write(f'{plane.tokens[user.name]},{user.name},{user.name},"{groups}"\n')
    certificates = plane.certificates
    return [
        program("kube-apiserver"),
        f"--etcd-servers={etcd_url}",
        f"--bind-address={HOST}",
        f"--advertise-address={HOST}",
        f"--secure-port={plane.port}",
        f"--cert-dir={plane.folder / 'generated-certificates'}",
        f"--tls-cert-file={certificates.server_certificate}",
        f"--tls-private-key-file={certificates.server_key}",
        f"--client-ca-file={certificates.authority}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={certificates.token_public_key}",
        f"--service-account-signing-key-file={certificates.token_private_key}",
        "--authorization-mode=RBAC",
        f"--token-auth-file={passes}",
        "--allow-privileged=true",
        # The kubelet's addresses on a test node are its only ones.
        "--kubelet-preferred-address-types=InternalIP",
        # The address advertised is loopback, which an endpoint may not hold.
        "--endpoint-reconciler-type=none",
        f"--audit-policy-file={write_audit_policy(plane.folder)}",
        f"--audit-log-path={plane.audit_log}",
        "--audit-log-maxsize=10000",  # MiB: one file, never turned over under its reader
    ]


def write_kubeconfig(path: Path, *, server: str, authority: Path, user: str, token: str) -> Path:
    """Write a kubeconfig (JSON, which every reader of YAML takes), and return where it lies."""
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {
                "name": "test",
                "cluster": {"server": server, "certificate-authority": str(authority)},
            }
        ],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content))
    return path
