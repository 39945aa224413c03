"""The operator's client against a real API server: what it sends, and what each refusal becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from finetune_operator.engine import EngineError
from finetune_operator.kube.cache import Cache, relist
from finetune_operator.kube.client import KubeClient
from finetune_operator.kube.config import kubeconfig_connection
from finetune_operator.kube.errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    TooManyRequestsError,
    UnreachableError,
)
from finetune_operator.kube.names import MANAGER
from finetune_operator.kube.resources import (
    CONFIG_MAPS,
    FINETUNE_JOBS,
    LEASES,
    NODES,
    PODS,
    Json,
    Resource,
)
from harness.cluster import Cluster
from harness.objects import JOB, changed

FLOW = "flowcontrol.apiserver.k8s.io"
FLOW_SCHEMAS = Resource(
    group=FLOW, version="v1", plural="flowschemas", kind="FlowSchema", namespaced=False
)
PRIORITY_LEVELS = Resource(
    group=FLOW,
    version="v1",
    plural="prioritylevelconfigurations",
    kind="PriorityLevelConfiguration",
    namespaced=False,
)
FINALIZER = "finetune.dev/metered"


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[KubeClient]:
    """A client with the administrator's rights."""
    async with KubeClient(await kubeconfig_connection(str(cluster.kubeconfig))) as opened:
        yield opened


@pytest.fixture
async def stranger(cluster: Cluster, namespace: str) -> AsyncIterator[KubeClient]:
    """A client with the rights of a service account that was given none."""
    kubeconfig = cluster.kubeconfig_of(namespace, "default")
    async with KubeClient(await kubeconfig_connection(str(kubeconfig))) as opened:
        yield opened


