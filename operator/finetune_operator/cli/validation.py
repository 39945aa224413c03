"""One document against the contract: the object, or everything that is wrong with it.

``manifest`` calls it. Types and bounds are pydantic's to check, in the contract's own types; rules
are ``rules``'; what pydantic found is said in ``wording``. An API server in strict mode refuses the
same documents.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from finetune_api.markers import Contract
from finetune_api.schema import Resource, Schema, resource_schema
from finetune_operator.cli.documents import Document, FieldPath, dotted
from finetune_operator.cli.rules import Violation, violations, with_defaults
from finetune_operator.cli.wording import in_words, suggestion
from finetune_operator.core.observed import Problem

Model = TypeVar("Model", bound=Contract)

_TAKEN_METADATA = ("name", "namespace", "labels", "annotations")
_KNOWN_METADATA = frozenset(
    {
        *_TAKEN_METADATA,
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
"""Every field of Kubernetes' ObjectMeta; those not taken are the API server's own."""


def validate(
    document: Document, resource: Resource, model: type[Model]
) -> tuple[Model | None, list[Problem]]:
    """Read a document as an object of the resource; ``model`` is the resource's type.

    The object is None exactly if there are problems, which come in the order of their lines.
    """
    schema = _schema(resource)
    data = _without_nulls(document.value)
    if resource.has_status:
        # Left over in a manifest that was read from a cluster; an API server drops it, too.
        data.pop("status", None)
    found = list(_take_metadata(data))
    result: Model | None = None
    try:
        result = model.model_validate_json(
            json.dumps(data), strict=True, by_alias=True, by_name=False
        )
    except ValidationError as error:
        found += [
            in_words(details, schema)
            for details in error.errors(include_url=False)
            if not _only_seems_short(details)
        ]
    wrong = [path for path, _ in found]
    for broken in violations(schema, with_defaults(schema, data), wrong):
        found.append((_place(broken, document), broken.message))
    found.sort(key=lambda it: document.line(it[0]))
    problems = [
        Problem(field=dotted(path), message=message, source=document.source(path))
        for path, message in found
    ]
    return (None if problems else result), problems


@cache
def _schema(resource: Resource) -> Schema:
    """The resource's schema, which a file of many rate cards asks for once."""
    return resource_schema(resource)


def _only_seems_short(error: ErrorDetails) -> bool:
    """Whether a list is called too short only because items that are wrong were not counted."""
    return error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]


def _place(broken: Violation, document: Document) -> FieldPath:
    """The first field that a broken rule speaks of and the document has, or the rule's object."""
    for path in broken.concerns:
        longest = path
        while longest not in document.lines:
            longest = longest[:-1]
        if len(longest) > len(broken.path):
            return longest
    return broken.path


def _take_metadata(data: dict[str, Any]) -> Iterator[tuple[FieldPath, str]]:
    """Keep of metadata what a manifest says; the rest is the API server's, if it is anything."""
    metadata = data.get("metadata")
    if not isinstance(metadata, dict):
        return
    data["metadata"] = {name: metadata[name] for name in _TAKEN_METADATA if name in metadata}
    for name in metadata.keys() - _KNOWN_METADATA:
        hint = suggestion(name, _KNOWN_METADATA)
        yield ("metadata", name), f"is no field of metadata{hint}"


def _without_nulls(value: Any) -> Any:
    """Drop fields that are null, as the API server does where null means nothing."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
