"""The page of a classifier of images: what the images were like, and which were told wrong."""

import dataclasses
import html

from finetune_api.datareport import ImageStatistics, Spread
from finetune_api.evaluationreport import Mistake
from finetune_operator.cli.page import PageFacts
from finetune_operator.cli.page.render import page
from unit.builders_page import a_job, a_status, complete, evaluated, prepared


def image_facts() -> PageFacts:
    rows = prepared()
    images = ImageStatistics(
        width=Spread(min=320, median=640.0, max=4032),
        height=Spread(min=480, median=480.0, max=480),
        modes={"RGB": 7500, "L": 12},
        read_width=224,
        read_height=224,
        effective_rows=6998.4,
    )
    mistake = Mistake(
        row_id="cat/<b>.png", truth="negative", predicted="positive", probability=0.97
    )
    data = rows.data.model_copy(update={"tokens": None, "texts": None, "images": images})
    job = a_job(
        a_status(), task="image-classification", training={}, dataset={"train": "pvc://demo/photos"}
    )
    return dataclasses.replace(
        complete(),
        job=job,
        prepare=rows.model_copy(update={"data": data}),
        evaluation=evaluated().model_copy(update={"mistakes": (mistake,)}),
    )


def told(facts: PageFacts) -> str:
    return html.unescape(page(facts)).replace("\u00a0", " ")


def test_the_training_images_are_told_in_words() -> None:
    text = told(image_facts())
    assert "The training images, as they came" in text
    assert "320 to 4,032, median 640" in text
    assert "RGB 7,500, L 12" in text
    assert "224 × 224 pixels, RGB" in text
    assert "6,998.4 of" in text
    assert "without near copies would be as many kinds" in text
    assert "in tokens" not in text


def test_the_surest_mistakes_are_named_by_row() -> None:
    text = page(image_facts())
    assert "The mistakes that the model was surest of" in text
    assert "cat/&lt;b&gt;.png" in text
    assert "97" in text
    assert "surest of" not in page(complete())
