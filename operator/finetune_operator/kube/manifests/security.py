"""What a trainer pod may do: the least of Pod Security "restricted", and a file system of its own.

Constant: nothing that a job says changes it.
"""

from finetune_operator.kube.manifests import Manifest

USER_ID = 10001
"""The images' own user; group of what lies on the workspace's volume."""


def pod_security_context() -> Manifest:
    """Of the whole pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        # A workspace of many checkpoints would be walked through before every start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security_context() -> Manifest:
    """Of its one container."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
