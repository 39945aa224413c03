"""A job's checkpoints are of one number of workers, and are resumed on no other yet."""

from finetune_api.phases import Reason
from finetune_operator.core.situation import Finding, Situation, Verdict


def resize(situation: Situation) -> Finding | None:
    """Suspend while ``spec.compute.workers`` is another number than the job was admitted with.

    An engine that maps the gang to its machine decides the number itself, and is not asked.
    """
    resolved = situation.status.resolved
    observed = situation.observed
    if resolved is None or observed.engine.max_ranks is not None:
        return None
    wanted = observed.job.spec.compute.workers
    if wanted == resolved.workers:
        return None
    return Finding(
        verdict=Verdict.SUSPEND,
        reason=Reason.INVALID_SPEC,
        message=f"spec.compute.workers is {wanted}, but the job's work is of {resolved.workers} "
        f"workers, and can't be resumed on another number yet: set it back to {resolved.workers}",
    )
