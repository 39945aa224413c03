"""Images as batches: scaled as the processor does, varied only as asked, by their row alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.images import Augmentation
from finetune_trainer.data.pixels import PixelForm, Pixels
from finetune_trainer.training.augmentation import Variation, drawn, vary
from finetune_trainer.training.image_batches import ImageBatches
from finetune_trainer.training.plan import Balance, StepPlan
from finetune_trainer.training.rows import PreparedRows, StepStream

HEIGHT, WIDTH = 6, 9
RANDOM = np.random.RandomState(5)
FACTOR, SHIFT = RANDOM.randn(2, 3).astype(np.float32)
BATCHES = ImageBatches(PixelForm(HEIGHT, WIDTH, FACTOR, SHIFT))
IMAGES = RANDOM.randint(0, 256, (23, 3, HEIGHT, WIDTH)).astype(np.uint8)
ROWS = PreparedRows(
    Dataset.from_dict(
        {"pixels": [image.tobytes() for image in IMAGES], "label": list(range(len(IMAGES)))}
    ),
    BATCHES,
)
EVERY: dict[str, Any] = {
    "horizontal_flip": True,
    "vertical_flip": True,
    "min_crop_percent": 40,
    "shift_percent": 30,
    "rotation_degrees": 90,
    "brightness_percent": 50,
    "contrast_percent": 50,
}
few = settings(max_examples=60, deadline=None)
draws = st.lists(st.floats(0, 1, exclude_max=True), min_size=10, max_size=10)


def test_values_are_scaled_channel_by_channel() -> None:
    batch, tokens = ROWS.batch([4, 0])
    expected = [[FACTOR[c] * IMAGES[row][c] + SHIFT[c] for c in range(3)] for row in (4, 0)]
    assert np.array_equal(batch["pixel_values"].numpy(), np.asarray(expected))
    assert batch["labels"].tolist() == [4, 0]
    assert tokens.tolist() == [0, 0], "images have no tokens"


@few
@given(draws)
def test_nothing_is_varied_unasked(numbers: list[float]) -> None:
    assert np.array_equal(vary(IMAGES[0], Augmentation(), numbers), IMAGES[0])


@few
@given(draws, st.sampled_from(sorted(EVERY)))
def test_each_operation_keeps_form_and_mirrors_only_if_asked(
    numbers: list[float], name: str
) -> None:
    varied = vary(IMAGES[0], Augmentation(**{name: EVERY[name]}), numbers)
    assert (varied.shape, varied.dtype) == (IMAGES[0].shape, np.uint8)
    if name == "horizontal_flip":
        expected = IMAGES[0][:, :, ::-1] if numbers[0] < 0.5 else IMAGES[0]
        assert np.array_equal(varied, expected)
    if name == "vertical_flip":
        assert np.array_equal(varied, IMAGES[0][:, ::-1] if numbers[1] < 0.5 else IMAGES[0])
    if name == "shift_percent":
        assert {*varied[0].ravel()} <= {*IMAGES[0][0].ravel()}, "no pixel is made up"


def centers(operation: str) -> Pixels:
    """An image varied by numbers in the middle of what is possible."""
    return vary(IMAGES[0], Augmentation(**{operation: EVERY[operation]}), [0.5] * 10)


@pytest.mark.parametrize(
    "operation", ["shift_percent", "rotation_degrees", "brightness_percent", "contrast_percent"]
)
def test_what_goes_either_way_leaves_the_middle_as_it_is(operation: str) -> None:
    assert np.array_equal(centers(operation), IMAGES[0])


def test_what_varies_a_row_depends_on_the_seed_and_its_turn() -> None:
    assert len({drawn(seed, turn) for seed in range(3) for turn in range(9)}) == 27
    assert drawn(1, 2) == drawn(1, 2)
    # These numbers are part of every training: a resume may find another release of numpy.
    assert drawn(42, 7)[:2] == (0.6709312963429097, 0.7238867787743019)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_row_that_is_drawn_again_within_an_epoch_is_varied_anew(ranks: int) -> None:
    # One row of a rare class, which balanced sampling draws for half of the epoch.
    classes = np.array([0] + [1] * (len(IMAGES) - 1))
    seen = [
        batch["pixel_values"][place].numpy().tobytes()
        for rank in range(ranks)
        for batch in itertools.islice(stream(ranks, rank, balance=Balance(classes)), 6)
        for place, label in enumerate(batch["labels"].tolist())
        if batch["real"][place] and label == 0
    ]
    assert len(seen) >= len(IMAGES) // 2
    assert len(set(seen)) == len(seen)


def stream(
    ranks: int, rank: int, first_step: int = 0, balance: Balance | None = None
) -> StepStream:
    plan = StepPlan(
        rows=len(IMAGES),
        global_batch_size=8,
        micro_batch_size=4 // ranks,
        accumulation_steps=2,
        world_size=ranks,
        seed=1,
        balance=balance,
    )
    variation = Variation(Augmentation(**EVERY), 1, BATCHES)
    return StepStream(ROWS, plan, rank=rank, first_step=first_step, total_steps=7, vary=variation)


def pixels_of(ranks: int, first_step: int = 0) -> list[dict[int, bytes]]:
    """The pixels of each row of each step from ``first_step`` on, over all ranks."""
    steps: list[dict[int, bytes]] = [{} for _ in range(first_step, 7)]
    for rank in range(ranks):
        for number, batch in enumerate(stream(ranks, rank, first_step)):
            for place, label in enumerate(batch["labels"].tolist()):
                if batch["real"][place]:
                    pixels = batch["pixel_values"][place].numpy().tobytes()
                    steps[number // 2][label] = pixels
    return steps


def test_a_global_batch_holds_the_same_pixels_on_any_gang_and_after_a_resume() -> None:
    whole = pixels_of(1)
    assert [len(step) for step in whole] == [8, 8, 7] * 2 + [8]
    assert pixels_of(2) == whole
    assert pixels_of(4) == whole
    assert pixels_of(2, first_step=4) == whole[4:]
    both = [{**whole[0], **whole[1], **whole[2]}, {**whole[3], **whole[4], **whole[5]}]
    assert all(both[0][row] != both[1][row] for row in range(len(IMAGES))), "each epoch anew"
