"""What an installation decides for every trainer pod; read from the environment by ``runtime``."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Of the pods of all jobs."""

    image: str
    """For jobs that have not frozen one of their own yet."""
    image_pull_policy: str = "IfNotPresent"
    report_seconds: int = 60
    """How long a pod that is done offers its report; 0: not at all."""
    operator_namespace: str
    """Whose pods may ask trainer pods for progress and reports."""
    fake_gpus: bool = False
    """Of a test cluster: nodes only claim to have accelerators, and ranks compute on the CPU."""
    service_account: str | None = None
    """By default the namespace's own; no pod gets a token of it."""
    listen_host: str = "0.0.0.0"  # noqa: S104 - in a pod; who may reach it, network.py says
    """The address that a pod serves on."""
