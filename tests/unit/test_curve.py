"""A loss curve: bounded, and each of its points the mean of as many steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.reporting.curve import Curve

# Drawn lists are mostly short, and a point stands for one step until there are more than forty.
LOSSES = st.integers(1, 500).map(lambda steps: [step * 37 % 101 / 10 for step in range(steps)])


def curve(losses: list[float]) -> Curve:
    """The curve of a training with these losses, a step each."""
    made = Curve()
    for step, loss in enumerate(losses, 1):
        made.add_loss(step, loss)
    return made


@given(LOSSES)
def test_each_point_is_the_mean_of_its_stretch(losses: list[float]) -> None:
    made = curve(losses)
    points = made.points()
    assert len(points) <= 40
    for point in points:
        stretch = losses[point.step - made.stride : point.step]
        assert point.loss == pytest.approx(sum(stretch) / made.stride)
    assert [point.step for point in points] == [
        made.stride * n for n in range(1, len(losses) // made.stride + 1)
    ]


@given(LOSSES)
def test_the_newest_loss_is_the_mean_of_as_many_steps_as_a_point(losses: list[float]) -> None:
    made = curve(losses)
    newest = losses[-made.stride :]
    assert made.newest_loss == pytest.approx(sum(newest) / len(newest))
