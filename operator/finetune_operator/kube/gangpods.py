"""Which pods are of a gang: those that carry all that a gang's template and release give them.

Asked wherever pods come from a cache or a listing. Labels are anybody's to use: a copy of a trainer
pod that somebody debugs has some of ours, and must neither count as one nor make a look fail.
"""

from collections.abc import Iterable

from finetune_api.report import Step
from finetune_api.times import parse_time
from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.names import (
    ATTEMPT_ANNOTATION,
    ATTEMPT_LABEL,
    INDEX_ANNOTATION,
    JOB_NAME_LABEL,
    RELEASED_AT_ANNOTATION,
    STEP_LABEL,
    TRAINER_CONTAINER,
)
from finetune_operator.kube.resources import Json


def gang_pods(pods: Iterable[Json], namespace: str | None = None) -> tuple[Json, ...]:
    """Those of the pods that are of a gang, and in a namespace if one is given."""
    return tuple(
        pod
        for pod in pods
        if namespace in (None, pod["metadata"]["namespace"]) and _is_of_a_gang(pod)
    )


def _is_of_a_gang(pod: Json) -> bool:
    metadata = pod["metadata"]
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    attempt = labels.get(ATTEMPT_LABEL, "")
    return (
        {JOB_UID_LABEL, JOB_NAME_LABEL} <= labels.keys()
        and labels.get(STEP_LABEL) in set(Step)
        and attempt.isdecimal()
        and annotations.get(ATTEMPT_ANNOTATION, attempt).isdecimal()
        and annotations.get(INDEX_ANNOTATION, "").isdecimal()
        and _is_moment(annotations.get(RELEASED_AT_ANNOTATION))
        and any(one["name"] == TRAINER_CONTAINER for one in pod["spec"]["containers"])
    )


def _is_moment(text: str | None) -> bool:
    try:
        return text is None or bool(parse_time(text))
    except ValueError:
        return False
