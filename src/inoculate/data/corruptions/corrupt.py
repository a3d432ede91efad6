"""Common corruptions of images, at five severities (Hendrycks and Dietterich 2019)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inoculate.core.errors import InputError, suggest
from inoculate.core.rng import seed_for
from inoculate.data.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from inoculate.data.corruptions.digital import elastic_transform, jpeg_compression, pixelate
from inoculate.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from inoculate.data.corruptions.weather import brightness, contrast, fog, frost, snow

SMALL = 96  # pixels of the shorter side below which the constants of CIFAR-10-C are taken
SEVERITIES = (1, 2, 3, 4, 5)
_Constants = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption: its group, its function, and the constants of its severities.

    `small` are those of CIFAR-10-C (32 pixels), `large` those of ImageNet-C (224 pixels), as published.
    """

    group: str
    function: Callable[..., Any]
    small: _Constants
    large: _Constants


def _each(*values: float) -> _Constants:
    return [(value,) for value in values]


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        "noise", gaussian_noise, _each(0.04, 0.06, 0.08, 0.09, 0.10), _each(0.08, 0.12, 0.18, 0.26, 0.38)
    ),
    "shot_noise": Corruption("noise", shot_noise, _each(500, 250, 100, 75, 50), _each(60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(
        "noise", impulse_noise, _each(0.01, 0.02, 0.03, 0.05, 0.07), _each(0.03, 0.06, 0.09, 0.17, 0.27)
    ),
    "defocus_blur": Corruption(
        "blur", defocus_blur,
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)], [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
    ),
    "glass_blur": Corruption(
        "blur", glass_blur,
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
        [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
    ),
    "motion_blur": Corruption(
        "blur", motion_blur,
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)], [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
    ),
    "zoom_blur": Corruption(
        "blur", zoom_blur,
        [(1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)],
        [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)],
    ),
    "snow": Corruption(
        "weather", snow,
        [
            ((0.1, 0.2, 1, 0.6), (8, 3), 0.95), ((0.1, 0.2, 1, 0.5), (10, 4), 0.9),
            ((0.15, 0.3, 1.75, 0.55), (10, 4), 0.9), ((0.25, 0.3, 2.25, 0.6), (12, 6), 0.85),
            ((0.3, 0.3, 1.25, 0.65), (14, 12), 0.8),
        ],
        [
            ((0.1, 0.3, 3, 0.5), (10, 4), 0.8), ((0.2, 0.3, 2, 0.5), (12, 4), 0.7),
            ((0.55, 0.3, 4, 0.9), (12, 8), 0.7), ((0.55, 0.3, 4.5, 0.85), (12, 8), 0.65),
            ((0.55, 0.3, 2.5, 0.85), (12, 12), 0.55),
        ],
    ),
    "frost": Corruption(
        "weather", frost,
        [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)],
        [(1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)],
    ),
    "fog": Corruption(
        "weather", fog,
        [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)], [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
    ),
    "brightness": Corruption(
        "weather", brightness, _each(0.05, 0.1, 0.15, 0.2, 0.3), _each(0.1, 0.2, 0.3, 0.4, 0.5)
    ),
    "contrast": Corruption("digital", contrast, _each(0.75, 0.5, 0.4, 0.3, 0.15), _each(0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Corruption(
        "digital", elastic_transform,
        [(32 * a, 32 * s, 32 * m) for a, s, m in
         [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)]],
        [(244 * a, 244 * s, 244 * m) for a, s, m in
         [(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)]],
    ),
    "pixelate": Corruption("digital", pixelate, _each(0.95, 0.9, 0.85, 0.75, 0.65), _each(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption("digital", jpeg_compression, _each(80, 65, 58, 50, 40), _each(25, 18, 15, 10, 7)),
}  # fmt: skip


def corrupt(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """The images under a common corruption.

    Args:
        images: uint8, N×C×H×W, grey (C 1) or RGB (C 3).
        kind: one of `CORRUPTIONS`, such as `gaussian_noise`.
        severity: 1 to 5.
        seed: of the random numbers of each image, which depend on it and the image's pixels alone.

    Returns:
        uint8, N×C×H×W.

    The constants are those of CIFAR-10-C where the shorter side has fewer than 96 pixels, else those of ImageNet-C.
    Both are in pixels and are not scaled. `frost` adds generated ice, where the published sets take photographs.
    Raises `InputError` for another kind or severity, and for other images.
    Source: Hendrycks and Dietterich 2019, section 3.
    """
    chosen = _require(images, kind, severity)
    constants = (chosen.small if min(images.shape[2:]) < SMALL else chosen.large)[severity - 1]
    corrupted = np.empty(images.shape, np.uint8)
    for place, image in enumerate(images.numpy()):
        digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
        rng = np.random.default_rng(seed_for(seed, "corruption", kind, severity, digest))
        found = chosen.function(image.transpose(1, 2, 0) / 255.0, rng, *constants)
        # the published sets round towards 0; a hair is added for values that a division by 255 has moved below
        corrupted[place] = (np.clip(found, 0, 1) * 255 + 1e-6).astype(np.uint8).transpose(2, 0, 1)
    return torch.from_numpy(corrupted)


def corruption_kinds(names: str | Sequence[str]) -> tuple[str, ...]:
    """The kinds that names stand for: `all`, a group (`noise`, `blur`, `weather`, `digital`), or a kind.

    Raises `InputError` for another name.
    """
    groups = list(dict.fromkeys(each.group for each in CORRUPTIONS.values()))
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        kinds = [kind for kind, each in CORRUPTIONS.items() if name in ("all", each.group, kind)]
        if not kinds:
            known = ("all", *groups, *CORRUPTIONS)
            raise InputError(f"corruption '{name}' is unknown: {suggest(name, known)}")
        found += kinds
    return tuple(dict.fromkeys(found))


def require_severities(severities: Sequence[int]) -> tuple[int, ...]:
    """`severities` in ascending order; raises `InputError` unless they are whole numbers from 1 to 5."""
    for each in severities:
        if isinstance(each, bool) or each not in SEVERITIES:
            raise InputError(f"severity {each} is none: give whole numbers from 1 to 5")
    if not severities:
        raise InputError("no severity is given: give whole numbers from 1 to 5")
    return tuple(sorted(set(severities)))


def _require(images: Tensor, kind: str, severity: int) -> Corruption:
    if kind not in CORRUPTIONS:
        raise InputError(f"corruption '{kind}' is unknown: {suggest(kind, tuple(CORRUPTIONS))}")
    require_severities([severity])
    if images.dtype is not torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"images are {images.dtype} of shape {tuple(images.shape)}: corruptions take uint8, N×C×H×W, grey or RGB"
        )
    return CORRUPTIONS[kind]
