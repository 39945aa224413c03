"""Where the API server keeps what the operator reads and writes."""

from __future__ import annotations

import pytest

from finetune_operator.kube.resources import FINETUNE_JOBS, NODES, PODS, RATE_CARDS, Resource, path


@pytest.mark.parametrize(
    ("expected", "resource", "where"),
    [
        ("/api/v1/pods", PODS, ()),
        ("/api/v1/namespaces/team/pods", PODS, ("team",)),
        ("/api/v1/namespaces/team/pods/one", PODS, ("team", "one")),
        ("/api/v1/nodes/node-a", NODES, (None, "node-a")),
        ("/apis/finetune.dev/v1alpha1/ratecards", RATE_CARDS, ()),
        (
            "/apis/finetune.dev/v1alpha1/namespaces/team/finetunejobs/one/status",
            FINETUNE_JOBS,
            ("team", "one", "status"),
        ),
        # A name is one step of a path, whatever stands in it.
        ("/api/v1/namespaces/team/pods/..%2Fsecrets", PODS, ("team", "../secrets")),
    ],
)
def test_every_object_has_its_path(
    expected: str, resource: Resource, where: tuple[str | None, ...]
) -> None:
    assert path(resource, *where) == expected


def test_an_object_of_a_namespace_is_not_looked_for_without_one() -> None:
    with pytest.raises(ValueError, match="Pod 'one'"):
        path(PODS, None, "one")


def test_what_is_in_no_namespace_is_not_looked_for_in_one() -> None:
    with pytest.raises(ValueError, match="Node"):
        path(NODES, "team")


def test_the_api_version_of_the_core_group_names_no_group() -> None:
    assert PODS.api_version == "v1"
    assert FINETUNE_JOBS.api_version == "finetune.dev/v1alpha1"
