"""From types to structural CRDs: what pydantic says becomes what an API server takes."""

from __future__ import annotations

import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from click.testing import CliRunner
from pydantic import Field

from finetune_api.job import FineTuneJob
from finetune_api.markers import Cel, Contract, Label, ListMap, Timestamp, rules
from finetune_api.phases import MEANINGS, TRANSITIONS
from finetune_api.reference import reference_page
from finetune_api.report import EXIT_MEANING, FAILURE_MEANING, ExitCode, FailureClass
from finetune_api.run import ENV_MEANING, Env
from finetune_api.schema import (
    RESOURCES,
    Resource,
    Schema,
    check_structural,
    custom_resource_definition,
    resource_schema,
    structural_schema,
)
from finetune_api.tasks import Task
from finetune_operator.__main__ import crd_yaml, generated_files, main
from finetune_operator.cli.rules import with_defaults
from harness.objects import JOB, RATE_CARD, USAGE_RECORD
from harness.processes import REPOSITORY

each_resource = pytest.mark.parametrize("resource", RESOURCES, ids=lambda it: it.kind.kind)


class Color(StrEnum):
    """What it looks like."""

    RED = "red"
    BLUE = "blue"


@rules(Cel("self.low <= self.high", "low must not exceed high"))
class Part(Contract):
    """A part.

    It has ``two`` ends.
    """

    low: Annotated[int, Field(ge=0, le=9)] = 0
    high: Annotated[int, Field(ge=0, le=9)] = 9
    name: Label | None = None


class Whole(Contract):
    """All of it."""

    required: Annotated[int, Field(gt=0)]
    optional: Annotated[float | None, Field(ge=0, lt=1, description="A share.")] = None
    constant: Literal["only"] = "only"
    color: Color = Color.RED
    part: Part = Part()
    moment: Timestamp | None = None
    parts: Annotated[tuple[Part, ...], ListMap(("low",)), Field(max_length=3)] = ()
    words: Annotated[tuple[Label, ...], Field(max_length=2)] = ()
    settings: Annotated[dict[str, Label], Field(max_length=4)] = Field(default_factory=dict)
    wide: Annotated[int, Field(ge=0, le=2**31)] = 0


WHOLE = structural_schema(Whole)


@pytest.mark.parametrize(
    ("field", "schema"),
    [
        (
            "required",
            {"type": "integer", "format": "int64", "minimum": 0, "exclusiveMinimum": True},
        ),
        (
            "optional",
            {
                "description": "A share.",
                "type": "number",
                "format": "double",
                "minimum": 0,
                "maximum": 1,
                "exclusiveMaximum": True,
            },
        ),
        ("constant", {"type": "string", "enum": ["only"], "default": "only"}),
        (
            "color",
            {
                "description": "What it looks like.",
                "type": "string",
                "enum": ["red", "blue"],
                "default": "red",
            },
        ),
        (
            "words",
            {
                "type": "array",
                "maxItems": 2,
                "default": [],
                "x-kubernetes-list-type": "atomic",
                "items": {"type": "string", "minLength": 1, "maxLength": 63},
            },
        ),
        (
            "wide",
            {"type": "integer", "format": "int64", "minimum": 0, "maximum": 2**31, "default": 0},
        ),
    ],
)
def test_a_field_becomes_structural(field: str, schema: Schema) -> None:
    assert WHOLE["properties"][field] == schema


def test_only_fields_without_a_default_are_required() -> None:
    assert WHOLE["required"] == ["required"]


def test_an_object_has_its_default_in_full_and_without_null() -> None:
    part = WHOLE["properties"]["part"]
    assert part["default"] == {"low": 0, "high": 9}
    assert part["description"] == "A part.\n\nIt has `two` ends."


def test_a_rule_stands_wherever_its_type_stands() -> None:
    rule = [{"rule": "self.low <= self.high", "message": "low must not exceed high"}]
    assert WHOLE["properties"]["part"]["x-kubernetes-validations"] == rule
    assert WHOLE["properties"]["parts"]["items"]["x-kubernetes-validations"] == rule
    assert "x-kubernetes-validations" not in WHOLE


def test_a_keyed_list_merges_by_its_keys() -> None:
    parts = WHOLE["properties"]["parts"]
    assert parts["x-kubernetes-list-type"] == "map"
    assert parts["x-kubernetes-list-map-keys"] == ["low"]


def test_a_time_has_a_format_and_a_pattern() -> None:
    moment = WHOLE["properties"]["moment"]
    assert moment["format"] == "date-time"
    assert moment["pattern"].startswith("^[1-9][0-9]{3}-")


@each_resource
def test_every_schema_is_structural_and_bounded(resource: Resource) -> None:
    assert list(check_structural(resource_schema(resource))) == []


TEXT = {"type": "string", "maxLength": 1}


