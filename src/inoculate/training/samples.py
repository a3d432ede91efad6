"""The paper's method is data preparation: which copies of which training images, with which perturbation.

Every arm of the study is a `TrainingSet`. `transferred` appends a surrogate's adversarial examples to the clean images;
its controls append the same number of copies with random noise of the same size, or with nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from inoculate.attacks.craft import SCALE, AdvSet, perturb
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.rng import generator, seed_for
from inoculate.data.dataset import Dataset
from inoculate.data.split import undersample
from inoculate.training.methods.names import ARMS, WITH_COPIES


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """M training samples drawn from a split: sample i is image `image[i]`, moved by `eps[i]` along its direction.

    `image` (M, int64) indexes `split`; `eps` (M, float) is 0 for unperturbed samples; `original` (M, bool) tells the
    clean originals, which alone may be augmented (turning a stored adversarial would break its eps bound), from the
    appended copies; `directions` (int8, one per image of the split) may be missing if no eps is above 0.
    """

    split: Dataset
    image: Tensor
    eps: Tensor
    original: Tensor
    directions: Tensor | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.image)

    def near(self, device: torch.device) -> TrainingSet:
        """The same samples, on `device` if it is a GPU with room for the images: it takes them faster than they come.

        Room is a quarter of its memory, so that the training has the rest.
        """
        tensors = [self.split.images, *([] if self.directions is None else [self.directions])]
        if device.type != "cuda" or sum(t.nbytes for t in tensors) > torch.cuda.mem_get_info(device)[1] / 4:
            return self
        split = replace(self.split, images=self.split.images.to(device), labels=self.split.labels.to(device))
        directions = None if self.directions is None else self.directions.to(device)
        return TrainingSet(split, self.image.to(device), self.eps.to(device), self.original.to(device), directions)

    def batch(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Float images (B×C×H×W in [0, 1]), labels and `original` flags of these samples."""
        samples = samples.to(self.image.device)
        image, eps = self.image[samples], self.eps[samples]
        x, y = to_float(self.split.images[image]), self.split.labels[image]
        if self.directions is not None:
            x = perturb(x, self.directions[image], eps)
        return x, y, self.original[samples]


def training_set(
    arm: str,
    split: Dataset,
    epsilons: tuple[float, ...],
    *,
    seed: int,
    balance: bool = True,
    adversarial: AdvSet | None = None,
) -> TrainingSet:
    """The training data of `arm`.

    `standard` is the split itself. The other arms undersample it to equal classes (if `balance`). Those with copies
    then append, for every eps, one copy of each image: perturbed by `adversarial` (`transferred`), by a random ±eps
    (`noise`), or not at all (`duplicates`). With `balance` the copies are undersampled to as many as the originals:
    one per image, its eps drawn at random. Raises `InputError` for an unknown arm.
    """
    if arm not in ARMS:
        raise InputError(f"arm '{arm}' is unknown: use one of {', '.join(ARMS)}")
    clean = torch.arange(len(split))
    if balance and arm != "standard":
        clean = torch.as_tensor(undersample(split.labels, seed_for(seed, "undersample")))
    if arm not in WITH_COPIES:
        return TrainingSet(split, clean, torch.zeros(len(clean)), torch.ones(len(clean), dtype=torch.bool))
    if balance:
        choice = torch.randint(len(epsilons), clean.shape, generator=generator(seed, "copies"))
        copies, eps = clean, torch.tensor(epsilons)[choice]
    else:
        copies, eps = clean.repeat(len(epsilons)), torch.tensor(epsilons).repeat_interleave(len(clean))
    directions = _directions(arm, split, epsilons, seed, adversarial)
    return TrainingSet(
        split,
        torch.cat([clean, copies]),
        torch.cat([torch.zeros(len(clean)), eps if directions is not None else torch.zeros(len(copies))]),
        torch.cat([torch.ones(len(clean)), torch.zeros(len(copies))]).bool(),
        directions,
    )


def _directions(
    arm: str, split: Dataset, epsilons: tuple[float, ...], seed: int, adversarial: AdvSet | None
) -> Tensor | None:
    if arm == "duplicates":
        return None
    if arm == "noise":
        signs = torch.randint(0, 2, split.images.shape, generator=generator(seed, "noise"), dtype=torch.int8)
        return (signs * 2 - 1) * SCALE
    if adversarial is None:
        raise InputError("arm 'transferred' needs adversarial examples: craft them on a surrogate first")
    adversarial.check_eps(epsilons)
    return adversarial.direction
