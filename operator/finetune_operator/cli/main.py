"""The command line: ``finetune``, and ``kubectl finetune``.

Exit codes are those of the trainer: 0 done, 1 failed (by its gate or otherwise), 64 manifest or
usage, 65 data, 70 the run itself, 74 storage, 75 stopped with the work saved.

What a command needs it imports itself, so that help and a mistake in a manifest come at once.
"""

import io
import json
import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

import click

from finetune_api.architectures import TESTED
from finetune_api.report import ExitCode
from finetune_api.tasks import Task
from finetune_operator.cli.errors import CommandError
from finetune_operator.cli.manifest import Manifest, ManifestError, read_manifests
from finetune_operator.core.policies.validity import spec_problems

_FILES = click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="A manifest, or - for standard input; once more for a rate card in a file of its own.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(installed_version("finetune-operator"), prog_name="finetune")
def commands() -> None:
    """Fine-tune models from one manifest, and prove what came of it."""


@commands.command()
@_FILES
@click.option(
    "--workspace",
    type=click.Path(path_type=Path),
    help="Folder for everything that the run makes (default: .finetune/NAME).",
)
@click.option("--smoke", is_flag=True, help="Go the whole way in 20 steps, to prove that it works.")
@click.option("-q", "--quiet", is_flag=True, help="Print only what the run ends with.")
@click.option(
    "--output",
    type=click.Choice(["auto", "table", "lines"]),
    default="auto",
    show_default=True,
    help="A live table, or a line per change; auto: a table on a terminal.",
)
def run(
    files: tuple[Path, ...], workspace: Path | None, output: str, *, smoke: bool, quiet: bool
) -> None:
    """Run a job on this machine; Ctrl-C saves and stops, the same command goes on."""
    from finetune_operator.cli.run import Options, run_job

    options = Options(workspace=workspace, smoke=smoke, output="quiet" if quiet else output)
    sys.exit(run_job(_read(files), options))


@commands.command(name="predict")
@click.argument("model", metavar="MODEL_DIR", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "rows",
    required=True,
    type=click.Path(path_type=Path),
    help="Rows as JSONL: an object in each line; - for standard input.",
)
@click.option(
    "--output",
    "answers",
    required=True,
    type=click.Path(path_type=Path),
    help="File for the answers as JSONL, in the order of the rows; - for standard output.",
)
@click.option(
    "--column",
    help="What the model is asked about (default: text; tokens of a tagger, prompt of a language "
    "model, which may be messages).",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, 131_072),
    help="The longest answer of a language model (default: 256).",
)
def predict_rows(
    model: Path, rows: Path, answers: Path, column: str | None, max_new_tokens: int | None
) -> None:
    """Run a finished model on rows; one that can't be read is named, and the rest goes on."""
    from finetune_operator.cli.predict import Question, predict

    question = Question(
        model=model, rows=rows, answers=answers, column=column, max_new_tokens=max_new_tokens
    )
    predict(question)


@commands.command()
@click.option("--task", type=click.Choice([task.value for task in Task]), help="Of one task only.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people, or for programs.",
)
def models(task: str | None, output: str) -> None:
    """List the architectures that each task is tested with."""
    chosen = {one.value: kinds for one, kinds in TESTED.items() if task in (None, one.value)}
    if output == "json":
        click.echo(json.dumps(chosen, indent=2))
        return
    width = max(map(len, chosen))
    for name, kinds in chosen.items():
        click.echo(f"{name:<{width}}  {', '.join(kinds)}")


@commands.command()
@_FILES
def validate(files: tuple[Path, ...]) -> None:
    """Say everything that is wrong with a manifest, without running it."""
    manifest = _read(files)
    cards = f" and {len(manifest.rate_cards)} rate card(s)" if manifest.rate_cards else ""
    click.echo(f"FineTuneJob {manifest.job.metadata.name}{cards}: valid")


@commands.command()
@click.argument("job", metavar="[NAME | WORKSPACE]", required=False)
@click.option("-n", "--namespace", help="Of a job on a cluster (default: the context's).")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File for the page of a job on a cluster (default: NAME.html).",
)
def report(job: str | None, namespace: str | None, output: Path | None) -> None:
    """Write a job's page anew, and print where it lies.

    NAME is a job on the cluster that kubectl talks to; a folder is the workspace of a local run.
    """
    from finetune_operator.cli.report import rewrite_report, write_cluster_report

    local = namespace is None and (job is None or "/" in job or Path(job).is_dir())
    if local and output is not None:
        raise CommandError(
            "--output goes with a job on a cluster: a workspace has its own report.html",
            ExitCode.USAGE,
        )
    if job is None and namespace is not None:
        raise CommandError("--namespace goes with a job's name: give it", ExitCode.USAGE)
    if local or job is None:
        page = rewrite_report(Path(job) if job else None)
    else:
        page = write_cluster_report(
            job, namespace, output, lambda said: click.echo(f"note: {said}", err=True)
        )
    click.echo(page)


def _read(files: tuple[Path, ...]) -> Manifest:
    """The manifest, or every problem with it, each on a line of its own."""
    try:
        manifest = read_manifests(files)
    except ManifestError as error:
        raise CommandError("\n".join(map(str, error.problems)), ExitCode.USAGE) from error
    problems = list(spec_problems(manifest.job.spec, local=True))
    if problems:
        raise CommandError("\n".join(map(str, problems)), ExitCode.USAGE)
    return manifest


def main() -> None:
    """Run a command; what went wrong is one message and an exit code."""
    _settle_streams()
    try:
        commands(standalone_mode=False)
    except CommandError as error:
        _fail(str(error), error.code)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", ExitCode.STOPPED)
    except OSError as error:
        _fail(f"{error.filename or 'standard output'}: {error.strerror}", ExitCode.STORAGE)


def _settle_streams() -> None:
    """Have somewhere to write, whatever the shell has closed and whichever characters it takes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # The lowest free descriptor is the closed one: no file of ours may come to be it.
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (to the process's end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
