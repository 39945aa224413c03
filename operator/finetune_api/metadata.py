"""The part of Kubernetes' metadata that manifests and the core need."""

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.markers import AnnotationKey, Contract, LabelValue, QualifiedName


class ObjectMeta(Contract):
    """The part of Kubernetes' ObjectMeta that a manifest and the core need."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    namespace: Annotated[
        str, StringConstraints(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    ] = "default"
    uid: Annotated[str, StringConstraints(max_length=63)] = ""
    generation: int = 1
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[QualifiedName, LabelValue] = Field(default_factory=dict)
    annotations: dict[AnnotationKey, str] = Field(default_factory=dict)
