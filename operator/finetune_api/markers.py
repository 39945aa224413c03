"""What a Kubernetes schema says beyond JSON Schema, as annotations on the contract's types.

``schema`` turns them into CRD fields; nothing else reads them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from finetune_api.times import parse_time


class Contract(BaseModel):
    """The base of every type on the wire: frozen, camelCase, and strict about unknown fields.

    A field's docstring is its description in the CRD and the reference, as ``Field``'s is.
    The command line refuses unknown fields. A reader of the API server passes ``extra="ignore"``
    to ``model_validate``, so that an older operator reads what a newer one wrote.
    """

    model_config = ConfigDict(
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    cel_rules: ClassVar[tuple["Cel", ...]] = ()

    def wire(self) -> dict[str, Any]:
        """The object as JSON-ready data: camelCase keys, and nothing for what is not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True)
class Cel:
    """One validation rule: CEL over ``self`` (and ``oldSelf`` in a transition rule)."""

    rule: str
    message: str

    @property
    def is_transition(self) -> bool:
        """Whether the rule compares with the object's earlier state."""
        return "oldSelf" in self.rule


_Model = TypeVar("_Model", bound="Contract")


def rules(*cel: Cel) -> Callable[[type[_Model]], type[_Model]]:
    """Attach CEL rules to a type; they stand in the CRD where the type stands."""

    def attach(model: type[_Model]) -> type[_Model]:
        model.cel_rules = (*model.cel_rules, *cel)
        return model

    return attach


@dataclass(frozen=True)
class ListMap:
    """A list that merges by key under server-side apply (x-kubernetes-list-type: map)."""

    keys: tuple[str, ...]

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say so in the schema of the annotated list."""
        return {
            **handler(schema),
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": list(self.keys),
        }


@dataclass(frozen=True)
class PrinterColumn:
    """A column of ``kubectl get``; ``priority`` 1 shows it only in wide output."""

    name: str
    type: str
    path: str
    priority: int = 0


@dataclass(frozen=True)
class Kind:
    """How a type is served as a custom resource."""

    kind: str
    plural: str
    singular: str
    scope: str
    short_names: tuple[str, ...] = ()
    columns: tuple[PrinterColumn, ...] = ()


CURRENCY_PATTERN = "^[A-Z]{3}$"
DECIMAL_PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,9})?$"

Text = Annotated[str, StringConstraints(max_length=1024)]
ShortText = Annotated[str, StringConstraints(min_length=1, max_length=253)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=63)]
Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$", max_length=71)]
Currency = Annotated[str, StringConstraints(pattern=CURRENCY_PATTERN, max_length=3)]

Decimal = Annotated[
    str,
    StringConstraints(pattern=DECIMAL_PATTERN, max_length=22),
    Field(description="A decimal number as a string, so that no reader rounds it."),
]
"""Money, rates and hours: exact, never a float."""

CPU_PATTERN = (
    r"^([1-9][0-9]{0,3}(\.[0-9]{1,3})?|0\.([1-9][0-9]{0,2}|0[1-9][0-9]?|00[1-9])|[1-9][0-9]{0,6}m)$"
)
BYTES_PATTERN = "^[1-9][0-9]{0,6}(Mi|Gi|Ti|M|G|T)$"
NAME_FORM = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*"

Cpus = Annotated[str, StringConstraints(pattern=CPU_PATTERN, max_length=8)]
"""Processor cores as a Kubernetes quantity: 2, 0.5 or 500m."""

Bytes = Annotated[str, StringConstraints(pattern=BYTES_PATTERN, max_length=9)]
"""Memory or disk as a Kubernetes quantity, whole: 1536Mi, 8Gi."""

QUALIFIED_NAME_PATTERN = (
    "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
LABEL_VALUE_PATTERN = "^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$"

QualifiedName = Annotated[
    str, StringConstraints(pattern=QUALIFIED_NAME_PATTERN, max_length=253 + 1 + 63)
]
"""Key of a label or a taint."""

AnnotationKey = Annotated[
    str,
    StringConstraints(
        # Of annotations Kubernetes takes a prefix in capitals, too.
        pattern=QUALIFIED_NAME_PATTERN.replace("[a-z0-9]", "[A-Za-z0-9]").replace(
            "[-a-z", "[-A-Za-z"
        ),
        max_length=253 + 1 + 63,
    ),
]
"""Key of an annotation."""

LabelValue = Annotated[str, StringConstraints(pattern=LABEL_VALUE_PATTERN, max_length=63)]
"""Value of a label or a taint."""

ObjectName = Annotated[str, StringConstraints(pattern=f"^{NAME_FORM}$", max_length=253)]
"""Name of an object on the cluster (a DNS subdomain)."""

Seconds = Annotated[int, Field(ge=0, le=31_536_000)]
RFC3339_PATTERN = (
    r"^[1-9][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)


def _moment(text: str) -> str:
    """Refuse what has the form of a timestamp and is none, such as a 30th of February."""
    try:
        parse_time(text)
    except (ValueError, OverflowError) as error:
        raise PydanticCustomError("timestamp", "is no moment in time") from error
    return text


Timestamp = Annotated[
    str,
    StringConstraints(pattern=RFC3339_PATTERN, max_length=35),
    AfterValidator(_moment),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "pattern": RFC3339_PATTERN, "maxLength": 35}
    ),
]
"""RFC 3339, UTC, as the API server writes it. ``times`` converts from and to ``datetime``."""
