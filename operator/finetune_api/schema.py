"""From the contract's types to CustomResourceDefinitions (apiextensions.k8s.io/v1).

A CRD's schema must be structural, which pydantic's JSON Schema is not: references are inlined,
``null`` branches dropped, constants made enums, exclusive bounds made booleans. The default of an
object is written out in full: the server fills in nested defaults only where the parent exists, and
asks the rules of the default before it does.
``finetune-operator generate`` writes the result, the command line checks manifests against it.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from finetune_api import GROUP, VERSION, job, ratecard, usage
from finetune_api.markers import Contract, Kind

# JSON documents have no narrower type: a schema is data that is walked.
Schema = dict[str, Any]

CATEGORY = "ml"
_REFERENCE = "#/$defs/"
_INT32_MAX = 2**31 - 1
_KEY_ORDER = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "exclusiveMinimum",
    "maximum",
    "exclusiveMaximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "default",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "required",
    "properties",
    "additionalProperties",
    "items",
    "x-kubernetes-validations",
)
_API_VERSION = (
    "APIVersion defines the versioned schema of this representation of an object. Servers should "
    "convert recognized schemas to the latest internal value, and may reject unrecognized values."
)
_KIND = "Kind is a string value representing the REST resource this object represents."


@dataclass(frozen=True)
class Resource:
    """A type and how it is served."""

    model: type[Contract]
    kind: Kind

    @property
    def name(self) -> str:
        """The CRD's name."""
        return f"{self.kind.plural}.{GROUP}"

    @property
    def has_status(self) -> bool:
        """Whether status is a subresource, written by the operator alone."""
        return "status" in self.model.model_fields


RESOURCES: tuple[Resource, ...] = (
    Resource(job.FineTuneJob, job.KIND),
    Resource(ratecard.RateCard, ratecard.KIND),
    Resource(usage.UsageRecord, usage.KIND),
)


class _ContractSchema(GenerateJsonSchema):
    """Pydantic's generator, without ``null`` and with the types' CEL rules."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Leave the null branch out: what is optional is simply not required."""
        return self.generate_inner(schema["schema"])

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Add the type's rules where the type stands."""
        result = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, Contract) and model.cel_rules:
            result["x-kubernetes-validations"] = [
                {"rule": cel.rule, "message": cel.message} for cel in model.cel_rules
            ]
        return result


def structural_schema(model: type[BaseModel]) -> Schema:
    """The structural schema of a type, with nothing left to look up elsewhere."""
    document = model.model_json_schema(by_alias=True, schema_generator=_ContractSchema)
    definitions: dict[str, Schema] = document.pop("$defs", {})
    return _structural(document, definitions)


def custom_resource_definition(resource: Resource) -> Schema:
    """The CRD of a resource, ready for ``kubectl apply --server-side``."""
    kind = resource.kind
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {
                "name": column.name,
                "type": column.type,
                "jsonPath": column.path,
                **({"priority": column.priority} if column.priority else {}),
            }
            for column in kind.columns
        ],
        "schema": {"openAPIV3Schema": resource_schema(resource)},
    }
    if resource.has_status:
        version["subresources"] = {"status": {}}
    names: Schema = {
        "kind": kind.kind,
        "listKind": f"{kind.kind}List",
        "plural": kind.plural,
        "singular": kind.singular,
        "categories": [CATEGORY],
    }
    if kind.short_names:
        names["shortNames"] = list(kind.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.name},
        "spec": {"group": GROUP, "names": names, "scope": kind.scope, "versions": [version]},
    }


def resource_schema(resource: Resource) -> Schema:
    """The schema of a whole object. What the API server itself holds of it, it alone describes."""
    schema = structural_schema(resource.model)
    schema["properties"].update(
        apiVersion={"description": _API_VERSION, "type": "string"},
        kind={"description": _KIND, "type": "string"},
        metadata={"type": "object"},
    )
    schema["required"] = [key for key in schema["required"] if key != "metadata"]
    return schema


