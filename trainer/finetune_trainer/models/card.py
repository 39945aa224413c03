"""The model card: what is known of an exported model, from the facts of its job and no more.

Pure text; the export writes it as ``README.md`` beside the weights.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from finetune_api.balance import uncalibrated
from finetune_api.datareport import DataReport, PrepareReport
from finetune_api.evaluationreport import EvaluationReport
from finetune_api.lora import LoraOutput
from finetune_api.run import Run
from finetune_api.tasks import TASKS, Task
from finetune_trainer.models.card_evidence import cell, evidence, table
from finetune_trainer.models.heads import Head
from finetune_trainer.models.proof import Pipeline
from finetune_trainer.models.serving import KSERVE, VLLM

_INPUT = '["a text"]'
_INPUT_OF_WORDS = '[["a", "few", "words"]]'
_INPUT_OF_IMAGES = '["PATH/TO/AN/IMAGE"]'
_INPUT_OF_CHATS = '[[{"role": "user", "content": "a question"}]]'
UNKNOWN_LICENCE = "unknown"
_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---", re.DOTALL)


def base_licence(model_folder: Path) -> str:
    """The licence that the base model's own card states, or ``unknown``."""
    try:
        text = (model_folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return UNKNOWN_LICENCE
    matter = _FRONT_MATTER.match(text)
    try:
        stated = yaml.safe_load(matter[1]) if matter else None
    except yaml.YAMLError:
        return UNKNOWN_LICENCE
    licence = stated.get("license") if isinstance(stated, dict) else None
    return licence if isinstance(licence, str) and licence else UNKNOWN_LICENCE


def model_card(
    run: Run,
    prepared: PrepareReport,
    report: EvaluationReport,
    pipeline: Pipeline,
    head: Head,
    licence: str,
    serving: Iterable[str],
) -> str:
    """Write the card of a model that passed its gate.

    ``pipeline`` is how it is called, ``serving`` the paths of the manifests beside it.
    """
    parts = (
        _front_matter(run, pipeline, licence),
        f"# {run.job.name}\n\n{_origin(run, prepared)}",
        f"## Use\n\n{_use(run, pipeline, head)}",
        *((f"## Serve\n\n{serve}",) if (serve := _serve(run, serving)) else ()),
        *evidence(run, report),
        f"## Data\n\n{_data(prepared.data)}",
        f"## Training\n\n{_training(run, report)}",
        f"## Limits\n\n{_limits(run, report)}",
        f"## Licence\n\n{_licence(licence)}",
    )
    return "\n\n".join(parts) + "\n"


def _front_matter(run: Run, pipeline: Pipeline, licence: str) -> str:
    matter = {
        "library_name": "peft" if _is_adapter(run) else "transformers",
        "license": licence,
        "pipeline_tag": pipeline.task,
        "tags": [pipeline.task],
    }
    return f"---\n{yaml.safe_dump(matter, sort_keys=True)}---"


def _is_adapter(run: Run) -> bool:
    lora = run.model.adaptation
    return lora is not None and lora.output is LoraOutput.ADAPTER


def _origin(run: Run, prepared: PrepareReport) -> str:
    facts = TASKS[run.task]
    what = f"A {facts.model}"
    if prepared.labels:
        labels = ", ".join(f"`{cell(label)}`" for label in prepared.labels)
        what += f" with {len(prepared.labels)} outputs: {labels}"
    how = (
        "in full"
        if run.model.adaptation is None
        else f"with LoRA (rank {run.model.adaptation.rank})"
    )
    return (
        f"{what}.\n\n"
        f"Fine-tuned {how} from `{cell(run.model.uri)}` ({prepared.model.architecture}, "
        f"{prepared.model.parameters:,} parameters)."
    )


_ADAPTER = """\
from peft import PeftModel
from transformers import AutoConfig, {reader}, {imports}, pipeline

adapter, base = "PATH/TO/THIS/FOLDER", "PATH/TO/THE/BASE/MODEL"
config, {processor} = AutoConfig.from_pretrained(adapter), {reader}.from_pretrained(adapter)
model = {auto}.from_pretrained(base, config=config, dtype="float32")
{stops}model = PeftModel.from_pretrained(model, adapter).get_base_model()
model = pipeline("{task}", model=model, {processor}={processor}{settings})
"""

_STOPS = "model.generation_config = GenerationConfig.from_pretrained(adapter)\n"


def _use(run: Run, pipeline: Pipeline, head: Head) -> str:
    settings = "".join(f", {name}={value!r}" for name, value in pipeline.settings.items())
    call = "".join(f", {name}={value!r}" for name, value in pipeline.call.items())
    loading = (
        "from transformers import pipeline\n\n"
        f'model = pipeline("{pipeline.task}", model="PATH/TO/THIS/FOLDER"{settings})\n'
    )
    if _is_adapter(run):
        auto = head.auto.__name__
        loading = _ADAPTER.format(
            auto=auto,
            reader="AutoImageProcessor" if head.sees else "AutoTokenizer",
            processor=pipeline.processor,
            imports=f"{auto}, GenerationConfig" if head.generates else auto,
            stops=_STOPS if head.generates else "",
            task=pipeline.task,
            settings=settings,
        )
    return (
        f"```python\n{loading}"
        f"model({_input(run, head)}{call})\n"
        "```\n\n"
        f"{_OF_WORDS if head.reads_words else ''}"
        f"{_length(run)} Weights are in fp32, as they were "
        "scored; the answers of a plain pipeline were compared with the scored ones before the "
        "export."
    )


def _serve(run: Run, serving: Iterable[str]) -> str:
    """What the manifests beside the model are for; empty where there are none."""
    path = "chat/completions" if run.dataset.columns.messages else "completions"
    limits = ""
    if run.task is Task.TEXT_CLASSIFICATION:
        limits = " It tells the likeliest class, by no threshold and without the temperature below."
    said = {
        KSERVE: f"`{KSERVE}`: an InferenceService for KServe's Hugging Face runtime.{limits} A "
        "private store's keys come from a service account, as KServe's manual has it.",
        VLLM: f"`{VLLM}`: a Deployment and a Service that answer at `/v1/{path}` by vLLM, on one "
        "NVIDIA GPU. Name a version of its image before you rely on it.",
    }
    return "\n".join(f"- {said[path]}" for path in serving)


_OF_WORDS = (
    "The tag of a word is that of its first token; the others were not learned. On plain texts "
    '`pipeline(…, aggregation_strategy="first")` groups them so. A word beyond the length limit '
    "gets no tag, and counts below as one that was told to be outside.\n\n"
)


def _input(run: Run, head: Head) -> str:
    if head.reads_words:
        return _INPUT_OF_WORDS
    if head.sees:
        return _INPUT_OF_IMAGES
    return _INPUT_OF_CHATS if run.dataset.columns.messages else _INPUT


def _length(run: Run) -> str:
    if run.training.max_length is None:
        return "Images are turned upright, read as RGB and resized as its image processor says."
    if TASKS[run.task].packs:
        return f"It learned from rows of at most {run.training.max_length} tokens."
    return f"Texts are read up to {run.training.max_length} tokens."


def _data(data: DataReport) -> str:
    dropped = sum(reason.rows for reason in data.cleaning if reason.dropped)
    rows = [
        ("rows read", f"{data.read_rows}"),
        ("dropped in cleaning", f"{dropped}"),
        ("train", f"{data.train_rows}"),
        ("select (best checkpoint)", f"{data.select_rows}"),
        ("test", f"{data.test_rows}"),
        ("digest of the source", data.data_digest),
        ("digest of the split", data.split_digest),
    ]
    text = table(("data", ""), rows)
    if data.tokens is not None and data.tokens.truncated_rows:
        text += f"\n\n{data.tokens.truncated_rows} training rows were cut to the length limit."
    if data.unread_words is not None:
        text += (
            f"\n\nWords that the model did not get to read: {data.unread_words.train} of the "
            f"training rows, {data.unread_words.test} of the test rows."
        )
    return text


def _training(run: Run, report: EvaluationReport) -> str:
    lora = run.model.adaptation
    rows = [
        *_settings(run.training.wire()),
        *_settings({"lora": lora.wire()} if lora else {}),
        ("step of this checkpoint", str(report.checkpoint_step)),
        ("digest of the manifest's spec", run.spec_digest),
    ]
    return table(("setting", "value"), rows)


def _settings(stated: Mapping[str, Any], block: str = "") -> list[tuple[str, str]]:
    """What is set, a line each; those of a block with its name before theirs."""
    lines: list[tuple[str, str]] = []
    for name, value in stated.items():
        if isinstance(value, Mapping):
            lines += _settings(value, f"{block}{name}.")
        elif value is not None and value != []:
            lines.append((f"{block}{name}", str(value)))
    return lines


def _limits(run: Run, report: EvaluationReport) -> str:
    which = "other" if report.groups else "some"
    lines = [
        "- The figures hold for rows drawn as these were; other sources were not measured.",
        f"- {_length(run)}",
        f"- Whether it does worse for {which} groups of people was not measured.",
    ]
    rare = [scores for scores in report.per_class if scores.support < 30]
    if rare:
        names = ", ".join(f"`{cell(scores.label)}` ({scores.support})" for scores in rare[:10])
        lines.append(f"- Fewer than 30 {TASKS[report.task].support}, so hardly measured: {names}.")
    if note := uncalibrated(run.training):
        lines.append(f"- {note}")
    if run.smoke:
        lines.append("- A smoke run of a few steps: it proves the way, the model is of no use.")
    if report.metrics[TASKS[report.task].headline].low is None:
        lines.append("- Too few test rows or groups for intervals.")
    return "\n".join(lines)


def _licence(licence: str) -> str:
    if licence == UNKNOWN_LICENCE:
        return "Unknown: neither the job nor the base model's card states one."
    return (
        f"`{cell(licence)}` is what the base model's card states. Terms of the training data are "
        "unknown and may add to it."
    )
