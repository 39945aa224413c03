"""One rule, one file, in the order in which ``reconcile`` asks them. The first finding decides."""

from finetune_operator.core.policies.backoff import backoff
from finetune_operator.core.policies.baseline import baseline
from finetune_operator.core.policies.budget import budget
from finetune_operator.core.policies.deadline import deadline
from finetune_operator.core.policies.deletion import deletion
from finetune_operator.core.policies.expiry import expiry
from finetune_operator.core.policies.finished import finished
from finetune_operator.core.policies.gang import gang
from finetune_operator.core.policies.outcome import outcome
from finetune_operator.core.policies.pricing import pricing
from finetune_operator.core.policies.resize import resize
from finetune_operator.core.policies.stall import stall
from finetune_operator.core.policies.starting import starting
from finetune_operator.core.policies.suspension import suspension
from finetune_operator.core.policies.validity import validity
from finetune_operator.core.situation import Policy

POLICIES: tuple[Policy, ...] = (
    expiry,
    finished,
    deletion,
    outcome,
    validity,
    pricing,
    suspension,
    resize,
    baseline,
    budget,
    deadline,
    gang,
    starting,
    stall,
    backoff,
)
