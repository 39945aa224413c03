"""Digests of the contract's objects: what must be the same for a run to be taken up again."""

import hashlib
import json
from typing import Any

from finetune_api.job import FROZEN_BLOCKS, FineTuneJob
from finetune_api.markers import Digest
from finetune_api.run import Run


def frozen_part(job: FineTuneJob, *, defaults: bool = True) -> dict[str, Any]:
    """The part of the spec that is immutable once admitted, as JSON-ready data.

    With or without the fields that equal their default.
    """
    spec = job.spec.model_dump(mode="json", by_alias=True, exclude_defaults=not defaults)
    part = {block: spec[block] for block in FROZEN_BLOCKS if block in spec}
    compute = spec.get("compute", {})
    part["compute"] = {key: value for key, value in compute.items() if key != "workers"}
    return part


def spec_digest(job: FineTuneJob) -> Digest:
    """SHA-256 over the canonical JSON (sorted keys, no spaces) of the immutable part.

    What equals its default is left out: writing it out changes nothing, and a version that knows
    more fields takes up the runs of an earlier one.
    """
    return _digest(frozen_part(job, defaults=False))


def run_digest(run: Run) -> Digest:
    """SHA-256 over the canonical JSON of a run: two gangs with the same one do the same."""
    return _digest(run.wire())


def _digest(data: dict[str, Any]) -> Digest:
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
