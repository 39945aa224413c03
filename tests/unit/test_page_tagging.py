"""The page of a tagger of words: spans where a classifier has rows."""

import dataclasses
import html

from finetune_operator.cli.page import PageFacts
from finetune_operator.cli.page.render import page
from unit.builders_page import a_job, a_status, an_interval, complete, evaluated, prepared


def tagging_facts() -> PageFacts:
    figures = ("microF1", "macroF1", "precision", "recall", "tokenAccuracy")
    report = evaluated(
        task="token-classification",
        labels=["B-PER", "I-PER", "O"],
        metrics={name: an_interval(0.91, 0.9, 0.92) for name in figures},
        perClass=[{"label": "PER", "precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 1234}],
        confusionMatrix=[],
        baselines=[
            {
                "name": "wordFeatures",
                "metrics": {
                    "microF1": an_interval(0.7, 0.69, 0.71),
                    "macroF1": an_interval(0.6, 0.59, 0.61),
                    "tokenAccuracy": an_interval(0.8, 0.79, 0.81),
                },
                "errorReduction": an_interval(0.47, 0.44, 0.5),
            }
        ],
        gate=[],
    )
    rows = prepared()
    unread = {"train": 7, "select": 1, "test": 2}
    data = type(rows.data).model_validate(rows.data.model_dump() | {"unread_words": unread})
    return dataclasses.replace(
        complete(),
        job=a_job(
            a_status(),
            task="token-classification",
            evaluation={},
            dataset={"train": "rows.conll"},
        ),
        prepare=rows.model_copy(update={"data": data, "baselines": ()}),
        evaluation=report,
    )


def test_types_have_spans_and_words_that_are_not_read_are_counted() -> None:
    text = html.unescape(page(tagging_facts())).replace("\u00a0", " ")
    assert "Per type." in text
    assert '<th scope="col" class="n">Spans</th>' in text
    assert "1,234" in text
    assert "train 7, select 1, test 2" in text
    assert "makes 47 % fewer wrong tags than tuned logistic regression on word features" in text
    assert "Confusion matrix" not in text
    assert "Calibrate them" not in text
    assert '<th scope="col" class="n">Test rows</th>' in html.unescape(page(complete()))


def test_a_weighted_loss_says_what_probabilities_are_worth() -> None:
    facts = complete()
    weighted = a_job(facts.status, training={"classWeights": {"balanced": True}})
    assert "It was trained with class weights" in page(dataclasses.replace(facts, job=weighted))
    drawn = a_job(facts.status, training={"sampling": "balanced"})
    assert "It was trained with balanced sampling" in page(dataclasses.replace(facts, job=drawn))
