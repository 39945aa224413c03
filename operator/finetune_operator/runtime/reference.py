"""The reference page's part on the operator: what failures lead to, its settings and series."""

from collections.abc import Iterable

from finetune_api.report import FAILURE_MEANING
from finetune_operator.core.failures import RESPONSES, Response
from finetune_operator.kube.cache import Cache
from finetune_operator.kube.resources import FINETUNE_JOBS, USAGE_RECORDS
from finetune_operator.runtime.metrics import OperatorMetrics
from finetune_operator.runtime.settings import ENV_MEANING

_FOLLOWS: dict[Response, str] = {
    Response.RETRY_FREE: "Tried again, not counted.",
    Response.RETRY_CHARGED: "Tried again, counted against `policy.backoffLimit`.",
    Response.ADAPT: "Tried again in less memory, as long as there is a way; not counted.",
    Response.FAIL_NOW: "The job fails.",
}


def operator_reference() -> str:
    """Failures, settings by environment, and the metrics of ``/metrics``, as Markdown."""
    failures = (
        (f"`{name}`", meaning, _FOLLOWS[RESPONSES[name]])
        for name, meaning in FAILURE_MEANING.items()
    )
    settings = ((f"`{name}`", meaning) for name, meaning in ENV_MEANING.items())
    families = OperatorMetrics(Cache(FINETUNE_JOBS), Cache(USAGE_RECORDS)).registry.collect()
    series = (
        (
            f"`{family.name}{'_total' if family.type == 'counter' else ''}`",
            family.type,
            family.documentation,
        )
        for family in sorted(families, key=lambda family: family.name)
    )
    return "\n".join(
        [
            "",
            "## Failures of an attempt",
            "",
            "The `reason` of one that failed, in `status.attempts`.",
            "",
            _table(("reason", "meaning", "what follows"), failures),
            "## Environment of the operator",
            "",
            "Set by the chart (`operator.…` and `trainer.…` in its values).",
            "",
            _table(("variable", "meaning"), settings),
            "## Metrics of the operator",
            "",
            "Served at `/metrics`, beside `/healthz` and `/readyz`.",
            "",
            _table(("series", "type", "meaning"), series),
        ]
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
