"""Digests of the contract's objects: what must be the same for a run to be taken up again."""

import hashlib
import json
from typing import Any

from finetune_api.job import FineTuneJob
from finetune_api.markers import Digest

FROZEN_BLOCKS = ("task", "model", "dataset", "training", "deepspeed", "checkpoint", "evaluation")
"""Blocks of the spec that never change once a job is admitted; ``compute`` but for its workers."""


def frozen_part(job: FineTuneJob) -> dict[str, Any]:
    """The part of the spec that is immutable once admitted, as JSON-ready data.

    Defaults are filled in, so that writing one out changes nothing.
    """
    spec = job.spec.model_dump(mode="json", by_alias=True)
    part = {block: spec[block] for block in FROZEN_BLOCKS}
    part["compute"] = {key: value for key, value in spec["compute"].items() if key != "workers"}
    return part


def spec_digest(job: FineTuneJob) -> Digest:
    """SHA-256 over the canonical JSON (sorted keys, no spaces) of the immutable part."""
    canonical = json.dumps(frozen_part(job), sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
