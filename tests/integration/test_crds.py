"""The generated CRDs on a real API server: what it takes, fills in, refuses and shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api import API_VERSION
from finetune_api.job import FineTuneJob, FineTuneJobSpec
from finetune_api.schema import RESOURCES, Resource, custom_resource_definition, resource_schema
from harness.controlplane import ControlPlane, Reply
from harness.objects import (
    ABSENT,
    JOB,
    LATER,
    RATE_CARD,
    RULE_EXAMPLES,
    USAGE_ENTRY,
    USAGE_RECORD,
    Object,
    RuleExample,
    admitted,
    changed,
    resource_of,
    rules_in,
)

STRICT = "fieldValidation=Strict"


def collection(obj: Object, namespace: str) -> str:
    """Return the path of the object's kind."""
    kind = resource_of(obj).kind
    inside = f"/namespaces/{namespace}" if kind.scope == "Namespaced" else ""
    return f"/apis/{API_VERSION}{inside}/{kind.plural}"


def create(cluster: ControlPlane, namespace: str, obj: Object, *, dry_run: bool = False) -> Reply:
    """POST an object in strict mode."""
    query = STRICT + ("&dryRun=All" if dry_run else "")
    return cluster.request("POST", f"{collection(obj, namespace)}?{query}", obj)


def replace(
    cluster: ControlPlane, namespace: str, stored: Object, obj: Object, subresource: str = ""
) -> Reply:
    """PUT an object over a stored one, at the stored one's version."""
    obj = changed(obj, {"metadata.resourceVersion": stored["metadata"]["resourceVersion"]})
    path = "/".join(
        filter(None, (collection(obj, namespace), obj["metadata"]["name"], subresource))
    )
    return cluster.request("PUT", f"{path}?{STRICT}", obj)


def stored(cluster: ControlPlane, namespace: str, obj: Object) -> Object:
    """Bring an object into the API server, its status too, and return it as it is there."""
    reply = create(cluster, namespace, obj)
    assert reply.status == 201, reply.message
    if "status" in obj:
        reply = replace(cluster, namespace, reply.body, obj, "status")
        assert reply.status == 200, reply.message
    return dict(reply.body)


@pytest.fixture
def clean_rate_cards(cluster: ControlPlane) -> Iterator[None]:
    """Leave no rate card behind: they belong to no namespace."""
    yield
    cluster.request("DELETE", f"/apis/{API_VERSION}/ratecards")


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.kind.kind)
def test_the_api_server_keeps_the_schema_as_it_was_made(
    cluster: ControlPlane, resource: Resource
) -> None:
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{resource.name}"
    kept = cluster.request("GET", path).body["spec"]["versions"]
    made = custom_resource_definition(resource)["spec"]["versions"]
    assert kept == made


def test_every_rule_of_the_crds_has_its_examples() -> None:
    rules = [rule for it in RESOURCES for rule in rules_in(resource_schema(it))]
    for rule in rules:
        matching = [it for it in RULE_EXAMPLES if rule["message"].startswith(it.rule)]
        assert len(matching) == 1, rule["message"]
        assert (matching[0].before is not None) == ("oldSelf" in rule["rule"]), rule["message"]
    assert len(rules) == len(RULE_EXAMPLES)


@pytest.mark.parametrize("example", RULE_EXAMPLES, ids=lambda it: it.rule)
def test_a_rule_lets_its_good_example_pass_and_refuses_the_bad_one(
    cluster: ControlPlane, namespace: str, clean_rate_cards: None, example: RuleExample
) -> None:
    if example.before is None:
        rejected = create(cluster, namespace, example.rejected, dry_run=True)
        accepted = create(cluster, namespace, example.accepted, dry_run=True)
    else:
        before = stored(cluster, namespace, example.before)
        rejected = replace(cluster, namespace, before, example.rejected, example.subresource)
        accepted = replace(cluster, namespace, before, example.accepted, example.subresource)
    assert rejected.status == 422, rejected.body
    assert example.rule in rejected.message
    assert accepted.status in {200, 201}, accepted.message