def config_map(namespace: str, name: str = "kept", **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def job(namespace: str, **changes: object) -> Json:
    return changed(JOB, {"metadata.namespace": namespace, **changes})


# What is asked


async def test_what_is_created_is_read_back_as_it_was_answered(
    client: KubeClient, namespace: str
) -> None:
    made = await client.create(CONFIG_MAPS, config_map(namespace, color="red"))
    assert made["data"] == {"color": "red"}
    assert await client.get(CONFIG_MAPS, "kept", namespace) == made


async def test_all_that_is_written_is_written_in_the_operators_name(
    client: KubeClient, namespace: str
) -> None:
    made = await client.create(CONFIG_MAPS, config_map(namespace, color="red"))
    await client.replace(CONFIG_MAPS, {**made, "data": {"color": "green"}})
    await client.patch_merge(CONFIG_MAPS, "kept", namespace, {"data": {"size": "1"}})
    await client.patch_json(
        CONFIG_MAPS, "kept", namespace, [{"op": "add", "path": "/data/shape", "value": "round"}]
    )
    done = await client.apply(CONFIG_MAPS, config_map(namespace, taste="sweet"))
    assert done["data"] == {"color": "green", "size": "1", "shape": "round", "taste": "sweet"}
    assert {entry["manager"] for entry in done["metadata"]["managedFields"]} == {MANAGER}


async def test_a_kind_without_namespaces_is_read_without_one(client: KubeClient) -> None:
    with pytest.raises(NotFoundError):
        await client.get(NODES, "none")


async def test_applying_again_without_a_field_takes_it_away(
    client: KubeClient, namespace: str
) -> None:
    await client.apply(CONFIG_MAPS, config_map(namespace, color="red", size="1"))
    applied = await client.apply(CONFIG_MAPS, config_map(namespace, color="red"))
    assert applied["data"] == {"color": "red"}


async def test_applying_takes_a_field_over_only_by_force(
    client: KubeClient, cluster: Cluster, namespace: str
) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps/kept?fieldManager=somebody"
    theirs = config_map(namespace, color="red")
    cluster.request("PATCH", path, theirs, content_type="application/apply-patch+yaml")
    with pytest.raises(ConflictError, match="somebody"):
        await client.apply(CONFIG_MAPS, config_map(namespace, color="green"), force=False)
    applied = await client.apply(CONFIG_MAPS, config_map(namespace, color="green"))
    assert applied["data"] == {"color": "green"}


async def test_a_status_is_replaced_alone(client: KubeClient, namespace: str) -> None:
    made = await client.create(FINETUNE_JOBS, job(namespace))
    body = changed(dict(made), {"status": {"phase": "Pending"}, "spec.suspend": True})
    written = await client.replace(FINETUNE_JOBS, body, subresource="status")
    assert written["status"]["phase"] == "Pending"
    assert written["spec"] == made["spec"]


async def test_a_long_list_comes_whole_and_of_one_moment_page_by_page(
    cluster: Cluster, namespace: str
) -> None:
    asked: list[tuple[str, str, int]] = []
    connection = await kubeconfig_connection(str(cluster.kubeconfig))
    async with KubeClient(connection, on_request=lambda *one: asked.append(one)) as client:
        for number in range(7):
            await client.create(CONFIG_MAPS, config_map(namespace, f"kept-{number}"))
        asked.clear()
        listing = await client.list(CONFIG_MAPS, namespace, page=3)
    assert asked == [("list", "configmaps", 200)] * 3
    assert [one["metadata"]["name"] for one in listing.items] == [f"kept-{n}" for n in range(7)]
    assert {(one["apiVersion"], one["kind"]) for one in listing.items} == {("v1", "ConfigMap")}
    versions = [int(one["metadata"]["resourceVersion"]) for one in listing.items]
    assert int(listing.resource_version) >= max(versions)


async def test_a_list_is_of_what_the_selectors_select(client: KubeClient, namespace: str) -> None:
    for name, color in (("a", "red"), ("b", "red"), ("c", "green")):
        body = changed(config_map(namespace, name), {"metadata.labels": {"color": color}})
        await client.create(CONFIG_MAPS, body)
    red = await client.list(CONFIG_MAPS, namespace, label_selector="color in (red,blue)")
    assert [one["metadata"]["name"] for one in red.items] == ["a", "b"]
    one = await client.list(CONFIG_MAPS, namespace, field_selector="metadata.name=c")
    assert [one["metadata"]["name"] for one in one.items] == ["c"]


async def test_a_deletion_bound_to_a_uid_spares_a_namesake(
    client: KubeClient, namespace: str
) -> None:
    first = await client.create(CONFIG_MAPS, config_map(namespace))
    await client.delete(CONFIG_MAPS, "kept", namespace, uid=first["metadata"]["uid"])
    second = await client.create(CONFIG_MAPS, config_map(namespace))
    with pytest.raises(ConflictError, match="UID in the precondition"):
        await client.delete(CONFIG_MAPS, "kept", namespace, uid=first["metadata"]["uid"])
    assert await client.get(CONFIG_MAPS, "kept", namespace) == second


async def test_a_deletion_bound_to_a_version_spares_what_changed(
    client: KubeClient, namespace: str
) -> None:
    made = await client.create(CONFIG_MAPS, config_map(namespace))
    await client.patch_merge(CONFIG_MAPS, "kept", namespace, {"data": {"size": "1"}})
    with pytest.raises(ConflictError):
        await client.delete(
            CONFIG_MAPS,
            "kept",
            namespace,
            resource_version=made["metadata"]["resourceVersion"],
        )


async def test_a_deletion_is_answered_with_what_a_finalizer_still_keeps(
    client: KubeClient, namespace: str
) -> None:
    body = changed(config_map(namespace), {"metadata.finalizers": [FINALIZER]})
    await client.create(CONFIG_MAPS, body)
    leaving = await client.delete(
        CONFIG_MAPS, "kept", namespace, grace_seconds=0, propagation="Background"
    )
    assert leaving["metadata"]["deletionTimestamp"]
    operations = [{"op": "remove", "path": "/metadata/finalizers"}]
    await client.patch_json(CONFIG_MAPS, "kept", namespace, operations)
    with pytest.raises(NotFoundError):
        await client.get(CONFIG_MAPS, "kept", namespace)


async def test_every_answer_is_counted_under_its_verb_kind_and_code(
    cluster: Cluster, namespace: str
) -> None:
    asked: list[tuple[str, str, int]] = []
    connection = await kubeconfig_connection(str(cluster.kubeconfig))
    async with KubeClient(connection, on_request=lambda *one: asked.append(one)) as client:
        await client.create(CONFIG_MAPS, config_map(namespace))
        with pytest.raises(NotFoundError):
            await client.get(PODS, "none", namespace)
    assert asked == [("create", "configmaps", 201), ("get", "pods", 404)]


# What is refused


async def test_what_is_not_there_is_not_found_and_named(client: KubeClient, namespace: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        await client.get(PODS, "none", namespace)
    assert f"get pods {namespace}/none" in str(caught.value)
    assert caught.value.status == 404
    assert isinstance(caught.value, EngineError)


async def test_a_kind_that_is_not_served_does_not_pass_for_an_object_that_is_gone(
    client: KubeClient, namespace: str
) -> None:
    absent = Resource(group="finetune.dev", version="v1", plural="dreams", kind="Dream")
    with pytest.raises(UnreachableError, match=f"get dreams {namespace}/flying: 404 page"):
        await client.get(absent, "flying", namespace)


async def test_creating_a_second_time_says_that_it_is_there(
    client: KubeClient, namespace: str
) -> None:
    await client.create(CONFIG_MAPS, config_map(namespace))
    with pytest.raises(AlreadyExistsError, match=f"create configmaps {namespace}/kept"):
        await client.create(CONFIG_MAPS, config_map(namespace))


async def test_replacing_what_changed_since_it_was_read_is_a_conflict(
    client: KubeClient, namespace: str
) -> None:
    read = await client.create(CONFIG_MAPS, config_map(namespace, color="red"))
    await client.patch_merge(CONFIG_MAPS, "kept", namespace, {"data": {"color": "green"}})
    with pytest.raises(ConflictError, match=f"update configmaps {namespace}/kept"):
        await client.replace(CONFIG_MAPS, {**read, "data": {"color": "blue"}})


async def test_a_merge_patch_bound_to_a_version_is_a_conflict_when_that_is_gone(
    client: KubeClient, namespace: str
) -> None:
    read = await client.create(CONFIG_MAPS, config_map(namespace, color="red"))
    bound = {"metadata": {"resourceVersion": read["metadata"]["resourceVersion"]}}
    await client.patch_merge(CONFIG_MAPS, "kept", namespace, {**bound, "data": {"a": "1"}})
    with pytest.raises(ConflictError):
        await client.patch_merge(CONFIG_MAPS, "kept", namespace, {**bound, "data": {"a": "2"}})


async def test_nothing_is_replaced_that_was_not_read(client: KubeClient, namespace: str) -> None:
    with pytest.raises(ValueError, match="without resourceVersion"):
        await client.replace(CONFIG_MAPS, config_map(namespace))


async def test_a_json_patch_whose_test_fails_is_invalid_and_changes_nothing(
    client: KubeClient, namespace: str
) -> None:
    made = await client.create(CONFIG_MAPS, config_map(namespace, color="red"))
    operations = [
        {"op": "test", "path": "/metadata/uid", "value": "a-namesake"},
        {"op": "replace", "path": "/data/color", "value": "green"},
    ]
    with pytest.raises(InvalidError, match=f"patch configmaps {namespace}/kept"):
        await client.patch_json(CONFIG_MAPS, "kept", namespace, operations)
    assert await client.get(CONFIG_MAPS, "kept", namespace) == made


async def test_what_breaks_a_rule_of_the_schema_is_invalid_with_the_rules_own_words(
    client: KubeClient, namespace: str
) -> None:
    with pytest.raises(InvalidError, match="pvc://CLAIM/PATH"):
        await client.create(FINETUNE_JOBS, job(namespace, **{"spec.model.uri": "s3://no/model"}))


async def test_without_a_right_to_it_a_request_is_forbidden(
    stranger: KubeClient, namespace: str
) -> None:
    with pytest.raises(ForbiddenError, match=f"list pods {namespace}") as caught:
        await stranger.list(PODS, namespace)
    assert "cannot list resource" in str(caught.value)


async def test_nothing_can_be_made_in_a_namespace_that_ends_and_the_error_says_why(
    client: KubeClient, cluster: Cluster
) -> None:
    ending = cluster.new_namespace()
    body = changed(config_map(ending, "keeper"), {"metadata.finalizers": [FINALIZER]})
    await client.create(CONFIG_MAPS, body)
    cluster.request("DELETE", f"/api/v1/namespaces/{ending}")
    with pytest.raises(ForbiddenError, match="because it is being terminated"):
        await client.create(CONFIG_MAPS, config_map(ending))
    await client.patch_merge(CONFIG_MAPS, "keeper", ending, {"metadata": {"finalizers": None}})


@pytest.mark.parametrize("write", ["create", "apply", "patch", "replace"])
async def test_a_field_that_the_api_server_does_not_know_is_an_error_and_never_dropped(
    client: KubeClient, namespace: str, write: str
) -> None:
    made = await client.create(CONFIG_MAPS, config_map(namespace))
    with pytest.raises(ApiError, match="immutible"):
        await _write(client, write, {**made, "immutible": True})


async def _write(client: KubeClient, write: str, body: Json) -> None:
    name, namespace = body["metadata"]["name"], body["metadata"]["namespace"]
    bare = {**body, "metadata": {"name": name, "namespace": namespace}}
    match write:
        case "create":
            await client.create(CONFIG_MAPS, bare)
        case "apply":
            await client.apply(CONFIG_MAPS, bare)
        case "patch":
            await client.patch_merge(CONFIG_MAPS, name, namespace, bare)
        case _:
            await client.replace(CONFIG_MAPS, body)


async def test_asking_too_often_says_when_to_ask_again(
    client: KubeClient, stranger: KubeClient, namespace: str
) -> None:
    # A level that lets nothing through, and a schema that puts the stranger into it.
    level = {
        "metadata": {"name": namespace},
        "spec": {
            "type": "Limited",
            "limited": {
                "nominalConcurrencyShares": 0,
                "lendablePercent": 0,
                "borrowingLimitPercent": 0,
                "limitResponse": {"type": "Reject"},
            },
        },
    }
    account = {"namespace": namespace, "name": "default"}
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}
    schema = {
        "metadata": {"name": namespace},
        "spec": {
            "matchingPrecedence": 2,
            "priorityLevelConfiguration": {"name": namespace},
            "rules": [
                {
                    "subjects": [{"kind": "ServiceAccount", "serviceAccount": account}],
                    "resourceRules": [everything],
                }
            ],
        },
    }
    await client.apply(PRIORITY_LEVELS, level)
    await client.apply(FLOW_SCHEMAS, schema)
    try:
        async with asyncio.timeout(120):
            refused = None
            while refused is None:
                refused = await _too_many(stranger, namespace)
    finally:
        await client.delete(FLOW_SCHEMAS, namespace)
        await client.delete(PRIORITY_LEVELS, namespace)
    assert refused.retry_after is not None
    assert refused.retry_after > 0


async def _too_many(client: KubeClient, namespace: str) -> TooManyRequestsError | None:
    """Ask many things at once: where nothing may run, still one request at a time does."""
    asking = (client.get(LEASES, f"none-{number}", namespace) for number in range(50))
    answers = await asyncio.gather(*asking, return_exceptions=True)
    return next((one for one in answers if isinstance(one, TooManyRequestsError)), None)


async def test_a_server_in_trouble_counts_as_unreachable(
    client: KubeClient, namespace: str
) -> None:
    # What this API server does with a field that it doesn't know in a server-side apply.
    with pytest.raises(UnreachableError) as caught:
        await client.apply(CONFIG_MAPS, {**config_map(namespace), "immutible": True})
    assert caught.value.status == 500


# What a cache is fed with


async def test_a_cache_that_is_listed_anew_holds_what_the_api_server_has(
    client: KubeClient, namespace: str
) -> None:
    cache = Cache(CONFIG_MAPS)
    stale = await client.create(CONFIG_MAPS, config_map(namespace, "gone"))
    cache.put(stale)
    await client.delete(CONFIG_MAPS, "gone", namespace)
    made = await client.create(CONFIG_MAPS, config_map(namespace, "made"))
    await relist(client, cache, namespaces=(namespace,))
    assert cache.items() == (made,)
    cache.put(stale)
    assert cache.items() == (made,)


async def test_versions_of_one_kind_grow_with_every_change(
    client: KubeClient, namespace: str
) -> None:
    """What the cache rests on."""
    made = await client.create(CONFIG_MAPS, config_map(namespace))
    patched = await client.patch_merge(CONFIG_MAPS, "kept", namespace, {"data": {"a": "1"}})
    await client.delete(CONFIG_MAPS, "kept", namespace)
    again = await client.create(CONFIG_MAPS, config_map(namespace))
    listing = await client.list(CONFIG_MAPS)
    versions = [int(one["metadata"]["resourceVersion"]) for one in (made, patched, again)]
    assert versions == sorted(set(versions))
    assert int(listing.resource_version) >= versions[-1]


async def test_the_answer_to_giving_up_the_last_finalizer_does_not_revive_what_is_gone(
    client: KubeClient, namespace: str
) -> None:
    cache = Cache(CONFIG_MAPS)
    body = changed(config_map(namespace), {"metadata.finalizers": [FINALIZER]})
    cache.put(await client.create(CONFIG_MAPS, body))
    cache.put(await client.delete(CONFIG_MAPS, "kept", namespace))
    leaving = cache.get(namespace, "kept")
    operations = [{"op": "remove", "path": "/metadata/finalizers"}]
    answer = await client.patch_json(CONFIG_MAPS, "kept", namespace, operations)
    await relist(client, cache, namespaces=(namespace,))
    assert leaving is not None
    cache.put(answer)
    assert cache.get(namespace, "kept") is None
