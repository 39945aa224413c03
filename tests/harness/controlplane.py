"""A real etcd and kube-apiserver for the tests, and two ways to talk to them.

The integration tier's fixtures start it once per run. No controller runs beside
it: what a test creates stays as it was created. Everything listens on loopback
and lies in one folder, logs included.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.certificates import ClusterCertificates, make_certificates
from harness.processes import free_port, program, running

HOST = "127.0.0.1"
SERVICE_RANGE = "10.96.0.0/16"
FIRST_SERVICE_ADDRESS = "10.96.0.1"
ADMIN = "admin"
ADMIN_GROUP = "system:masters"
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
class ControlPlane:
    """A running API server, and the administrator's way in."""

    port: int
    folder: Path
    certificates: ClusterCertificates
    token: str
    kubeconfig: Path

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
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json"}
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
def running_control_plane(folder: Path) -> Iterator[ControlPlane]:
    """Run etcd and an API server until the block ends; the API server stops first."""
    port = free_port()
    token = secrets.token_urlsafe()
    certificates = make_certificates(folder, addresses=(HOST, FIRST_SERVICE_ADDRESS))
    plane = ControlPlane(
        port=port,
        folder=folder,
        certificates=certificates,
        token=token,
        kubeconfig=write_kubeconfig(folder, port, certificates, token),
    )
    with ExitStack() as servers:
        etcd_url = servers.enter_context(running_etcd(folder))
        servers.enter_context(
            running(
                api_server_command(plane, etcd_url),
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


def api_server_command(plane: ControlPlane, etcd_url: str) -> list[str | Path]:
    """Return the command of an API server with RBAC on, as on a real cluster."""
    users = plane.folder / "tokens.csv"
    users.touch(mode=0o600)
    users.write_text(f"{plane.token},{ADMIN},{ADMIN},{ADMIN_GROUP}\n")
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
        f"--token-auth-file={users}",
        "--allow-privileged=true",
        # The kubelet's addresses on a test node are its only ones.
        "--kubelet-preferred-address-types=InternalIP",
        # The address advertised is loopback, which an endpoint may not hold.
        "--endpoint-reconciler-type=none",
    ]


def write_kubeconfig(
    folder: Path, port: int, certificates: ClusterCertificates, token: str
) -> Path:
    """Write a kubeconfig for the administrator (JSON, which every reader of YAML takes)."""
    kubeconfig = folder / "kubeconfig"
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {
                "name": "test",
                "cluster": {
                    "server": f"https://{HOST}:{port}",
                    "certificate-authority": str(certificates.authority),
                },
            }
        ],
        "users": [{"name": ADMIN, "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": ADMIN}}],
    }
    kubeconfig.touch(mode=0o600)
    kubeconfig.write_text(json.dumps(content))
    return kubeconfig
