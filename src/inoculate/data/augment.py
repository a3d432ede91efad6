"""Random augmentation of image batches: every image is varied independently and stays in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.core.errors import InputError

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Policy:
    """Ranges of random changes; the defaults change nothing.

    rotate, skew: degrees to either side. shift: fraction of the side. scale: factor. crop: fraction of the side that is
    kept and then enlarged. flip: probability of a horizontal flip. brightness: 1 + the amount added to every pixel.
    noise: standard deviation, in [0, 1] pixel units, on a random half of the images. padding: what fills pixels from
    outside the image (`zeros`, `border` or `reflection`). whole_pixels: shift by whole pixels without resampling; only
    `shift` and `flip` apply then.
    """

    rotate: float = 0.0
    shift: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[float, float] = (1.0, 1.0)
    skew: float = 0.0
    flip: float = 0.0
    brightness: tuple[float, float] = (1.0, 1.0)
    noise: float = 0.0
    padding: str = "zeros"
    whole_pixels: bool = False


POLICIES: dict[str, Policy] = {
    "none": Policy(),
    # no flip: a mirrored 2 is not a digit; no crop: it would cut off strokes
    "digits": Policy(rotate=12, shift=0.1, scale=(0.85, 1.15), skew=8, brightness=(0.8, 1.2), noise=0.03),
    "photos": Policy(
        rotate=12,
        shift=0.08,
        scale=(0.9, 1.1),
        crop=(0.8, 1.0),
        skew=6,
        flip=0.5,
        brightness=(0.75, 1.25),
        noise=0.02,
        padding="reflection",
    ),
    # the usual augmentation of CIFAR-10: shifts of up to 4 of 32 pixels, and flips
    "shifts": Policy(shift=0.125, flip=0.5, whole_pixels=True),
}


def default_policy(name: str) -> str:
    """The policy for a dataset's name: `digits` for handwritten characters, else `photos`."""
    return "digits" if any(word in name.lower() for word in ("mnist", "digit", "svhn", "usps")) else "photos"


def augmenter(policy: str, image_size: int | tuple[int, int]) -> Augment:
    """A function (images, generator) -> images that augments every image of a batch independently.

    Images are float B×C×H×W in [0, 1] with (H, W) = `image_size`, and stay so. The result depends on the images and
    the generator alone: the global random state is neither read nor changed. Raises `InputError` for an unknown policy.
    """
    if policy not in POLICIES:
        raise InputError(f"unknown augmentation {policy!r}: choose one of {', '.join(POLICIES)}")
    chosen = POLICIES[policy]
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if chosen == Policy():
        return lambda images, generator: images
    steps = [] if chosen.whole_pixels else _kornia_operations(chosen)

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        if tuple(images.shape[-2:]) != size:
            raise InputError(f"augmentation was made for images of {size}, got {tuple(images.shape)}")
        if chosen.whole_pixels:
            return _shift_and_flip(images, generator, chosen)
        draw = torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
        devices = [images.device] if images.device.type == "cuda" else []
        # kornia draws from the global state, which is restored after
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            # not torch.manual_seed, which would reseed every accelerator and not only those that the fork restores
            torch.default_generator.manual_seed(int(draw))
            if devices:
                with torch.cuda.device(images.device):
                    torch.cuda.manual_seed(int(draw))
            for step in steps:
                images = step(images)
        return images.clamp(0.0, 1.0)

    return augment


@torch.no_grad()
def _shift_and_flip(images: Tensor, generator: torch.Generator, policy: Policy) -> Tensor:
    """Every image shifted by whole pixels, filled with black, and flipped at random, for the whole batch at once."""
    count, _, height, width = images.shape
    rows, columns = (round(policy.shift * side) for side in (height, width))
    draws = torch.rand(3, count, 1, generator=generator, device=generator.device).to(images.device, non_blocking=True)
    padded = F.pad(images, (columns, columns, rows, rows))
    down = (draws[0] * (2 * rows + 1)).long() + torch.arange(height, device=images.device)
    across = torch.arange(width, device=images.device)
    across = (draws[1] * (2 * columns + 1)).long() + torch.where(draws[2] < policy.flip, width - 1 - across, across)
    every = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[every, down[:, :, None], across[:, None, :]].permute(0, 3, 1, 2)


def _kornia_operations(policy: Policy) -> list[Callable[[Tensor], Tensor]]:
    """Kornia operations for a policy; all geometric changes but the flip share one resampling."""
    import kornia.augmentation as K

    # cropping a fraction c of the side and enlarging it is a scale of 1/c whose window may lie anywhere inside
    lower, upper = policy.scale[0] / policy.crop[1], policy.scale[1] / policy.crop[0]
    room = policy.shift + (1 - policy.crop[0]) / 2
    steps: list[Any] = [
        K.RandomAffine(
            degrees=policy.rotate,
            translate=(room, room),
            scale=(lower, upper),
            shear=(-policy.skew, policy.skew, -policy.skew, policy.skew),
            padding_mode=policy.padding,
            p=1.0,
            same_on_batch=False,
        )
    ]
    if policy.flip:
        steps.append(K.RandomHorizontalFlip(p=policy.flip, same_on_batch=False))
    if policy.brightness != (1.0, 1.0):
        steps.append(K.RandomBrightness(policy.brightness, p=1.0, same_on_batch=False))
    if policy.noise:
        steps.append(K.RandomGaussianNoise(std=policy.noise, p=0.5, same_on_batch=False))
    return steps
