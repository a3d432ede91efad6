"""The batches of a training: which samples, how they are augmented, where they go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inoculate.core.rng import generator
from inoculate.data.augment import augmenter
from inoculate.training.recipe import Recipe
from inoculate.training.samples import TrainingSet


@dataclass(frozen=True, eq=False)
class Batches:
    """The augmented batches of a training on `device`, in memory format `layout`. Each is decided by its number."""

    samples: TrainingSet
    batch_size: int
    seed: int
    augment: Callable[[Tensor, torch.Generator], Tensor]
    only_originals: bool  # copies stay as they were made
    device: torch.device
    layout: torch.memory_format

    @classmethod
    def of(
        cls, samples: TrainingSet, recipe: Recipe, seed: int, device: torch.device, layout: torch.memory_format
    ) -> Batches:
        samples = samples.to_device(device)
        augment = augmenter(recipe.augment, samples.data.image_size)
        only_originals = recipe.augment != "none" and not bool(samples.original.all())
        return cls(samples, recipe.batch_size, seed, augment, only_originals, device, layout)

    def load(self, update: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B×C×H×W) and labels (B) of an update, and their numbers (B) in the training set."""
        indices = batch_indices(len(self.samples), self.batch_size, update, self.seed)
        x, y, original = self.samples.batch(indices)
        if not self.only_originals:
            x = self.augment(x, draw)
        elif original.any():
            x[original] = self.augment(x[original], draw)
        return x, y, indices

    def place(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A part of a batch where the model is."""
        return x.to(self.device, memory_format=self.layout), y.to(self.device)


def batch_indices(size: int, batch_size: int, update: int, seed: int) -> Tensor:
    """The samples of one update: a window of an endless sequence of shuffles of `size` samples, known from its number
    alone."""
    position, parts = update * batch_size, []
    while batch_size:
        shuffle, offset = divmod(position, size)
        order = torch.randperm(size, generator=generator(seed, "order", shuffle))
        parts.append(order[offset : offset + batch_size])
        position, batch_size = position + len(parts[-1]), batch_size - len(parts[-1])
    return torch.cat(parts)
