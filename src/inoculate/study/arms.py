"""The arms of a study that differ in their data: which copies of which training images, with which perturbation.

`transferred` appends a surrogate's adversarial examples to the clean images; its controls append the same number of
copies with random noise of the same size, or without any.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inoculate.attacks.craft import SCALE, AdvSet
from inoculate.core.errors import InputError
from inoculate.core.options import require_one_of
from inoculate.core.rng import generator, seed_for
from inoculate.data.dataset import Dataset
from inoculate.data.scratch import parts_of, scratch
from inoculate.data.split import undersample
from inoculate.study.arm_names import ARMS, WITH_COPIES
from inoculate.training.samples import TrainingSet


def training_set(
    arm: str,
    data: Dataset,
    epsilons: tuple[float, ...],
    *,
    seed: int,
    balance: bool = True,
    adversarial: AdvSet | None = None,
) -> TrainingSet:
    """The training data of `arm`.

    `standard` is the data itself. The other arms undersample it to equal classes (if `balance`). Those with copies
    then append, for every eps, one copy of each image: perturbed by `adversarial` (`transferred`), by a random ±eps
    (`noise`), or not at all (`duplicates`). With `balance` the copies are undersampled to as many as the originals:
    one per image, its eps drawn at random. Raises `InputError` for an unknown arm.
    """
    require_one_of(ARMS, arm=arm)
    if arm == "standard":
        return TrainingSet.of(data)
    clean = torch.arange(len(data))
    if balance:
        clean = torch.as_tensor(undersample(data.labels, seed_for(seed, "undersample")))
    if arm not in WITH_COPIES:
        return TrainingSet(data, clean, torch.zeros(len(clean)), torch.ones(len(clean), dtype=torch.bool))
    if balance:
        choice = torch.randint(len(epsilons), clean.shape, generator=generator(seed, "copies"))
        copies, eps = clean, torch.tensor(epsilons)[choice]
    else:
        copies, eps = clean.repeat(len(epsilons)), torch.tensor(epsilons).repeat_interleave(len(clean))
    directions = _directions(arm, data, epsilons, seed, adversarial)
    return TrainingSet(
        data,
        torch.cat([clean, copies]),
        torch.cat([torch.zeros(len(clean)), eps if directions is not None else torch.zeros(len(copies))]),
        torch.cat([torch.ones(len(clean)), torch.zeros(len(copies))]).bool(),
        directions,
    )


def _directions(
    arm: str, data: Dataset, epsilons: tuple[float, ...], seed: int, adversarial: AdvSet | None
) -> Tensor | None:
    if arm == "duplicates":
        return None
    if arm == "noise":
        draw, noise = generator(seed, "noise"), scratch(data.images.shape, torch.int8)
        for rows in parts_of(noise):
            signs = torch.randint(0, 2, noise[rows].shape, generator=draw, dtype=torch.int8)
            noise[rows] = (signs * 2 - 1) * SCALE
        return noise
    if adversarial is None:
        raise InputError("arm 'transferred' needs adversarial examples: craft them on a surrogate first")
    adversarial.check_eps(epsilons)
    return adversarial.direction
