"""How a job's pods find each other, and who else may reach them. One of each per job."""

from finetune_api.job import FineTuneJob
from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.manifests import Manifest
from finetune_operator.kube.manifests.owner import owned_metadata
from finetune_operator.kube.manifests.settings import TrainerSettings
from finetune_operator.kube.names import RENDEZVOUS_PORT, TRAINER_PORT, family_name

_NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""Set by the API server on every namespace: nobody else can claim its name."""


def headless_service(job: FineTuneJob) -> Manifest:
    """The Service that gives each pod a name, from before it is ready: the rendezvous needs it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owned_metadata(job, family_name(job)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": _pods_of(job),
            "ports": [
                {"name": "rendezvous", "protocol": "TCP", "port": RENDEZVOUS_PORT},
                {"name": "progress", "protocol": "TCP", "port": TRAINER_PORT},
            ],
        },
    }


def network_policy(job: FineTuneJob, trainer: TrainerSettings) -> Manifest:
    """Who may open a connection to the job's pods.

    Its own pods on every port, since collectives choose theirs; the operator's namespace where
    progress and reports are served. What pods reach themselves (object stores) is left open.
    """
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned_metadata(job, family_name(job)),
        "spec": {
            "podSelector": {"matchLabels": _pods_of(job)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": _pods_of(job)}}]},
                {
                    "from": [
                        {
                            "namespaceSelector": {
                                "matchLabels": {_NAMESPACE_NAME_LABEL: trainer.operator_namespace}
                            }
                        }
                    ],
                    "ports": [{"protocol": "TCP", "port": TRAINER_PORT}],
                },
            ],
        },
    }


def _pods_of(job: FineTuneJob) -> dict[str, str]:
    return {JOB_UID_LABEL: job.metadata.uid}
