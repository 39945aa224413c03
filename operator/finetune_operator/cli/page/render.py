"""Lays the computed sections out with the templates beside it, and writes the page."""

import os
import tempfile
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from finetune_operator.cli.page import figures
from finetune_operator.cli.page.attempts import attempts
from finetune_operator.cli.page.costs import costs
from finetune_operator.cli.page.curve import loss_curve
from finetune_operator.cli.page.data import data
from finetune_operator.cli.page.evidence import evidence
from finetune_operator.cli.page.facts import PageFacts
from finetune_operator.cli.page.settings import digests, model, settings
from finetune_operator.cli.page.verdict import tiles, verdict

_PACKAGE = "finetune_operator.cli.page"
_TEMPLATES = Environment(
    loader=PackageLoader(_PACKAGE, "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(path: Path, facts: PageFacts) -> None:
    """Write the page in whole, or leave the earlier one.

    Raises OSError where the folder can't be written.
    """
    content = page(facts).encode()
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as new:
        try:
            new.write(content)
            new.flush()
            os.fchmod(new.fileno(), 0o644)
            Path(new.name).replace(path)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise


def page(facts: PageFacts) -> str:
    """The page as HTML: it loads nothing from anywhere and runs no script."""
    status = facts.status
    resolved = status.resolved
    return _TEMPLATES.get_template("report.html").render(
        style=_style(),
        job=facts.job.metadata,
        task=facts.job.spec.task,
        verdict=verdict(facts),
        tiles=tiles(facts),
        smoke=resolved is not None and resolved.smoke,
        note=resolved.note if resolved is not None else "",
        begun=figures.moment(status.start_time) if status.start_time else None,
        ended=figures.moment(status.completion_time) if status.completion_time else None,
        costs=costs(facts),
        curve=loss_curve(facts),
        evidence=evidence(facts),
        attempts=attempts(facts),
        data=data(facts),
        model=model(facts),
        settings=settings(facts),
        digests=digests(facts),
    )


def _style() -> Markup:
    # The project's own file; it is not escaped because CSS has quotes and '>' in it.
    return Markup(files(_PACKAGE).joinpath("templates/style.css").read_text(encoding="utf-8"))  # noqa: S704