CHANGES: dict[str, tuple[str, Any]] = {
    "task": ("spec.task", ABSENT),
    "model": ("spec.model.uri", "pvc://models/other"),
    "dataset": ("spec.dataset.limit", 1000),
    "training": ("spec.training.learningRate", 1e-4),
    "deepspeed": ("spec.deepspeed.zeroStage", 3),
    "compute": ("spec.compute.workers", 2),
    "storage": ("spec.storage.claim", "elsewhere"),
    "checkpoint": ("spec.checkpoint.keep", 5),
    "evaluation": ("spec.evaluation.resamples", 500),
    "output": ("spec.output.uri", "s3://models/elsewhere"),
    "credentials": ("spec.credentials.secretName", "other-keys"),
    "budget": ("spec.budget.maxCost", "100"),
    "policy": ("spec.policy.gracePeriodSeconds", 60),
    "suspend": ("spec.suspend", True),
}
MAY_CHANGE = {"budget", "policy", "suspend"}


def test_the_table_of_changes_knows_every_block_of_the_spec() -> None:
    assert CHANGES.keys() == FineTuneJobSpec.model_fields.keys()


@pytest.mark.parametrize("block", CHANGES)
def test_an_admitted_spec_changes_in_suspend_budget_and_policy_alone(
    cluster: ControlPlane, namespace: str, block: str
) -> None:
    path, value = CHANGES[block]
    before = stored(cluster, namespace, admitted(JOB))
    after = replace(cluster, namespace, before, changed(JOB, {path: value}))
    assert after.status == (200 if block in MAY_CHANGE else 422), after.body


@pytest.mark.parametrize("block", sorted(CHANGES.keys() - {"task"}))
def test_a_spec_that_is_not_admitted_may_change_anywhere(
    cluster: ControlPlane, namespace: str, block: str
) -> None:
    path, value = CHANGES[block]
    before = stored(cluster, namespace, JOB)
    after = replace(cluster, namespace, before, changed(JOB, {path: value}))
    assert after.status == 200, after.message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gpusPerWorker", 2),
        ("gpuType", "a100"),
        ("cpu", "4"),
        ("memory", "16Gi"),
        ("nodeSelector", {"zone": "b"}),
        ("nodeSelector", {}),
        ("tolerations", [{"operator": "Exists"}]),
    ],
)
def test_an_admitted_gang_keeps_its_make_even_while_suspended(
    cluster: ControlPlane, namespace: str, field: str, value: Any
) -> None:
    suspended = changed(
        JOB, {"spec.suspend": True, "spec.compute": {"nodeSelector": {"zone": "a"}}}
    )
    before = stored(cluster, namespace, admitted(suspended))
    after = replace(
        cluster, namespace, before, changed(suspended, {f"spec.compute.{field}": value})
    )
    assert after.status == 422, after.body
    assert "compute is immutable" in after.message


def test_workers_change_while_suspended_and_not_in_the_same_step_as_the_resume(
    cluster: ControlPlane, namespace: str
) -> None:
    suspended = changed(JOB, {"spec.suspend": True})
    before = stored(cluster, namespace, admitted(suspended))
    more = replace(cluster, namespace, before, changed(suspended, {"spec.compute.workers": 4}))
    assert more.status == 200, more.message
    resumed = replace(cluster, namespace, more.body, changed(JOB, {"spec.compute.workers": 4}))
    assert resumed.status == 200, resumed.message
    late = replace(cluster, namespace, resumed.body, changed(JOB, {"spec.compute.workers": 2}))
    assert late.status == 422
    assert "compute.workers may change while spec.suspend is true" in late.message


@pytest.mark.parametrize("taken_away", ["status.attempt", "status.phase", "status"])
def test_a_finished_job_can_not_be_made_to_forget_it(
    cluster: ControlPlane, namespace: str, taken_away: str
) -> None:
    finished = changed(JOB, {"status.phase": "Complete", "status.attempt": 3})
    before = stored(cluster, namespace, finished)
    after = replace(cluster, namespace, before, changed(finished, {taken_away: ABSENT}), "status")
    assert after.status == 422, after.body


