"""``finetune-operator``: the operator's process, and what is made from the contract's types.

The chart's Deployment calls ``run``; ``make generate`` calls ``generate`` after a change of the
types, CI with ``--check``.
"""

import sys
from pathlib import Path

import click
import yaml

from finetune_api.reference import reference_page
from finetune_api.schema import RESOURCES, Resource, custom_resource_definition

_HEADER = "# Generated from the types in operator/finetune_api by `make generate`; don't edit.\n"


@click.group()
def main() -> None:
    """Run FineTune Operator's server side."""


@main.command()
def run() -> None:
    """Run the operator; its settings come from the environment (docs/reference.md)."""
    # Imported here: the other commands need no client, and start at once.
    from finetune_operator.runtime.operator import run as run_operator
    from finetune_operator.runtime.settings import OperatorSettings, SettingsError

    try:
        settings = OperatorSettings.from_env()
    except SettingsError as error:
        raise click.ClickException(str(error)) from error
    sys.exit(run_operator(settings))


@main.command()
def crds() -> None:
    """Print the CRDs, for `kubectl apply --server-side -f -`."""
    click.echo("---\n".join(crd_yaml(resource) for resource in RESOURCES), nl=False)


@main.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if a file differs.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path(),
    help="The checkout to write into (by default the current folder).",
)
def generate(*, check: bool, root: Path) -> None:
    """Write crds/ and docs/reference.md from the types."""
    wanted = generated_files()
    if not (root / "pyproject.toml").is_file():
        raise click.UsageError(f"{root.resolve()} is no checkout of the project: give --root")
    strangers = {path.relative_to(root) for path in (root / "crds").glob("*")} - wanted.keys()
    differing = [path for path, text in wanted.items() if _text_of(root / path) != text] + sorted(
        strangers
    )
    if check and differing:
        names = ", ".join(str(path) for path in differing)
        raise click.ClickException(f"{names}: not what the types say; run `make generate`")
    if not check:
        for path, text in wanted.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text, encoding="utf-8")
        for path in strangers:
            (root / path).unlink()
        click.echo(f"{len(wanted)} files, {len(differing)} changed")


def crd_yaml(resource: Resource) -> str:
    """A resource's CRD as it stands in crds/."""
    definition = custom_resource_definition(resource)
    return _HEADER + yaml.safe_dump(definition, sort_keys=False, allow_unicode=True, width=100)


def generated_files() -> dict[Path, str]:
    """Every generated file, by its path in the checkout."""
    files = {Path("crds") / f"{resource.name}.yaml": crd_yaml(resource) for resource in RESOURCES}
    # Imported here: it loads a Kubernetes client, which the other commands don't need.
    from finetune_operator.runtime.reference import operator_reference

    files[Path("docs/reference.md")] = reference_page() + operator_reference()
    return files


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


if __name__ == "__main__":
    sys.exit(main())
