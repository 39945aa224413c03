"""The cache: whatever order the news comes in, it ends at what the server has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_operator.cost.records import JOB_UID_LABEL
from finetune_operator.kube.cache import Cache
from finetune_operator.kube.client import Listing
from finetune_operator.kube.resources import PODS, Json

Name = tuple[str, str]
NAMES: tuple[Name, ...] = (("red", "a"), ("red", "b"), ("blue", "a"))
SCOPES = (None, "red", "blue")
OWNERS = ("job-1", "job-2")


def a_pod(
    version: int,
    *,
    name: Name = NAMES[0],
    uid: str = "first",
    owner: str | None = OWNERS[0],
) -> Json:
    metadata: dict[str, Any] = {
        "namespace": name[0],
        "name": name[1],
        "uid": uid,
        "resourceVersion": str(version),
    }
    if owner is not None:
        metadata["labels"] = {JOB_UID_LABEL: owner}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}


def a_listing(version: int, *pods: Json, namespace: str | None = None) -> Listing:
    return Listing(items=pods, resource_version=str(version), namespace=namespace)


@dataclass
class Server:
    """A server's history: every change has the next version, a deletion too."""

    version: int = 10
    truth: dict[Name, Json] = field(default_factory=dict)
    history: list[tuple[str, Json]] = field(default_factory=list)
    moments: list[dict[Name, Json]] = field(default_factory=list)
    first: int = 10

    def __post_init__(self) -> None:
        self.moments.append({})

    def change(self, name: Name, owner: str | None, *, delete: bool) -> None:
        self.version += 1
        held = self.truth.get(name)
        if delete and held is not None:
            gone = {**held["metadata"], "resourceVersion": str(self.version)}
            self.history.append(("DELETED", {**held, "metadata": gone}))
            del self.truth[name]
        else:
            uid = f"uid-{self.version}" if held is None else held["metadata"]["uid"]
            self.truth[name] = a_pod(self.version, name=name, uid=uid, owner=owner)
            self.history.append(("MODIFIED", self.truth[name]))
        self.moments.append(dict(self.truth))

    def listing(self, age: int, scope: str | None) -> Listing:
        """What a listing said that many changes ago."""
        index = max(0, len(self.moments) - 1 - age)
        pods = [pod for name, pod in self.moments[index].items() if scope in {None, name[0]}]
        return a_listing(self.first + index, *pods, namespace=scope)


@st.composite
def servers(draw: st.DrawFn) -> Server:
    server = Server()
    change = st.tuples(st.sampled_from(NAMES), st.sampled_from((*OWNERS, None)), st.booleans())
    for name, owner, delete in draw(st.lists(change, min_size=1, max_size=12)):
        server.change(name, owner, delete=delete)
    return server


LISTINGS = st.lists(
    st.tuples(st.integers(min_value=0, max_value=12), st.sampled_from(SCOPES)), max_size=4
)


def deliver(cache: Cache, kind: str, pod: Json) -> None:
    if kind == "DELETED":
        cache.remove(pod)
    else:
        cache.put(pod)


def assert_holds(cache: Cache, truth: dict[Name, Json]) -> None:
    assert cache.items() == tuple(truth[name] for name in sorted(truth))
    assert len(cache) == len(truth)
    for name in NAMES:
        assert cache.get(*name) == truth.get(name)
    for owner in OWNERS:
        owned = [
            truth[name]
            for name in sorted(truth)
            if truth[name]["metadata"].get("labels") == {JOB_UID_LABEL: owner}
        ]
        assert cache.by_label(JOB_UID_LABEL, owner) == tuple(owned)


@given(servers(), LISTINGS, st.data())
def test_once_every_event_has_come_in_any_order_the_cache_holds_the_truth(
    server: Server, listings: list[tuple[int, str | None]], data: st.DataObject
) -> None:
    news: list[tuple[str, Json] | Listing] = [*server.history]
    news += data.draw(st.lists(st.sampled_from(server.history), max_size=6), label="repeated")
    news += [server.listing(*which) for which in listings]
    cache = Cache(PODS)
    ended: set[str] = set()
    for one in data.draw(st.permutations(news), label="in the order of their coming"):
        if isinstance(one, Listing):
            cache.replace(one)
        else:
            deliver(cache, *one)
            if one[0] == "DELETED":
                ended.add(one[1]["metadata"]["uid"])
        assert ended.isdisjoint(pod["metadata"]["uid"] for pod in cache.items())
    assert_holds(cache, server.truth)


