from __future__ import annotations

import hashlib

import pytest
import torch

from inoculate.core.rng import Draws, drawn_seed, generator, seed_for
from inoculate.core.rng import seeded as seeded_globally

SEED = 1062526737559182787


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(n: int = 12) -> torch.Tensor:
    return torch.rand(n, 3, 4, 4, generator=seeded(0))


def test_an_images_numbers_are_its_own_wherever_it_stands() -> None:
    x, order = pictures(), torch.randperm(12, generator=seeded(1))
    whole = Draws(x, seeded(5)).uniform(3, 4, 4)
    assert torch.equal(Draws(x[order], seeded(5)).uniform(3, 4, 4), whole[order])
    assert torch.equal(Draws(x[3:5], seeded(5)).uniform(3, 4, 4), whole[3:5])
    assert torch.equal(Draws(x.contiguous(memory_format=torch.channels_last), seeded(5)).uniform(3, 4, 4), whole)


def test_seeds_calls_and_images_differ() -> None:
    x = pictures()
    draws = Draws(x, seeded(5))
    first, second = draws.uniform(50), draws.uniform(50)
    assert not torch.equal(first, second)
    assert not torch.equal(first, Draws(x, seeded(6)).uniform(50))
    assert len({tuple(row) for row in first.tolist()}) == 12
    assert torch.equal(Draws(x, None).uniform(5), Draws(x, None).uniform(5))


def test_one_changed_pixel_changes_everything() -> None:
    x = pictures(1).repeat(2, 1, 1, 1)
    x[1, 0, 0, 0] += 1 / 255
    one, other = Draws(x, seeded(0)).uniform(2000)
    assert (one == other).float().mean() < 0.01
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.08


def test_numbers_are_uniform_normal_even_and_independent() -> None:
    draws = Draws(torch.arange(400.0)[:, None], seeded(0))
    uniform, normal = draws.uniform(500), draws.normal(500)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert (uniform < quantile).float().mean().item() == pytest.approx(quantile, abs=0.005)
    assert normal.mean().item() == pytest.approx(0, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert (normal.abs() < 1.96).float().mean().item() == pytest.approx(0.95, abs=0.005)
    assert draws.signs(500).mean().item() == pytest.approx(0, abs=0.01)
    assert set(draws.integers(3).tolist()) == {0, 1, 2}
    neighbours = torch.corrcoef(torch.stack([uniform[:, :-1].flatten(), uniform[:, 1:].flatten()]))
    assert abs(neighbours[0, 1]) < 0.01


@pytest.mark.smoke
def test_named_seeds_are_the_same_for_ever() -> None:
    # the first 63 bits of SHA-256 of "3/a/1": stored results depend on them
    assert seed_for(3, "a", 1) == int(hashlib.sha256(b"3/a/1").hexdigest()[:16], 16) >> 1 == SEED
    assert seed_for(3, "a", 2) != seed_for(3, "a", 1) != seed_for(4, "a", 1)
    assert torch.equal(torch.rand(3, generator=generator(3, "a", 1)), torch.rand(3, generator=seeded(SEED)))
    assert drawn_seed(None) == 0
    assert drawn_seed(seeded(1)) == drawn_seed(seeded(1)) != drawn_seed(seeded(2))


def test_a_seeded_block_restores_the_global_state() -> None:
    before = torch.get_rng_state()
    with seeded_globally(0, "x"):
        first = torch.rand(3)
    with seeded_globally(0, "x"):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    Draws(pictures(), seeded(0)).normal(3)
    Draws(pictures(), None).signs(3)
    assert torch.equal(torch.get_rng_state(), before)
