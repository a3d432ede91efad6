"""A small CNN on scikit-learn's digits, shared by several tests."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from inoculate.core.pixels import to_float
from inoculate.data.dataset import Dataset


@lru_cache
def every_digit() -> Dataset:
    """All of scikit-learn's digits (1,797, 8×8, grey)."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images / 16 * 255).round().to(torch.uint8)[:, None]
    return Dataset.from_tensors(images, torch.from_numpy(data.target).long(), name="digits")


@lru_cache
def trained_digits() -> tuple[nn.Module, Dataset]:
    """A small CNN trained on 1,200 of the digits, in eval mode, and the other 597."""
    images, labels = every_digit().images, every_digit().labels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(8):
            for rows in train[torch.randperm(1200)].split(50):
                optimizer.zero_grad()
                F.cross_entropy(model(to_float(images[rows])), labels[rows]).backward()
                optimizer.step()
    return model.eval().requires_grad_(False), Dataset.from_tensors(images[test], labels[test], name="digits")
