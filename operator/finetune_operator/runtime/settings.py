"""Settings of the operator's process, by environment. One place for their names and meanings."""

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path

from finetune_operator.kube.cluster import Settings
from finetune_operator.kube.manifests.settings import TrainerSettings

_OWN_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Env(StrEnum):
    """Environment variables of the operator."""

    NAMESPACE = "FINETUNE_NAMESPACE"
    WATCH_NAMESPACES = "FINETUNE_WATCH_NAMESPACES"
    TRAINER_IMAGE = "FINETUNE_TRAINER_IMAGE"
    TRAINER_PULL_POLICY = "FINETUNE_TRAINER_PULL_POLICY"
    WORKERS = "FINETUNE_WORKERS"
    CONTROL_INTERVAL_SECONDS = "FINETUNE_CONTROL_INTERVAL_SECONDS"
    REPORT_SECONDS = "FINETUNE_REPORT_SECONDS"
    FAKE_GPUS = "FINETUNE_FAKE_GPUS"
    LISTEN = "FINETUNE_LISTEN"
    LOG_LEVEL = "FINETUNE_LOG_LEVEL"
    IDENTITY = "FINETUNE_IDENTITY"
    LEASE_SECONDS = "FINETUNE_LEASE_SECONDS"
    RESYNC_SECONDS = "FINETUNE_RESYNC_SECONDS"


ENV_MEANING: dict[Env, str] = {
    Env.NAMESPACE: "The operator's own namespace, where its Lease and the usage records are; by "
    "default that of its pod.",
    Env.WATCH_NAMESPACES: "Namespaces whose jobs it runs, with commas between; empty: all.",
    Env.TRAINER_IMAGE: "Image of the trainer's pods. A job keeps the one it was admitted with.",
    Env.TRAINER_PULL_POLICY: "Always, IfNotPresent (default) or Never.",
    Env.WORKERS: "Jobs that are looked at at the same time (default 8).",
    Env.CONTROL_INTERVAL_SECONDS: "The longest time between two looks at a running job (15).",
    Env.REPORT_SECONDS: "How long a finished pod offers its report before it ends (60).",
    Env.FAKE_GPUS: "true on a test cluster whose nodes only claim to have accelerators: training "
    "runs on the CPU, and every price is marked as one of a fake GPU (false).",
    Env.LISTEN: "HOST:PORT of /healthz, /readyz and /metrics (0.0.0.0:8080).",
    Env.LOG_LEVEL: "DEBUG, INFO (default), WARNING or ERROR.",
    Env.IDENTITY: "Name of this process in the Lease; by default host name and a random part.",
    Env.LEASE_SECONDS: "How long the Lease holds without being renewed (15).",
    Env.RESYNC_SECONDS: "So often every job that isn't over is looked at, whatever was announced: "
    "a claim that was missing, for example, tells nobody that it came (60).",
}


class SettingsError(ValueError):
    """A setting is missing or has a value that can't be used."""


@dataclass(frozen=True, kw_only=True)
class OperatorSettings:
    """All settings of one process."""

    cluster: Settings
    workers: int
    host: str
    port: int
    log_level: str
    identity: str
    lease: timedelta
    resync: timedelta

    @classmethod
    def from_env(cls, environment: Mapping[str, str] = os.environ) -> "OperatorSettings":
        """Read them; raises SettingsError with the variable, what is wrong, and the fix."""
        host, port = _address(environment.get(Env.LISTEN) or "0.0.0.0:8080")
        own_namespace = _own_namespace(environment)
        trainer = TrainerSettings(
            image=_required(environment, Env.TRAINER_IMAGE),
            image_pull_policy=environment.get(Env.TRAINER_PULL_POLICY) or "IfNotPresent",
            report_seconds=int(_number(environment, Env.REPORT_SECONDS, 60, 0, 3600)),
            operator_namespace=own_namespace,
            fake_gpus=_flag(environment, Env.FAKE_GPUS),
        )
        interval = _number(environment, Env.CONTROL_INTERVAL_SECONDS, 15, 1, 300)
        watched = (part.strip() for part in environment.get(Env.WATCH_NAMESPACES, "").split(","))
        level = (environment.get(Env.LOG_LEVEL) or "INFO").upper()
        if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise SettingsError(f"{Env.LOG_LEVEL} is {level}: use DEBUG, INFO, WARNING or ERROR")
        return cls(
            cluster=Settings(
                namespace=own_namespace,
                trainer=trainer,
                watch_namespaces=tuple(part for part in watched if part),
                control_interval=timedelta(seconds=interval),
            ),
            workers=int(_number(environment, Env.WORKERS, 8, 1, 256)),
            host=host,
            port=port,
            log_level=level,
            identity=environment.get(Env.IDENTITY)
            or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}",
            lease=timedelta(seconds=_number(environment, Env.LEASE_SECONDS, 15, 2, 300)),
            resync=timedelta(seconds=_number(environment, Env.RESYNC_SECONDS, 60, 1, 3600)),
        )


def _required(environment: Mapping[str, str], name: Env) -> str:
    value = environment.get(name)
    if not value:
        raise SettingsError(f"{name} is not set: {ENV_MEANING[name]}")
    return value


def _own_namespace(environment: Mapping[str, str]) -> str:
    if given := environment.get(Env.NAMESPACE):
        return given
    try:
        return _OWN_NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{Env.NAMESPACE} is not set: {ENV_MEANING[Env.NAMESPACE]}") from error


def _number(
    environment: Mapping[str, str], name: Env, default: float, least: float, most: float
) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise SettingsError(f"{name} is {text!r}: use a number from {least:g} to {most:g}")
    return value


def _flag(environment: Mapping[str, str], name: Env) -> bool:
    text = environment.get(name) or "false"
    if text not in ("true", "false"):
        raise SettingsError(f"{name} is {text!r}: use true or false")
    return text == "true"


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise SettingsError(f"{Env.LISTEN} is {text!r}: use HOST:PORT, for example 0.0.0.0:8080")
    return host.strip("[]"), int(port)
