"""A piece of what several ranks wrote, laid end to end: any cut, and zeros where nothing is."""

from __future__ import annotations

import pytest
import torch

from finetune_trainer.training.reshard import piece

PARTS = [torch.arange(1.0, 4.0), torch.arange(4.0, 6.0), torch.empty(0), torch.arange(6.0, 7.0)]


@pytest.mark.parametrize(
    ("start", "size", "length", "expected"),
    [
        (0, 6, None, [1, 2, 3, 4, 5, 6]),
        (2, 2, None, [3, 4]),
        (3, 5, None, [4, 5, 6, 0, 0]),
        (6, 2, None, [0, 0]),
        (3, 3, 5, [4, 5, 0]),
        (4, 2, 3, [0, 0]),
    ],
)
def test_a_piece_is_what_lies_there(
    start: int, size: int, length: int | None, expected: list[float]
) -> None:
    assert piece(PARTS, start, size, length).tolist() == expected
