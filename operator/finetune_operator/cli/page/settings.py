"""How the job was set up, and the digests that tell it from every other. Called by ``render``."""

from dataclasses import dataclass
from typing import Any

from finetune_operator.cli.page import figures
from finetune_operator.cli.page.facts import PageFacts


@dataclass(frozen=True)
class Block:
    """Settings that belong together: pairs of name and value."""

    name: str
    pairs: tuple[tuple[str, str], ...]


def settings(facts: PageFacts) -> tuple[Block, ...]:
    """What was resolved and frozen first, then each block of the spec with its defaults."""
    blocks = []
    if facts.status.resolved is not None:
        resolved = facts.status.resolved.wire()
        # The digest stands among the digests, the note at the page's head.
        told = {k: v for k, v in resolved.items() if k not in {"specDigest", "note"}}
        blocks.append(Block("resolved for this job", _pairs(told)))
    spec = facts.job.spec.wire()
    plain = {key: value for key, value in spec.items() if not isinstance(value, dict)}
    blocks.append(Block("job", _pairs(plain)))
    blocks += [Block(key, _pairs(value)) for key, value in spec.items() if isinstance(value, dict)]
    return tuple(block for block in blocks if block.pairs)


def digests(facts: PageFacts) -> tuple[tuple[str, str], ...]:
    """Name and digest of the job's spec, of what went in and of what came out."""
    found: list[tuple[str, str | None]] = []
    status, evaluation = facts.status, facts.evaluation
    data = facts.prepare.data if facts.prepare is not None else status.data
    if status.resolved is not None:
        found.append(("spec", status.resolved.spec_digest))
    if data is not None:
        found += [("source data", data.data_digest), ("split", data.split_digest)]
    if evaluation is not None:
        found.append(("evaluation inputs", evaluation.inputs_digest))
        if evaluation.predictions is not None:
            found.append((evaluation.predictions.path, evaluation.predictions.digest))
        if evaluation.model is not None:
            found.append((evaluation.model.path, evaluation.model.digest))
    if status.evaluation is not None:
        found.append((status.evaluation.report, status.evaluation.report_digest))
    found += [(artifact.name, artifact.digest) for artifact in status.artifacts]
    unique: dict[str, str] = {}
    for name, digest in found:
        if digest is not None and digest not in unique:
            unique[digest] = name
    return tuple((name, digest) for digest, name in unique.items())


def model(facts: PageFacts) -> tuple[tuple[str, str], ...]:
    """What the prepare step found out about the model."""
    found = facts.prepare.model if facts.prepare is not None else facts.status.model
    if found is None:
        return ()
    return (
        ("Architecture", found.architecture),
        ("Weights", figures.count(found.parameters)),
        ("Weights that are trained", figures.count(found.trainable_parameters)),
        ("Layers", figures.count(found.layers)),
        ("Hidden size", figures.count(found.hidden_size)),
        *(() if found.image else (("Vocabulary", figures.count(found.vocabulary)),)),
    )


# Any: a value of JSON-ready data.
def _pairs(block: dict[str, Any], prefix: str = "") -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for key, value in block.items():
        if isinstance(value, dict):
            pairs += _pairs(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for item in value:
                pairs.append((f"{prefix}{key}", ", ".join(f"{k} {v}" for k, v in item.items())))
        elif value not in ("", []):
            pairs.append((f"{prefix}{key}", _value(value)))
    return tuple(pairs)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
