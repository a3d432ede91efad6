"""Common corruptions against the published formulas, written here pixel by pixel, and against a peer where one runs."""

from __future__ import annotations

import colorsys
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.data.corruptions.blur import blur_along, defocus_blur, magnify, zoom_blur
from inoculate.data.corruptions.corrupt import CORRUPTIONS, SEVERITIES, corrupt, corruption_kinds
from inoculate.data.corruptions.digital import elastic_transform
from inoculate.data.corruptions.weather import ice_texture, plasma, snow

KINDS = tuple(CORRUPTIONS)


def pictures(count: int = 2, channels: int = 3, size: tuple[int, int] = (32, 32), seed: int = 0) -> Tensor:
    """Smooth pictures with some edges."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 5, 5, generator=g)
    fine = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    fine[:, :, : size[0] // 3, : size[1] // 4] = 0.9
    return (255 * fine).to(torch.uint8)


def floats(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy() / 255


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_there_are_fifteen_kinds_at_five_severities():
    assert len(KINDS) == 15
    for each in CORRUPTIONS.values():
        assert len(each.small) == len(each.large) == 5
    assert [len(corruption_kinds(group)) for group in ("noise", "blur", "weather", "digital", "all")] == [
        3,
        4,
        4,
        4,
        15,
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_gets_the_same_whatever_its_batch(kind: str):
    x = pictures(3)
    before = x.clone()
    whole = corrupt(x, kind, 3, seed=1)
    assert torch.equal(x, before)
    assert (whole.dtype, whole.shape) == (torch.uint8, x.shape)
    assert torch.equal(torch.cat([corrupt(x[i : i + 1], kind, 3, seed=1) for i in (2, 0)]), whole[[2, 0]])
    assert torch.equal(whole, corrupt(x, kind, 3, seed=2)) == (
        kind in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (20, 37)), (1, (8, 8)), (3, (101, 130))])
def test_images_of_any_size_grey_or_colour(kind: str, channels: int, size: tuple[int, int]):
    x = pictures(1, channels, size)
    for severity in (1, 5):
        found = corrupt(x, kind, severity)
        assert found.shape == x.shape
    assert (found != x).any()


@pytest.mark.parametrize("size", [32, 112])
def test_a_higher_severity_changes_more(size: int):
    """As a mean over the kinds; single ones of the published constants do not rise throughout."""
    x = pictures(3, size=(size, size))
    moved = torch.tensor(
        [[float((corrupt(x, kind, s).float() - x.float()).abs().mean()) for s in (1, 3, 5)] for kind in KINDS]
    )
    assert (moved > 0).all()
    mean = moved.mean(dim=0)
    assert mean[0] < mean[1] < mean[2]


def test_noise_is_that_of_the_formula():
    """Moments of the noise on a grey picture of 60,000 values."""
    x = torch.full((1, 3, 80, 250), 128, dtype=torch.uint8)
    for severity, scale in enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1):
        moved = corrupt(x, "gaussian_noise", severity).double() / 255 - 128 / 255
        assert float(moved.std()) == pytest.approx(scale, rel=0.02)
        assert float(moved.mean()) == pytest.approx(-0.5 / 255, abs=0.002)  # rounded towards 0
    for severity, photons in enumerate((500, 250, 100, 75, 50), 1):
        found = corrupt(x, "shot_noise", severity).double() / 255
        assert float(found.std()) == pytest.approx(math.sqrt(128 / 255 / photons), rel=0.03)
    for severity, share in enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1):
        wide = pictures(1, size=(90, 400)).clamp(10, 240)
        found = corrupt(wide, "impulse_noise", severity)
        struck = (found == 0) | (found == 255)
        assert float(struck.float().mean()) == pytest.approx(share, rel=0.1)
        assert float((found[struck] == 255).float().mean()) == pytest.approx(0.5, abs=0.1)
        assert torch.equal(found[~struck], wide[~struck])


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_contrast_pixel_by_pixel(severity: int):
    x = pictures(1, size=(9, 7))
    x[0, :, 0, 0] = 0
    amount, factor = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1], (0.75, 0.5, 0.4, 0.3, 0.15)[severity - 1]
    brighter, flatter = corrupt(x, "brightness", severity), corrupt(x, "contrast", severity)
    mean = floats(x[0]).mean(axis=(0, 1))
    for row in range(9):
        for column in range(7):
            pixel = floats(x[0])[row, column]
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + amount))
            got = brighter[0, :, row, column].tolist()
            assert all(abs(got[c] - math.floor(255 * expected[c] + 1e-6)) <= 1 for c in range(3))
            flat = [math.floor(255 * min(1, max(0, mean[c] + factor * (pixel[c] - mean[c]))) + 1e-6) for c in range(3)]
            assert flatter[0, :, row, column].tolist() == flat


def test_defocus_is_the_mean_over_a_disk():
    """Radius 3 and a kernel hardly smoothed; away from the border."""
    x = floats(pictures(1, size=(24, 24))[0])
    found = defocus_blur(x, rng(), 3, 0.1)
    disk = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if i * i + j * j <= 9]
    for row, column in ((12, 12), (5, 9), (14, 4)):
        expected = np.mean([x[row + i, column + j] for i, j in disk], axis=0)
        assert np.abs(found[row, column] - expected).max() < 1e-6
    flat = np.full((20, 20, 3), 0.4)
    assert np.abs(defocus_blur(flat, rng(), 6, 0.5) - 0.4).max() < 1e-9  # its weights sum to 1
    assert 0.4 < defocus_blur(flat, rng(), 10, 0.5).min() < 0.4 * 1.02  # as published: not quite, where a disk fills it


def test_motion_blur_is_a_weighted_mean_along_a_line():
    x = floats(pictures(1, size=(20, 16))[0])
    for degrees in (-100.0, -30.0, 0.0, 45.0):
        found = blur_along(x, 4, 2.0, degrees)
        weights = [math.exp(-i * i / 8) for i in range(9)]
        for row, column in ((0, 0), (10, 8), (19, 15)):
            expected = np.zeros(3)
            for i, weight in enumerate(weights):
                down = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
                right = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
                expected += weight / sum(weights) * x[min(max(row + down, 0), 19), min(max(column + right, 0), 15)]
            assert np.abs(found[row, column] - expected).max() < 1e-12


def test_zoom_keeps_the_middle_and_size_one_changes_nothing():
    x = floats(pictures(1, size=(33, 21))[0])
    assert np.array_equal(magnify(x, 1.0), x)
    for factor in (1.05, 1.3, 2.0):
        assert magnify(x, factor).shape == x.shape
    ramp = np.linspace(0, 1, 41)[:, None, None] * np.ones((1, 41, 1))
    slope = np.diff(magnify(ramp, 2.0)[5:36, 20, 0])
    assert slope == pytest.approx(1 / 40 / 2, rel=0.05)  # twice as large, half as steep
    once = (x + x) / 2
    assert np.abs(zoom_blur(x, rng(), 1.005, 0.01) - once).max() < 1e-12


def test_pixelate_and_jpeg_are_pillows():
    x = pictures(1, size=(32, 40))
    image = Image.fromarray(x[0].permute(1, 2, 0).numpy())
    small = image.resize((int(40 * 0.65), int(32 * 0.65)), Image.Resampling.BOX).resize((40, 32), Image.Resampling.BOX)
    assert np.array_equal(corrupt(x, "pixelate", 5)[0].permute(1, 2, 0).numpy(), np.asarray(small))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=58)
    expected = np.asarray(Image.open(stream))
    assert np.array_equal(corrupt(x, "jpeg_compression", 3)[0].permute(1, 2, 0).numpy(), expected)


def test_fog_is_a_cloud_that_keeps_the_brightest_value():
    x = pictures(1)
    cloud = plasma(rng(), 64, 2.0)
    assert (cloud.min(), cloud.max()) == (0, 1)
    rough, smooth = (np.abs(np.diff(plasma(rng(), 64, decay), axis=0)).mean() for decay in (1.2, 3))
    assert rough > 2 * smooth
    for severity, amount in ((1, 0.2), (5, 1.5)):
        found = corrupt(x, "fog", severity).double() / 255
        brightest = float(x.max()) / 255
        unmixed = found * (brightest + amount) / brightest - x.double() / 255  # amount · cloud
        assert float(unmixed.min()) > -0.03
        assert float(unmixed.max()) < amount + 0.03
        assert float((unmixed[:, 0] - unmixed[:, 1]).abs().max()) < 0.03  # the same in every channel


def test_snow_whitens_and_falls():
    x = np.zeros((32, 32, 3))
    still = snow(x, rng(), (0.0, 1e-9, 1, 0.5), (8, 3), 0.8)  # no flake: only the whitening, 0.2 · 0.5 of black
    assert np.abs(still - 0.1).max() < 1e-9
    flakes = snow(x, rng(), (0.1, 0.3, 1, 0.5), (8, 3), 1.0)
    assert flakes.mean() > 0.01
    assert np.abs(flakes - np.rot90(flakes, 2)).max() < 1e-9  # the same flakes again, upside down


def test_frost_is_ice_on_the_image():
    ice = ice_texture(rng(), (40, 30))
    assert ice.shape == (40, 30, 1)
    assert 0 <= ice.min() < ice.max() <= 1.4
    assert ice.std() > 0.05


def test_glass_blur_moves_pixels_by_no_more_than_its_reach():
    dot = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    dot[0, 0, 10:22, 10:22] = 255
    found = corrupt(dot, "glass_blur", 1)
    assert (found[0, 0, :8] == 0).all()
    assert (found[0, 0, 12:19, 12:19] == 255).all()
    assert (found[0, 0, 9:11, 9:23] != dot[0, 0, 9:11, 9:23]).any()


def test_elastic_moves_three_points_and_nothing_without_amplitudes():
    x = floats(pictures(1, size=(30, 40))[0])
    assert np.abs(elastic_transform(x, rng(), 0, 0, 0) - x).max() < 1e-9
    moves = rng(5).uniform(-2, 2, (3, 2))
    yy, xx = np.mgrid[:30, :40]
    where = np.stack([xx, yy, 0 * xx], axis=2).astype(float)  # an image of its own coordinates
    found = elastic_transform(where, rng(5), 0, 0, 2)
    for before, move in zip(([30, 25], [30, 5], [10, 5]), moves, strict=True):
        at = np.array(before) + move  # where the point has gone
        row, column = math.floor(at[1]), math.floor(at[0])
        low, right = at[1] - row, at[0] - column
        corners = found[row : row + 2, column : column + 2, :2]
        got = (corners[0] * (1 - low) + corners[1] * low)[0] * (1 - right) + (
            corners[0] * (1 - low) + corners[1] * low
        )[1] * right
        assert np.abs(got - before).max() < 1e-6


@pytest.mark.parametrize("size", [32, 112])
def test_a_peer_agrees_where_nothing_is_random(size: int):
    peer = pytest.importorskip("imagecorruptions", reason="imagecorruptions is not installed", exc_type=ImportError)
    x = pictures(1, size=(112, 112))
    for kind in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"):
        for severity in SEVERITIES:
            theirs = peer.corrupt(x[0].permute(1, 2, 0).numpy(), corruption_name=kind, severity=severity)
            ours = corrupt(x, kind, severity)[0].permute(1, 2, 0).numpy()
            assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: corrupt(pictures(), "gausian_noise", 1), "did you mean 'gaussian_noise'"),
        (lambda: corrupt(pictures(), "fog", 6), "severity 6"),
        (lambda: corrupt(pictures(), "fog", True), "severity True"),
        (lambda: corrupt(pictures() / 255, "fog", 1), "uint8"),
        (lambda: corrupt(pictures()[0], "fog", 1), "N×C×H×W"),
        (lambda: corruption_kinds(["fog", "rain"]), "corruption 'rain' is unknown"),
    ],
)
def test_a_mistake_is_told_in_one_line(call, said):
    with pytest.raises(InputError) as caught:
        call()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
