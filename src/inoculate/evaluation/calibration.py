"""The images on which eight-bit networks are calibrated."""

from __future__ import annotations

from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike, as_dataset, load_data
from inoculate.evaluation.inputs import is_spec
from inoculate.models.loading.inputs import expected_preprocessing, fit_channels
from inoculate.models.loading.load import ModelLike, as_module

CALIBRATION = 256  # images, balanced over the classes


def calibration_images(
    given: DataLike | None, data: DataLike, model: ModelLike, images: Dataset, seed: int = 0
) -> tuple[Tensor, list[str]]:
    """Images (N×C×H×W floats in [0, 1], N ≤ 256) for the calibration of a network, and a note on where they come from.

    They are `given`, else the training part of a data SPEC, else the `images` themselves. Raises `InputError` where
    they have another shape than `images`.
    """
    chosen, notes = images, []
    if given is not None:
        chosen = as_dataset(given)
    elif is_spec(data):
        reading = expected_preprocessing(str(model)) if is_spec(model) else None
        read = load_data(data, "train") if reading is None else load_data(data, "train", preprocessing=reading)
        chosen = fit_channels(read, as_module(model, read))
    else:
        notes = ["int8 is calibrated on the measured images themselves: give other images as calibration"]
    shapes = [(each.channels, *each.image_size) for each in (chosen, images)]
    if shapes[0] != shapes[1]:
        own, other = ("×".join(map(str, shape)) for shape in shapes)
        raise InputError(f"images for the calibration are {own} and the measured ones {other}: read both alike")
    return to_float(chosen.limit(min(CALIBRATION, len(chosen)), seed=seed).images), notes