@given(servers(), LISTINGS, st.data())
def test_a_fresh_listing_puts_right_whatever_was_missed(
    server: Server, listings: list[tuple[int, str | None]], data: st.DataObject
) -> None:
    some = data.draw(st.lists(st.sampled_from(server.history), unique_by=id), label="heard of")
    cache = Cache(PODS)
    for kind, pod in some:
        deliver(cache, kind, pod)
    for which in listings:
        cache.replace(server.listing(*which))
    for scope in data.draw(st.sampled_from(((None,), ("red", "blue"))), label="listed by"):
        cache.replace(server.listing(0, scope))
    assert_holds(cache, server.truth)


@given(servers(), st.data())
def test_an_answer_to_a_write_is_read_back_before_the_watch_tells_of_it(
    server: Server, data: st.DataObject
) -> None:
    written = a_pod(server.version + 1, uid="uid-new")
    cache = Cache(PODS)
    cache.put(written)
    late: Iterable[tuple[str, Json]] = data.draw(st.permutations(server.history))
    for kind, pod in late:
        deliver(cache, kind, pod)
    cache.replace(server.listing(0, None))
    assert cache.get(*NAMES[0]) == written


def test_of_two_words_about_an_object_the_later_one_holds() -> None:
    cache = Cache(PODS)
    cache.put(a_pod(9))
    cache.put(a_pod(10))
    cache.put(a_pod(9))
    assert cache.get("red", "a") == a_pod(10)


def test_a_late_deletion_of_a_namesake_leaves_the_one_that_came_after_it() -> None:
    cache = Cache(PODS)
    cache.put(a_pod(8, uid="second"))
    cache.remove(a_pod(7, uid="first"))
    assert cache.get("red", "a") == a_pod(8, uid="second")


def test_an_object_that_is_said_to_be_gone_by_an_older_copy_of_it_is_gone() -> None:
    # As after a 404: what is at hand then is the object as it was last read.
    cache = Cache(PODS)
    cache.put(a_pod(9))
    cache.remove(a_pod(7))
    cache.put(a_pod(8))
    assert cache.get("red", "a") is None


def test_what_a_listing_left_out_does_not_come_back_by_an_older_event() -> None:
    cache = Cache(PODS)
    cache.put(a_pod(7))
    cache.replace(a_listing(20))
    cache.put(a_pod(8))
    assert cache.items() == ()


def test_a_stale_listing_makes_no_old_event_news_again() -> None:
    cache = Cache(PODS)
    cache.replace(a_listing(20))
    cache.replace(a_listing(5))
    cache.put(a_pod(7))
    assert cache.items() == ()


def test_a_stale_listing_of_all_undoes_no_later_one_of_a_namespace() -> None:
    cache = Cache(PODS)
    cache.remove(a_pod(12))
    cache.replace(a_listing(12, namespace="red"))
    cache.replace(a_listing(11, a_pod(11)))
    assert cache.items() == ()


def test_a_listing_of_one_namespace_says_nothing_of_another() -> None:
    cache = Cache(PODS)
    cache.put(a_pod(7, name=("blue", "a")))
    cache.replace(a_listing(20, namespace="red"))
    assert cache.items() == (a_pod(7, name=("blue", "a")),)


def test_an_object_whose_label_changed_is_found_by_the_new_one_alone() -> None:
    cache = Cache(PODS)
    cache.put(a_pod(7, owner="job-1"))
    cache.put(a_pod(8, owner="job-2"))
    assert cache.by_label(JOB_UID_LABEL, "job-1") == ()
    assert cache.by_label(JOB_UID_LABEL, "job-2") == (a_pod(8, owner="job-2"),)


def test_asking_by_a_label_that_is_not_indexed_is_an_error_and_not_an_empty_answer() -> None:
    with pytest.raises(KeyError):
        Cache(PODS).by_label("finetune.dev/step", "train")


def test_names_that_ended_are_forgotten_once_a_listing_says_the_same() -> None:
    cache = Cache(PODS)
    for version in range(1, 50):
        cache.remove(a_pod(version, name=("red", f"pod-{version}")))
    cache.replace(a_listing(50))
    assert not cache._ended