def check_structural(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """What an API server would refuse in a schema, and what would let an object grow unbounded.

    CEL rules have a cost budget that is computed from these bounds, so an unbounded list breaks
    rules far away from it. ``metadata`` is the API server's own and is left out.
    """
    where = path or "(root)"
    forbidden = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "not", "const", "title", "examples"}
    forbidden |= {"prefixItems", "patternProperties", "uniqueItems"}
    for key in sorted(forbidden & schema.keys()):
        yield f"{where}: {key} has no place in a structural schema"
    kind = schema.get("type")
    if kind == "string" and not ({"maxLength", "enum"} & schema.keys()):
        if path not in {"apiVersion", "kind"}:
            yield f"{where}: a string without maxLength"
    elif kind == "array":
        yield from _check_array(schema, where)
    elif kind == "object":
        yield from _check_object(schema, path)
    elif kind not in {"string", "integer", "number", "boolean"}:
        yield f"{where}: type {kind!r} is none of a structural schema"
    for bound in ("exclusiveMinimum", "exclusiveMaximum"):
        if not isinstance(schema.get(bound, False), bool):
            yield f"{where}: {bound} must be a boolean"


def _check_array(schema: Mapping[str, Any], where: str) -> Iterator[str]:
    if "maxItems" not in schema:
        yield f"{where}: a list without maxItems"
    if "items" not in schema:
        yield f"{where}: a list without items"
        return
    items = schema["items"]
    for key in schema.get("x-kubernetes-list-map-keys", ()):
        if key not in items.get("required", ()) and "default" not in items["properties"][key]:
            yield f"{where}: the list's key {key} is neither required nor has it a default"
    yield from check_structural(items, f"{where}[]")


def _check_object(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    where = path or "(root)"
    values = schema.get("additionalProperties")
    if isinstance(values, bool):
        yield f"{where}: additionalProperties must be a schema"
    elif values is not None:
        if "maxProperties" not in schema:
            yield f"{where}: a map without maxProperties"
        if "properties" in schema:
            yield f"{where}: properties and additionalProperties exclude each other"
        yield from check_structural(values, f"{where}{{}}")
    elif "properties" not in schema and path != "metadata":
        yield f"{where}: an object of which nothing is known"
    for name, child in schema.get("properties", {}).items():
        yield from check_structural(child, f"{path}.{name}" if path else name)


def _structural(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    node = _inlined(node, definitions)
    result = {key: node[key] for key in _KEY_ORDER if key in node}
    if "const" in node:
        result["enum"] = [node["const"]]
    if "description" in result:
        result["description"] = _prose(result["description"])
    for bound, exclusive in (
        ("minimum", "exclusiveMinimum"),
        ("maximum", "exclusiveMaximum"),
    ):
        if exclusive in result:
            result[bound], result[exclusive] = result[exclusive], True
    if result.get("type") in {"integer", "number"}:
        result["format"] = _number_format(result)
    if "properties" in result:
        result["properties"] = {
            name: _structural(child, definitions) for name, child in result["properties"].items()
        }
    if "items" in result:
        result["items"] = _structural(result["items"], definitions)
        result.setdefault("x-kubernetes-list-type", "atomic")
    values = result.pop("additionalProperties", False)
    if not isinstance(values, bool):
        result["additionalProperties"] = _structural(values, definitions)
    if result.get("default", ...) is None:
        del result["default"]
    elif "default" in result:
        result["default"] = _without_null(result["default"])
    return {key: result[key] for key in _KEY_ORDER if key in result}


def _inlined(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Put what is referred to in the reference's place; what stands beside it goes before."""
    while "$ref" in node:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        node = {**definitions[node["$ref"].removeprefix(_REFERENCE)], **beside}
    return node


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return value


def _number_format(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "number":
        return "double"
    low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63)
    return "int32" if low >= -_INT32_MAX and high <= _INT32_MAX else "int64"


def _prose(text: str) -> str:
    """A docstring as one paragraph a line, without reStructuredText's marks."""
    paragraphs = inspect.cleandoc(text).replace("``", "`").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
