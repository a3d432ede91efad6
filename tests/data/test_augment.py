from __future__ import annotations

import pytest
import torch

from inoculate.core.errors import InputError
from inoculate.data import augment as augment_module
from inoculate.data.augment import POLICIES, augmenter, default_policy


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_depends_on_the_generator_only_and_leaves_the_global_state(policy: str, channels: int) -> None:
    images = torch.rand(8, channels, 16, 16, generator=seeded(0))
    augment = augmenter(policy, 16)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = augment(images, seeded(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(augment(images, seeded(5)), first)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(augment(images, seeded(6)), first) == (policy == "none")


@pytest.mark.parametrize("policy", ["digits", "photos"])
def test_every_image_is_varied_by_itself(policy: str) -> None:
    same = torch.rand(1, 1, 16, 16, generator=seeded(0)).expand(6, -1, -1, -1)
    changed = augmenter(policy, 16)(same, seeded(0))
    assert all(not torch.equal(changed[0], other) for other in changed[1:])


def test_shifts_move_by_whole_pixels_and_mirror_and_do_nothing_else() -> None:
    images = torch.rand(64, 3, 16, 24, generator=seeded(0))
    moved = augmenter("shifts", (16, 24))(images, seeded(1))
    padded = torch.nn.functional.pad(images, (3, 3, 2, 2))  # an eighth of each side
    places = [(mirrored, down, across) for mirrored in (False, True) for down in range(5) for across in range(7)]
    found = []
    for before, after in zip(padded, moved, strict=True):
        windows = (before[:, down : down + 16, across : across + 24] for _, down, across in places)
        shown = (w.flip(-1) if mirrored else w for w, (mirrored, _, _) in zip(windows, places, strict=True))
        found.append(next(place for place, w in zip(places, shown, strict=True) if torch.equal(w, after)))
    for part, values in enumerate(zip(*found, strict=True)):
        assert len(set(values)) == (2, 5, 7)[part]  # every way occurs


def left_heavy(policy: str) -> int:
    """How many of 128 images with a bright left half keep it on the left."""
    images = torch.zeros(128, 1, 32, 32)
    images[..., 8:24, 4:14] = 1
    changed = augmenter(policy, 32)(images, seeded(0))
    return int((changed[..., :16].sum((1, 2, 3)) > changed[..., 16:].sum((1, 2, 3))).sum())


def test_digits_never_flip_and_photos_do() -> None:
    assert left_heavy("digits") == 128
    assert 32 < left_heavy("photos") < 96
    assert augment_module.POLICIES["digits"].flip == 0


def test_default_policies_and_unknown_names() -> None:
    assert [default_policy(n) for n in ("mnist", "digits", "cifar10", "cats_vs_dogs")] == ["digits"] * 2 + [
        "photos"
    ] * 2
    with pytest.raises(InputError, match="choose one of none, digits, photos"):
        augmenter("digit", 32)
    for policy in ("digits", "shifts"):
        with pytest.raises(InputError, match="made for"):
            augmenter(policy, 32)(torch.rand(2, 1, 16, 16), seeded(0))
