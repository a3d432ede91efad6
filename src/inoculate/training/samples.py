"""The samples of a training: which images, each perturbed or not."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inoculate.attacks.craft import perturb
from inoculate.core.pixels import to_float
from inoculate.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """M training samples drawn from a dataset: sample i is image `image[i]`, moved by `eps[i]` along its direction.

    data: the images. image (M, int64): indices into it. eps (M, float): 0 for unperturbed samples. original (M, bool):
    true for clean originals, which alone may be augmented (rotating a stored adversarial would break its eps bound),
    false for appended copies. directions (int8, like the images): may be None if no eps is above 0.
    """

    data: Dataset
    image: Tensor
    eps: Tensor
    original: Tensor
    directions: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, data: Dataset) -> TrainingSet:
        """Every image of `data` once, unperturbed."""
        n = len(data)
        return cls(data, torch.arange(n), torch.zeros(n), torch.ones(n, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.image)

    def to_device(self, device: torch.device) -> TrainingSet:
        """The same samples, on `device` if it is a GPU with room for the images: there batches are drawn faster.

        They may take a quarter of its memory.
        """
        tensors = [self.data.images, *([] if self.directions is None else [self.directions])]
        if device.type != "cuda" or sum(t.nbytes for t in tensors) > torch.cuda.mem_get_info(device)[1] / 4:
            return self
        data = replace(self.data, images=self.data.images.to(device), labels=self.data.labels.to(device))
        directions = None if self.directions is None else self.directions.to(device)
        return TrainingSet(data, self.image.to(device), self.eps.to(device), self.original.to(device), directions)

    def batch(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Float images (B×C×H×W in [0, 1]), labels and `original` flags of these samples."""
        samples = samples.to(self.image.device)
        image, eps = self.image[samples], self.eps[samples]
        x, y = to_float(self.data.images[image]), self.data.labels[image]
        if self.directions is not None:
            x = perturb(x, self.directions[image], eps)
        return x, y, self.original[samples]
