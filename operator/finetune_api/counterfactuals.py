"""FineTuneJob.spec.evaluation.counterfactuals: terms that should make no difference."""

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_api.markers import Cel, Contract, Label, ListMap, rules

NEUTRAL = "neutral"
"""How the control is called among the swaps."""

Term = Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$", min_length=1, max_length=64)]
Pair = Annotated[tuple[Term, ...], Field(min_length=2, max_length=2)]
Pairs = Annotated[
    tuple[Pair, ...],
    Field(
        min_length=1,
        max_length=100,
        description="Pairs such as [he, she]. Each term becomes its partner wherever it stands as "
        "a word of its own, the longest term first, all at once and both ways; a term of several "
        "pairs becomes its first partner. A term in small letters is found with a capital and in "
        "capitals too, and its partner is written alike; others are found as they are written.",
    ),
]
_DIFFERENT = "self.{}.all(pair, pair.size() != 2 || pair[0] != pair[1])"


@rules(
    Cel(
        f"self.name != '{NEUTRAL}'",
        f"evaluation.counterfactuals.swaps: {NEUTRAL} names the control; take another name",
    ),
    Cel(
        _DIFFERENT.format("pairs"),
        "evaluation.counterfactuals.swaps: a term is its own partner; write two different ones",
    ),
)
class Swap(Contract):
    """Terms that are swapped together: of a text about him one about her."""

    name: Annotated[Label, Field(description="A name for reports and requirements.")]
    pairs: Pairs


@rules(
    Cel(
        _DIFFERENT.format("neutral"),
        "evaluation.counterfactuals.neutral: a term is its own partner; write two different ones",
    )
)
class Counterfactuals(Contract):
    """Terms that should not matter: is the answer another one where they are swapped.

    Each test row that holds a term is asked again with the terms swapped. How often the answer
    changes is shown beside how often it changes by a neutral swap: no model is deaf to words.
    """

    swaps: Annotated[
        tuple[Swap, ...],
        ListMap(("name",)),
        Field(min_length=1, max_length=12, description="What is swapped, each for itself."),
    ]
    neutral: Annotated[
        Pairs,
        Field(
            description="The control, swapped alike: pairs of frequent words that mean the same to "
            "the task, such as [Monday, Tuesday]. A pair is not drawn, for what is neutral follows "
            "from the task."
        ),
    ]