@pytest.mark.parametrize(
    "change",
    [
        {"spec.sealed": False},
        {"spec.cost": "0.01"},
        {"spec.entries": []},
        {"spec.entries": [USAGE_ENTRY, changed(USAGE_ENTRY, {"podUid": "pod-1"})]},
        {"spec.entries.0.podUid": "pod-1"},
        {"spec.entries.0.segment": 1},
        {"spec.entries.0.since": LATER},
        {"spec.entries.0.until": ABSENT},
        {"spec.entries.0.milliDevices": 1},
        {"spec.entries.0.rate.pricePerHour": "0.01"},
        {"spec.entries.0.rate": ABSENT},
    ],
    ids="-".join,
)
def test_a_sealed_record_keeps_what_it_charges(
    cluster: ControlPlane, namespace: str, change: Object
) -> None:
    sealed = changed(USAGE_RECORD, {"spec.sealed": True})
    before = stored(cluster, namespace, sealed)
    after = replace(cluster, namespace, before, changed(sealed, change))
    assert after.status == 422, after.body
    assert "a sealed record's intervals and prices are final" in after.message


@pytest.mark.parametrize(
    "change", [{"spec.revision": 1}, {"spec.attempt": 7}, {"spec.job.uid": "another"}]
)
def test_a_record_stays_that_of_its_job_attempt_and_revision(
    cluster: ControlPlane, namespace: str, change: Object
) -> None:
    before = stored(cluster, namespace, USAGE_RECORD)
    after = replace(cluster, namespace, before, changed(USAGE_RECORD, change))
    assert after.status == 422, after.body
    assert "a record stays that of its job, attempt and revision" in after.message


def test_the_rules_are_affordable_at_the_bounds_of_the_lists(
    cluster: ControlPlane, namespace: str
) -> None:
    entries = [changed(USAGE_ENTRY, {"podUid": f"{at:0253}"}) for at in range(1000)]
    record = changed(USAGE_RECORD, {"spec.entries": entries, "spec.sealed": True})
    before = stored(cluster, namespace, record)
    same = replace(cluster, namespace, before, record)
    assert same.status == 200, same.message
    settled = replace(cluster, namespace, same.body, changed(record, {"spec.lostSettled": True}))
    assert settled.status == 200, settled.message
    final = replace(cluster, namespace, settled.body, changed(record, {"spec.lostSettled": True}))
    assert final.status == 200, final.message


def test_the_rules_of_the_largest_job_are_affordable(cluster: ControlPlane, namespace: str) -> None:
    names = [f"{at:0253}" for at in range(200)]
    gate = [
        {"name": f"{at:063}", "metric": "errorReduction", "against": "tfidf", "min": -1}
        for at in range(20)
    ]
    job = changed(
        JOB,
        {
            "spec.dataset.labels": names,
            "spec.dataset.cleaning.dropLabels": [f"{at:0253}" for at in range(-50, 0)],
            "spec.evaluation.gate": gate,
            "spec.model.uri": "m" * 1024,
            "spec.dataset.train": "t" * 1024,
            "spec.compute.nodeSelector": {f"{at:0253}/{at:063}": "v" * 63 for at in range(16)},
            "spec.compute.tolerations": [
                {"key": f"{at:0253}/{at:063}", "value": "v" * 63} for at in range(16)
            ],
            "spec.storage.storageClassName": "s" * 253,
        },
    )
    before = stored(cluster, namespace, admitted(job))
    after = replace(cluster, namespace, before, changed(job, {"spec.suspend": True}))
    assert after.status == 200, after.message


def test_defaults_appear_as_the_types_have_them(cluster: ControlPlane, namespace: str) -> None:
    kept = stored(cluster, namespace, JOB)
    assert kept["spec"] == FineTuneJob.model_validate(JOB).wire()["spec"]
    partly = changed(JOB, {"metadata.name": "partly", "spec.dataset.split": {"test": 30}})
    split = stored(cluster, namespace, partly)["spec"]["dataset"]["split"]
    assert split == {"select": 8, "test": 30, "seed": 0, "strategy": "hash"}


