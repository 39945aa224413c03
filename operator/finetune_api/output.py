"""Where a finished model goes, and with whose keys: the part of a job about object stores."""

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.markers import Cel, Contract, rules
from finetune_api.uris import REPOSITORY

CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "GOOGLE_CREDENTIALS",
    "HF_TOKEN",
    "HF_ENDPOINT",
)
"""What a Secret may set in the environment of a pod, and nothing else: by another variable it
could choose what code the pod loads."""


@rules(
    Cel(
        "!has(self.uri) || self.uri.matches("
        r"'^(s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]/[^/].*[^/]"
        f"|hf://{REPOSITORY})$'"
        ")",
        "output.uri must be s3://BUCKET/PREFIX, without a slash at its end, or hf://OWNER/NAME",
    ),
)
class Output(Contract):
    """Where the exported model is copied once the gate has passed."""

    uri: Annotated[
        str | None,
        StringConstraints(min_length=1, max_length=1024),
        Field(
            description="s3://BUCKET/PREFIX of the model's folder, or hf://OWNER/NAME, a "
            "repository of the Hugging Face Hub. It must be empty, or hold an earlier export, "
            "which is replaced. Asked before a GPU is held. Unset: it stays in the workspace."
        ),
    ] = None


class Credentials(Contract):
    """Whose keys open object stores and the Hugging Face Hub."""

    secret_name: Annotated[
        str | None,
        StringConstraints(
            pattern=r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$", min_length=1, max_length=253
        ),
        Field(
            description="A Secret of the job's namespace. Its keys "
            + ", ".join(CREDENTIAL_VARIABLES)
            + ", as far as they are there, become variables of the pods that prepare and evaluate; "
            "those that train get none. A local run has the shell's. Unset: the pod's own identity."
        ),
    ] = None