@pytest.mark.parametrize(
    ("schema", "complaint"),
    [
        ({"type": "string"}, "a: a string without maxLength"),
        ({"type": "array", "items": TEXT}, "a: a list without maxItems"),
        ({"type": "array", "maxItems": 1}, "a: a list without items"),
        (
            {"type": "object", "additionalProperties": TEXT},
            "a: a map without maxProperties",
        ),
        (
            {"type": "object", "additionalProperties": False, "properties": {}},
            "a: additionalProperties must be a schema",
        ),
        ({"type": "object"}, "a: an object of which nothing is known"),
        (
            {"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}},
            "a{}: a string without maxLength",
        ),
        (
            {"type": "array", "maxItems": 1, "items": {"type": "string"}},
            "a[]: a string without maxLength",
        ),
        (
            {
                "type": "array",
                "maxItems": 1,
                "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": TEXT}},
            },
            "a: the list's key k is neither required nor has it a default",
        ),
        ({"anyOf": [TEXT]}, "a: anyOf has no place in a structural schema"),
        ({**TEXT, "title": "A"}, "a: title has no place in a structural schema"),
        ({**TEXT, "const": "x"}, "a: const has no place in a structural schema"),
        (
            {"type": "integer", "exclusiveMinimum": 0},
            "a: exclusiveMinimum must be a boolean",
        ),
        ({"type": "null"}, "a: type 'null' is none of a structural schema"),
    ],
)
def test_the_check_names_what_is_not_structural_or_not_bounded(
    schema: Schema, complaint: str
) -> None:
    assert complaint in list(check_structural({"type": "object", "properties": {"a": schema}}))


def fields_of(schema: Schema, path: str = "") -> list[tuple[str, Schema]]:
    """Every field in a schema, with its path."""
    found = []
    for name, child in schema.get("properties", {}).items():
        found += [(f"{path}.{name}", child), *fields_of(child, f"{path}.{name}")]
    return found + (fields_of(schema["items"], f"{path}[]") if "items" in schema else [])


@each_resource
def test_every_field_is_described(resource: Resource) -> None:
    fields = fields_of(resource_schema(resource))
    assert [path for path, it in fields if not it.get("description")] == [".metadata"]


def test_a_job_without_a_block_is_the_job_with_its_defaults() -> None:
    schema = resource_schema(RESOURCES[0])
    assert with_defaults(schema, JOB)["spec"] == FineTuneJob.model_validate(JOB).wire()["spec"]


@pytest.mark.parametrize(
    ("resource", "example"),
    list(zip(RESOURCES, (JOB, RATE_CARD, USAGE_RECORD), strict=True)),
    ids=("job", "card", "record"),
)
def test_what_is_written_is_read_again(resource: Resource, example: dict[str, Any]) -> None:
    model = resource.model.model_validate(example)
    assert resource.model.model_validate(model.wire()) == model


@each_resource
def test_the_written_crd_says_what_was_generated(resource: Resource) -> None:
    assert yaml.safe_load(crd_yaml(resource)) == custom_resource_definition(resource)


def test_a_crd_is_served_with_its_columns_names_and_status() -> None:
    spec = custom_resource_definition(RESOURCES[0])["spec"]
    assert spec["names"]["shortNames"] == ["ftj"]
    assert spec["names"]["categories"] == ["ml"]
    version = spec["versions"][0]
    assert version["subresources"] == {"status": {}}
    columns = [column["name"].upper() for column in version["additionalPrinterColumns"]]
    assert columns == "PHASE PROGRESS ETA LOSS COST ATTEMPT REASON AGE".split()
    card = custom_resource_definition(RESOURCES[1])["spec"]
    assert card["scope"] == "Cluster"
    assert "subresources" not in card["versions"][0]


def test_what_is_checked_in_is_what_the_types_say() -> None:
    for path, text in generated_files().items():
        assert (REPOSITORY / path).read_text() == text, f"{path}: run `make generate`"


def test_the_output_depends_on_nothing_but_the_types() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-m", "finetune_operator", "crds"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout.decode()
        for seed in ("1", "2")
    }
    assert printed == {"---\n".join(crd_yaml(resource) for resource in RESOURCES)}


def test_a_check_fails_on_a_difference_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    run = CliRunner()
    written = run.invoke(main, ["generate", "--root", str(tmp_path)])
    assert written.exit_code == 0, written.output
    assert run.invoke(main, ["generate", "--check", "--root", str(tmp_path)]).exit_code == 0
    page = tmp_path / "docs/reference.md"
    page.write_text("by hand")
    (tmp_path / "crds/old.yaml").touch()
    failed = run.invoke(main, ["generate", "--check", "--root", str(tmp_path)])
    assert failed.exit_code == 1
    assert "docs/reference.md" in failed.output
    assert "crds/old.yaml" in failed.output
    assert page.read_text() == "by hand"
    run.invoke(main, ["generate", "--root", str(tmp_path)])
    assert page.read_text() == generated_files()[Path("docs/reference.md")]
    assert not (tmp_path / "crds/old.yaml").exists()


def test_nothing_is_written_outside_a_checkout(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["generate", "--root", str(tmp_path)])
    assert refused.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_reference_names_every_field_rule_phase_code_and_variable() -> None:
    page = reference_page()
    for resource in RESOURCES:
        for path, _ in fields_of(resource_schema(resource)):
            assert f"| `{path.split('.')[-1]}` |" in page or path in {
                ".apiVersion",
                ".kind",
                ".metadata",
                ".spec",
                ".status",
            }
    for row in MEANINGS:
        assert row.meaning in page
    for phase in TRANSITIONS:
        assert f"| `{phase}` |" in page
    assert EXIT_MEANING.keys() == set(ExitCode)
    for code, meaning in EXIT_MEANING.items():
        assert f"| {int(code)} | {meaning} |" in page
    assert FAILURE_MEANING.keys() == set(FailureClass)
    assert ENV_MEANING.keys() == set(Env)
    for name in Env:
        assert f"| `{name}` |" in page
    assert Task.TEXT_CLASSIFICATION in page


def test_the_reference_tables_have_a_cell_for_each_column() -> None:
    width = 0
    for line in reference_page().splitlines():
        cells = line.replace("\\|", "").count("|")
        if not line.startswith("|"):
            width = 0
        else:
            assert width in {0, cells}, line
            width = cells