def test_status_is_the_operators_own(cluster: ControlPlane, namespace: str) -> None:
    created = create(cluster, namespace, changed(JOB, {"status.phase": "Complete"}))
    assert created.status == 201, created.message
    assert "status" not in created.body


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.training.learningrate", 1e-4, 'unknown field "spec.training.learningrate"'),
        ("spec.training.learningRate", "1e-4", "spec.training.learningRate"),
        ("spec.training.globalBatchSize", 0, "spec.training.globalBatchSize"),
        ("spec.training.globalBatchSize", 32.5, "spec.training.globalBatchSize"),
        ("spec.training.epochs", 0, "spec.training.epochs"),
        ("spec.compute.workers", 65, "spec.compute.workers"),
        ("spec.deepspeed.zeroStage", 4, "spec.deepspeed.zeroStage"),
        ("spec.task", "summarization", "spec.task"),
        ("spec.budget.maxCost", 5, "spec.budget.maxCost"),
        ("spec.budget.maxCost", "5 EUR", "spec.budget.maxCost"),
        ("spec.dataset", ABSENT, "spec.dataset"),
        ("spec.dataset.labels", ["x" * 254], "spec.dataset.labels[0]"),
        ("spec.evaluation.gate", [{"name": "a", "metric": "mcc"}], "every other metric to a min"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(
    cluster: ControlPlane, namespace: str, path: str, value: Any, said: str
) -> None:
    job = json.dumps(changed(JOB, {path: value}))
    refused = cluster.kubectl(
        "create", "--validate=strict", "-n", namespace, "-f", "-", stdin=job, check=False
    )
    assert refused.returncode != 0
    assert said in refused.stderr


@pytest.mark.parametrize("name", ["a" * 41, "movie.reviews", "1st", "Reviews", "reviews-"])
def test_a_name_that_its_pods_could_not_carry_is_refused(
    cluster: ControlPlane, namespace: str, name: str
) -> None:
    refused = create(cluster, namespace, changed(JOB, {"metadata.name": name}))
    assert refused.status == 422
    assert "metadata.name" in refused.message


def test_a_gate_has_each_requirement_once(cluster: ControlPlane, namespace: str) -> None:
    gate = [{"name": "good", "metric": metric, "min": 0.5} for metric in ("mcc", "accuracy")]
    refused = create(cluster, namespace, changed(JOB, {"spec.evaluation.gate": gate}))
    assert refused.status == 422
    assert "Duplicate value" in refused.message


@pytest.mark.parametrize("short", ["ftj", "finetunejob", "ml"])
def test_kubectl_shows_where_a_job_is(cluster: ControlPlane, namespace: str, short: str) -> None:
    status = {
        "phase": "Training",
        "reason": "Running",
        "attempt": 2,
        "progress": {
            "step": 40,
            "totalSteps": 80,
            "percent": "50%",
            "eta": "12m",
            "loss": 0.31,
        },
        "cost": {
            "currency": "EUR",
            "spent": "1.20",
            "wasted": "0",
            "gpuHours": "0.5",
            "rankHours": "0",
            "unpricedHours": "0",
            "display": "1.20 EUR",
        },
    }
    stored(cluster, namespace, changed(JOB, {"status": status}))
    head, row = cluster.kubectl("get", short, "-n", namespace).stdout.splitlines()
    assert head.split() == "NAME PHASE PROGRESS ETA LOSS COST ATTEMPT REASON AGE".split()
    name = "reviews" if short != "ml" else "finetunejob.finetune.dev/reviews"
    shown = row.removeprefix(name).split()
    assert shown[:-1] == ["Training", "50%", "12m", "0.31", "1.20", "EUR", "2", "Running"]


def test_kubectl_explains_every_field_that_a_person_writes(cluster: ControlPlane) -> None:
    told = cluster.kubectl("explain", "finetunejob.spec.training").stdout
    assert "globalBatchSize\t<integer>" in told
    assert "Rows per optimizer step over all ranks." in told
    assert "enum: linear, cosine, constant" in told
    tree = cluster.kubectl("explain", "finetunejob.spec", "--recursive").stdout
    assert "<no description>" not in told + tree


def test_a_rate_card_belongs_to_the_whole_cluster(
    cluster: ControlPlane, namespace: str, clean_rate_cards: None
) -> None:
    kept = stored(cluster, namespace, RATE_CARD)
    assert "namespace" not in kept["metadata"]
    assert kept["spec"]["entries"][0]["resource"] == "accelerator"
