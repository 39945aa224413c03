"""The schema's rules, asked without an API server: types, defaults and places as it has them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.schema import Schema
from finetune_operator.cli.rules import violations, with_defaults
from harness.objects import RULE_EXAMPLES, Object, RuleExample, schema_of


def broken(schema: Schema, value: Any) -> list[str]:
    """The messages of the rules that a value breaks."""
    return [it.message for it in violations(schema, with_defaults(schema, value), wrong=())]


def ruled(rule: str, **fields: Schema) -> Schema:
    """An object with these fields and one rule."""
    return {
        "type": "object",
        "properties": fields,
        "x-kubernetes-validations": [{"rule": rule, "message": "broken"}],
    }


@pytest.mark.parametrize(
    "example", [it for it in RULE_EXAMPLES if it.before is None], ids=lambda it: it.rule
)
def test_an_example_breaks_its_rule_alone(example: RuleExample) -> None:
    assert broken(schema_of(example.accepted), example.accepted) == []
    (message,) = broken(schema_of(example.rejected), example.rejected)
    assert message.startswith(example.rule)


@pytest.mark.parametrize(
    "obj", [it.before for it in RULE_EXAMPLES if it.before is not None], ids=lambda it: it["kind"]
)
def test_a_transition_rule_waits_for_an_earlier_state(obj: Object) -> None:
    assert broken(schema_of(obj), obj) == []


def test_a_number_is_a_double_however_it_was_written() -> None:
    schema = ruled("self.share / 2.0 < 1.0", share={"type": "number"})
    assert broken(schema, {"share": 1}) == []
    assert broken(schema, {"share": 2}) == ["broken"]


def test_a_default_is_seen_by_the_rules() -> None:
    schema = ruled("self.size > 3", size={"type": "integer", "default": 3})
    assert broken(schema, {}) == ["broken"]
    assert broken(schema, {"size": 4}) == []


def test_a_rule_that_can_not_be_computed_is_broken() -> None:
    schema = ruled("self.a / self.b > 0", a={"type": "integer"}, b={"type": "integer"})
    assert broken(schema, {"a": 1, "b": 0}) == ["broken"]
    assert broken(schema, {"a": 1}) == ["broken"]


def test_a_mistake_silences_the_rules_about_it_and_no_others() -> None:
    inner = ruled("self.y > 0", y={"type": "integer"})
    schema = ruled("self.x > 0 && self.part.y > 1", x={"type": "integer"}, part=inner)
    value = {"x": 0, "part": {"y": 0}}
    places = {
        wrong: [it.path for it in violations(schema, value, wrong=wrong)]
        for wrong in ((), (("x",),), (("part", "y"),), (("part",),), (("z",),))
    }
    assert places == {
        (): [(), ("part",)],
        (("x",),): [("part",)],
        (("part", "y"),): [],
        (("part",),): [],
        (("z",),): [(), ("part",)],
    }
