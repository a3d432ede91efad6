"""Seeds by name: every random draw has its own generator, so nothing depends on the order of other draws."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_for(seed: int, *names: object) -> int:
    """A 63-bit seed for the draw called `names` under the user's `seed`; stable over machines and versions."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh generator for the draw called `names`; the global random state is not touched."""
    import torch

    return torch.Generator(device).manual_seed(seed_for(seed, *names))
