"""Several classifiers as one: the mean of their logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inoculate.core.calls import call
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of


class AveragedLogits(nn.Module):
    """The mean of the logits of `models`: examples crafted on it transfer better than those of any single one.

    Each model takes the same images (B×C×H×W in [0, 1], its normalisation inside) and gives logits B×K of the same K
    classes. Raises `InputError` for fewer than two models, and for models on different devices; a pass, where one does
    not take the images or gives another number of logits.
    Source: Liu et al. 2017, section 4; ensemble in logits: Dong et al. 2018, section 3.3.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(models) < 2:
            raise InputError(f"{len(models)} model has no average: give at least two")
        if len({device_of(model) for model in models}) > 1:
            raise InputError("models on different devices cannot be averaged: move them to one")
        self.models = nn.ModuleList(models)

    def forward(self, x: Tensor) -> Tensor:
        logits = [call(model, x) for model in self.models]
        shapes = {tuple(each.shape[1:]) for each in logits}
        if len(shapes) > 1:
            counts = ", ".join(str(each.shape[-1]) for each in logits)
            raise InputError(f"the averaged models give {counts} logits: they must know the same classes")
        return torch.stack([each.float() for each in logits]).mean(dim=0)
