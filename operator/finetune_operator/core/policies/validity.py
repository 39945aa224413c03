"""A manifest that can't work holds the job before admission: every problem at once."""

from collections.abc import Iterator

from finetune_api.job import FineTuneJobSpec
from finetune_api.phases import ConditionType, Reason
from finetune_operator.core.conditions import is_true
from finetune_operator.core.observed import Problem
from finetune_operator.core.situation import Finding, Situation, Verdict


def validity(situation: Situation) -> Finding | None:
    """Hold a job that isn't admitted yet while something is wrong with its spec."""
    if is_true(situation.status.conditions, ConditionType.ADMITTED):
        return None
    observed = situation.observed
    problems = [
        *observed.problems,
        *spec_problems(observed.job.spec, local=observed.engine.max_ranks is not None),
    ]
    if not problems:
        return None
    return Finding(
        verdict=Verdict.HOLD,
        reason=Reason.INVALID_SPEC,
        message="; ".join(str(problem) for problem in problems),
        admitted=False,
    )


def spec_problems(spec: FineTuneJobSpec, *, local: bool) -> Iterator[Problem]:
    """What the schema's rules can't say of a spec."""
    labels = spec.dataset.labels
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        yield Problem(field="spec.dataset.labels", message=f"{', '.join(twice)} stands there twice")
    if local:
        return
    sources = (
        ("spec.model.uri", spec.model.uri),
        ("spec.dataset.train", spec.dataset.train),
        ("spec.dataset.test", spec.dataset.test),
    )
    for field, uri in sources:
        if uri is not None and "://" not in uri:
            yield Problem(
                field=field,
                message=f"{uri} is a path, which only a local run can read: use pvc://CLAIM/PATH",
            )
