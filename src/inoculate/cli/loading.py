"""A command's model and images, loaded for each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from inoculate.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from inoculate.data.dataset import Dataset


class Asked(NamedTuple):
    """What a command was asked to load: the options of the same names."""

    model: str
    data: str
    weights: Path | None
    pretrained: bool
    outputs: str
    normalize: str | None
    split: str
    data_root: Path | None
    limit: int | None
    seed: int


class Loaded(NamedTuple):
    """The network, its images, how they were read, and what looks wrong, one line each."""

    network: nn.Module
    images: Dataset
    reading: Preprocessing
    warnings: list[str]


def load(asked: Asked, preprocessing: Preprocessing) -> Loaded:
    """Read the images as the options say, else as the network expects them, and load the network for them.

    Raises `InputError` for what cannot be loaded, or does not fit together.
    """
    from inoculate.evaluation.inputs import load_images, random_weights_warning
    from inoculate.models.loading.inputs import expected_preprocessing, fit_channels
    from inoculate.models.loading.load import load_model

    model, weights, pretrained, normalize = asked.model, asked.weights, asked.pretrained, asked.normalize
    expected = expected_preprocessing(model, pretrained=pretrained, weights=weights, normalize=normalize)
    reading = preprocessing.over(expected)
    images = load_images(
        asked.data, asked.split, reading, data_root=asked.data_root, limit=asked.limit, seed=asked.seed
    )
    network = load_model(
        model, images, weights=weights, pretrained=pretrained, outputs=asked.outputs, normalize=normalize
    )
    warnings = [] if weights or pretrained else random_weights_warning(model)
    return Loaded(network, fit_channels(images, network, preprocessing), reading, warnings)


def groups_by(column: str | None, asked: Asked, images: Dataset) -> dict[str, tuple[str, ...]]:
    """The group of each image by the column that `--by` names; nothing without one."""
    from inoculate.data.metadata import read_column

    return {column: read_column(asked.data, column, images, data_root=asked.data_root)} if column else {}
