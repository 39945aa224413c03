"""Batch normalization where the model computes in 16 bit and its statistics do not."""

from __future__ import annotations

import copy
from datetime import timedelta

import pytest
import torch

from finetune_api.images import BatchNorm
from finetune_trainer.errors import UsageError
from finetune_trainer.training.batch_norm import Norms
from finetune_trainer.training.gang import Gang
from finetune_trainer.training.place import Place


@pytest.fixture
def gang() -> Gang:
    """Give a gang of one rank, which has nobody to talk to."""
    place = Place(rank=0, world_size=1, local_rank=0, local_world_size=1)
    return Gang(place, torch.device("cpu"), step_timeout=timedelta(minutes=1))


@pytest.mark.parametrize("treatment", [BatchNorm.FROZEN, BatchNorm.TRAIN])
@pytest.mark.parametrize("keeps_statistics", [True, False])
def test_in_16_bit_a_layer_normalizes_as_in_fp32(
    gang: Gang, treatment: BatchNorm, *, keeps_statistics: bool
) -> None:
    torch.manual_seed(3)
    plain = torch.nn.BatchNorm2d(4, track_running_stats=keeps_statistics)
    torch.nn.init.uniform_(plain.weight)
    wide = copy.deepcopy(plain)
    wide.weight.data, wide.bias.data = wide.weight.bfloat16(), wide.bias.bfloat16()
    plain.weight.data = wide.weight.data.float()
    norms = Norms(wide, treatment, gang)
    norms.keep_wide()
    for layer in (plain, wide):
        layer.train(treatment is BatchNorm.TRAIN)
    values = torch.randn(3, 4, 5, 5).bfloat16()
    torch.testing.assert_close(wide(values), plain(values.float()).bfloat16())
    if keeps_statistics:
        torch.testing.assert_close(wide.running_mean, plain.running_mean)
        torch.testing.assert_close(wide.running_var, plain.running_var)


def test_means_over_all_batches_are_not_trained_in_16_bit(gang: Gang) -> None:
    norms = Norms(torch.nn.BatchNorm2d(4, momentum=None), BatchNorm.TRAIN, gang)
    with pytest.raises(UsageError, match=r"set training\.precision to fp32"):
        norms.keep_wide()
