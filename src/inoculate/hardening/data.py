"""The images that a hardening trains on, validates on and measures on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from inoculate.core.progress import Progress
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike, load_parts
from inoculate.data.preprocessing import AS_THEY_ARE, Preprocessing
from inoculate.hardening.options import HardeningOptions
from inoculate.models.loading.inputs import expected_preprocessing, fit_channels
from inoculate.models.loading.load import ModelLike
from inoculate.training.samples import TrainingSet

SPEC_SEED = 0  # of the division of a data SPEC, whatever the seed of a run: so runs share the test part


@dataclass(frozen=True, eq=False)
class HardeningData:
    """Disjoint images for updates (`train`), choice of weights (`val`) and measurements (`test`); threat and seed.

    reading: how the images were read, as far as it was said or the model says it. is_random: whether the network that
    they are for gives other outputs at a second pass. certify: whether accuracies are proven beside the attacks.
    """

    train: Dataset
    val: Dataset
    test: Dataset
    threat: Threat
    seed: int
    reading: Preprocessing = AS_THEY_ARE
    is_random: bool = False
    certify: bool = False

    @property
    def samples(self) -> TrainingSet:
        """The training images as they are."""
        return TrainingSet.of(self.train)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return (self.train.channels, *self.train.image_size)


def fit_data(data: HardeningData, model: nn.Module, declared: Preprocessing) -> HardeningData:
    """`data` with the channels that the module needs."""
    train, val, test = (fit_channels(part, model, declared) for part in (data.train, data.val, data.test))
    return replace(data, train=train, val=val, test=test)


def load_hardening_data(
    data: DataLike | Mapping[str, DataLike],
    model: ModelLike,
    threat: Threat,
    options: HardeningOptions,
    progress: Progress | None = None,
) -> HardeningData:
    """Train, validation and test images, at the size and with the channels that a trained folder `model` expects.

    A data SPEC has parts of its own, the same for every seed; other data are divided 70/10/20 %, stratified, by
    `options.seed`. A mapping gives parts by name.
    """
    needed = AS_THEY_ARE
    if isinstance(model, str | Path):
        needed = expected_preprocessing(str(model), weights=options.weights, normalize=options.normalize)
    if not isinstance(data, str | os.PathLike):  # has been cropped already
        needed = Preprocessing(image_size=needed.image_size, channels=needed.channels)
    reading = options.reading.over(needed)
    seed = SPEC_SEED if isinstance(data, str | os.PathLike) else options.seed
    train, val, test = load_parts(
        data, data_root=options.data_root, preprocessing=reading, seed=seed, progress=progress
    )  # fmt: skip
    if options.limit is not None:
        train = train.limit(options.limit, seed=options.seed)
    test = test.limit(options.test_images, seed=options.seed)
    return HardeningData(train, val, test, threat, options.seed, reading)
