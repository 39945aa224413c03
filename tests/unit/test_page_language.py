"""The page of a language model: its figures, its base's, and what both answer."""

import dataclasses
import html

from finetune_operator.cli.page import PageFacts
from finetune_operator.cli.page.render import page
from unit.builders_page import (
    a_contrast,
    a_group,
    a_job,
    a_status,
    an_interval,
    complete,
    evaluated,
    prepared,
)

SAID = "<|im_start|>user\nis 1 < 2?<|im_end|>"


def language_facts() -> PageFacts:
    report = evaluated(
        task="causal-lm",
        labels=[],
        metrics={
            "perplexity": an_interval(4.125, 3.9, 4.375),
            "bitsPerByte": an_interval(0.51, 0.49, 0.53),
            "tokenAccuracy": an_interval(0.71, 0.69, 0.73),
            "loss": an_interval(1.417, 1.361, 1.476),
        },
        perClass=[],
        confusionMatrix=[],
        baselines=[
            {
                "name": "untuned",
                "metrics": {
                    "perplexity": an_interval(11.25, 10.5, 12.0),
                    "bitsPerByte": an_interval(0.9, 0.88, 0.92),
                    "tokenAccuracy": an_interval(0.45, 0.43, 0.47),
                },
                "errorReduction": an_interval(0.47, 0.44, 0.5),
            }
        ],
        gate=[],
        generations=[
            {
                "rowId": "c7",
                "asked": SAID,
                "expected": "Yes.",
                "answered": "Yes, it is.",
                "untuned": "<script>",
            }
        ],
    )
    rows = prepared()
    tokens = rows.data.tokens
    assert tokens is not None
    tokens = tokens.model_copy(update={"learned": 51_234})
    data = rows.data.model_copy(update={"classes": (), "tokens": tokens})
    return dataclasses.replace(
        complete(),
        job=a_job(a_status(), task="causal-lm", evaluation={}, dataset={"train": "chats.jsonl"}),
        prepare=rows.model_copy(update={"data": data, "labels": (), "baselines": ()}),
        evaluation=report,
    )


def test_the_verdict_names_perplexity_and_the_untuned_model() -> None:
    text = html.unescape(page(language_facts())).replace("\u00a0", " ")
    assert "4.125 perplexity [3.900, 4.375]" in text
    assert "makes 47 % fewer wrong tokens than the untuned model (44 to 50 %)" in text
    assert "11.250 [10.500, 12.000]" in text


def test_answers_stand_side_by_side_as_they_were_written() -> None:
    text = page(language_facts())
    assert "What does it answer?" in text
    assert html.escape(SAID) in text
    assert "<script>" not in text
    assert "Yes, it is." in text


def test_groups_are_told_by_tokens_and_a_higher_loss_is_worse() -> None:
    facts = language_facts()
    assert facts.evaluation is not None
    north = a_group(
        "north",
        90,
        a_contrast("tokenAccuracy", 0.7, 0.72),
        a_contrast("loss", 1.6, 1.4, found=True),
    )
    few = a_group("south", 12, insufficient=["tokenAccuracy", "loss"])
    report = evaluated(
        **{
            **facts.evaluation.model_dump(by_alias=True, mode="json", exclude_none=True),
            "groups": [{"column": "origin", "groups": [north, few]}],
        }
    )
    text = html.unescape(page(dataclasses.replace(facts, evaluation=report))).replace("\u00a0", " ")
    loss = "loss (mean negative log-likelihood, nats) 1.600, the rest 1.400"
    assert f"It is found to be worse for north ({loss})." in text
    assert "Token accuracy of each group" in text
    assert "Amplification" not in text


def test_what_only_classifiers_have_is_left_out() -> None:
    text = page(language_facts())
    assert "Rows per class" not in text
    assert "Where does it fail?" not in text
    assert "Of them learned" in text
    assert "51,234" in text
    classifier = page(complete())
    assert "Rows per class" in classifier
    assert "Where does it fail?" in classifier
    assert "What does it answer?" not in classifier
    assert "Of them learned" not in classifier
