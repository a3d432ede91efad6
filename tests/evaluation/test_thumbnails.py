"""Which images are kept small beside an evaluation, and that they come back from disk."""

import numpy as np
import pytest
import torch
from evaluation_samples import measured
from torch import nn

from inoculate.attacks.fgsm import FGSM
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.thumbnails import MOST, MOST_CLEAN_ERRORS, SIDE


class Brightness(nn.Module):
    """Class 1 where the mean is above one half, with a margin that grows with the distance from it."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def grey(values, labels, side=4):
    pixels = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, side, side).contiguous()
    return Dataset.from_tensors(pixels, torch.tensor(labels), ("dark", "light"))


def test_the_nearest_to_the_boundary_come_first_and_clean_errors_before_them():
    data = grey([200, 140, 100, 120, 150], [1, 1, 1, 0, 1])  # the third is wrong without an attack
    found = measured(Brightness(), data, [FGSM()], [Threat(eps=0.04), Threat(eps=0.1)])
    assert found.thumbnails.numbers.tolist() == [2, 3, 1, 4]  # 200 stands at every eps
    assert found.thumbnails.pixels[:, 0, 0, 0].tolist() == [100, 120, 140, 150]


def test_clean_errors_do_not_take_every_place_and_large_images_are_small():
    values, labels = [100] * 40 + [130] * 40, [1] * 80
    found = measured(Brightness(), grey(values, labels, side=2 * SIDE), [FGSM()], [Threat(eps=0.1)]).thumbnails
    assert len(found.numbers) == MOST
    assert sum(number < 40 for number in found.numbers.tolist()) == MOST_CLEAN_ERRORS
    assert found.pixels.shape[1:] == (SIDE, SIDE, 1)


@pytest.mark.parametrize("values", [[130, 120], [255, 0]])
def test_they_are_read_back_and_do_not_outlive_their_run(tmp_path, values):
    other = measured(Brightness(), grey([128, 127], [1, 0]), [FGSM()], [Threat(eps=0.1)])
    other.save(tmp_path)
    found = measured(Brightness(), grey(values, [1, 0]), [FGSM()], [Threat(eps=0.1)])
    found.save(tmp_path)
    loaded = Evaluation.load(tmp_path).thumbnails
    assert np.array_equal(loaded.numbers, found.thumbnails.numbers)
    assert np.array_equal(loaded.pixels, found.thumbnails.pixels)
    assert (tmp_path / "thumbnails.npz").is_file() == (values[0] == 130)
