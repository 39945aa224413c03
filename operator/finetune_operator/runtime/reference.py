"""The reference page's part on the operator's process: its settings and its series."""

from collections.abc import Iterable

from finetune_operator.kube.cache import Cache
from finetune_operator.kube.resources import FINETUNE_JOBS, USAGE_RECORDS
from finetune_operator.runtime.metrics import OperatorMetrics
from finetune_operator.runtime.settings import ENV_MEANING


def operator_reference() -> str:
    """Settings by environment, and the metrics of ``/metrics``, as Markdown."""
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
