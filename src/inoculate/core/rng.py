"""Random numbers: every draw has a name and its own generator, so none depends on the order of the others.

`Draws` are random numbers per image: an image gets the same ones at any place in any batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def seed_for(seed: int, *names: object) -> int:
    """A 63-bit seed for the draw called `names` under the user's `seed`; the same on every machine and version."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A new generator for the draw called `names`; the global random state is not touched."""
    import torch

    return torch.Generator(device).manual_seed(seed_for(seed, *names))


@contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Seed the global random state, from which layers such as dropout draw; it is restored on leaving."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, *names))
        yield


def drawn_seed(generator: torch.Generator | None, below: int = 2**62) -> int:
    """A seed in 0..`below` - 1 from one draw of `generator`; without one, 0."""
    import torch

    return 0 if generator is None else int(torch.randint(below, (), generator=generator, device=generator.device))


class Draws:
    """Random numbers for each image of a batch `x` (B×…), from the image's content and one draw of `generator`.

    They do not depend on batch size, order or device. Every call gives new numbers. Identical images get identical
    numbers. Without a generator the numbers are always the same.
    """

    def __init__(self, x: Tensor, generator: torch.Generator | None) -> None:
        import torch

        base = drawn_seed(generator)
        content = x.detach().to(torch.float32).contiguous().view(torch.int32).flatten(1).to(torch.int64)
        position = torch.arange(content.shape[1], device=x.device)
        self._keys = _mix(_mix(content + position * _STRIDE).sum(dim=1) + base)
        self._calls = 0

    def uniform(self, *shape: int) -> Tensor:
        """Independent uniform numbers in [0, 1): B×`shape`, float32."""
        import torch

        self._calls += 1
        count = 1
        for size in shape:
            count *= size
        counter = torch.arange(count, device=self._keys.device) * _STRIDE
        stream = _mix(self._keys + self._calls)
        bits = _shift(_mix(stream[:, None] + counter), 40)
        return bits.to(torch.float32).div_(2**24).view(-1, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Independent standard normal numbers (Box–Muller transform): B×`shape`, float32."""
        radius = (-2 * (1 - self.uniform(*shape)).log()).sqrt()
        return radius * (self.uniform(*shape) * 6.283185307179586).cos()

    def signs(self, *shape: int) -> Tensor:
        """−1 or 1 with equal probability: B×`shape`, float32."""
        signs: Tensor = (self.uniform(*shape) < 0.5) * 2.0 - 1
        return signs

    def streams(self) -> list[torch.Generator]:
        """A generator on the CPU for each image, for very many numbers."""
        import torch

        self._calls += 1
        seeds = _shift(_mix(self._keys + self._calls), 1).tolist()
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    def integers(self, high: int) -> Tensor:
        """One whole number from 0 to `high` − 1 per image: B, int64."""
        numbers: Tensor = (self.uniform() * high).long().clamp_max(high - 1)
        return numbers


# Constants of SplitMix64 (Steele, Lea, Flood 2014), as signed integers: int64 arithmetic wraps around.
_STRIDE, _FIRST, _SECOND = (c - 2**64 for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(z: Tensor) -> Tensor:
    """Mix the bits of a new tensor, in place: memory is what limits the speed."""
    other = z.clone()
    for by, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        z.bitwise_xor_(_shift(other, by))
        if factor != 1:
            other.copy_(z.mul_(factor))
    return z


def _shift(z: Tensor, by: int) -> Tensor:
    """Shift right in place, filling with zeros."""
    return z.bitwise_right_shift_(by).bitwise_and_((1 << (64 - by)) - 1)
