"""Rotations and translations: what moves where, the worst of them for each image, and ART beside."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.data.dataset import Dataset
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.spatial import Movements, move_images, spatial


@pytest.fixture(scope="module")
def few(digits):
    model, data = digits
    return model, data.subset(range(30))


def moved(x: Tensor, *movement: float) -> Tensor:
    return move_images(x, torch.tensor([movement]).expand(len(x), 3))


@pytest.mark.parametrize("size", [(8, 8), (6, 9)])
def test_movements_literally(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moved(x, 0, 0, 0), x)
    right = torch.zeros_like(x)
    right[..., 2:] = x[..., :-2]
    torch.testing.assert_close(moved(x, 0, 2, 0), right, rtol=0, atol=1e-5)
    down = torch.zeros_like(x)
    down[..., 1:, :] = x[..., :-1, :]
    torch.testing.assert_close(moved(x, 0, 0, 1), down, rtol=0, atol=1e-5)
    torch.testing.assert_close(moved(x, 180, 0, 0), x.flip(2, 3), rtol=0, atol=1e-4)
    half = (x[..., 1:-1] + x[..., :-2]) / 2
    torch.testing.assert_close(moved(x, 0, 0.5, 0)[..., 1:-1], half, rtol=0, atol=1e-5)
    if size[0] == size[1]:
        torch.testing.assert_close(moved(x, 90, 0, 0), x.rot90(-1, (2, 3)), rtol=0, atol=1e-4)  # clockwise


def test_each_image_has_a_movement_of_its_own() -> None:
    x = torch.rand(3, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    movements = torch.tensor([[0.0, 0, 0], [20, 1, -1], [-90, 0, 2]])
    together = move_images(x, movements)
    for image, movement, one in zip(x.split(1), movements.split(1), together, strict=True):
        torch.testing.assert_close(move_images(image, movement)[0], one, rtol=0, atol=1e-6)


def test_the_grid_finds_the_worst_of_all_combinations(few) -> None:
    model, data = few
    movements = Movements(20, 1, rotations=3, shifts=3)
    found = spatial(model, data, movements, batch_size=11)
    clean, row = found
    right = torch.ones(len(data), dtype=torch.bool)
    for angle in (-20, 0, 20):
        for across in (-1, 0, 1):
            for down in (-1, 0, 1):
                with torch.no_grad():
                    right &= model(moved(to_float(data.images), angle, across, down)).argmax(1) == data.labels
    assert torch.equal(found.per_image[row].right, right)
    assert row.accuracy < clean.accuracy
    assert (row.attack, row.norm, row.eps, row.movements) == ("spatial_grid", "spatial", 0.0, "±20°, ±1 px, 3×3×3")


def test_random_search_depends_on_the_image_and_the_seed_alone(few, tmp_path) -> None:
    model, data = few
    movements = Movements(30, "20%", search="random", tries=6)
    one, other = (spatial(model, data, movements, seed=3, batch_size=size) for size in (7, 64))
    assert torch.equal(one.per_image[one[1]].right, other.per_image[other[1]].right)
    torch.testing.assert_close(one.per_image[one[1]].margin, other.per_image[other[1]].margin, rtol=0, atol=1e-4)
    assert one[1].movements == "±30°, ±1.6 px, worst of 6"
    more = spatial(model, data, Movements(30, "20%", search="random", tries=12), seed=3)
    assert not (more.per_image[more[1]].right & ~one.per_image[one[1]].right).any()  # its first six are the same
    loaded = Evaluation.load(one.save(tmp_path / "saved"))
    assert loaded.rows == one.rows
    assert "spatial_random spatial ±30°" in str(loaded)
    assert "rotations and translations" in one.report(tmp_path / "page.html").read_text()


def test_no_movement_is_the_clean_accuracy(few) -> None:
    model, data = few
    clean, row = spatial(model, data, Movements(0, 0, rotations=1, shifts=1))
    assert row.correct == clean.correct


def test_a_model_that_counts_all_pixels_withstands_shifts_inside_the_frame() -> None:
    """Its answer is the brightness, which a shift over black does not change."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([-torch.ones(144), torch.ones(144)]))
        net[1].bias.copy_(torch.tensor([10.0, -10.0]))
    images = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    images[0, :, 4:7, 4:7], images[1, :, 4:8, 4:8] = 255, 255
    data = Dataset.from_tensors(images, torch.tensor([0, 1]))
    assert spatial(net, data, Movements(0, 3, rotations=1))[1].accuracy == 1
    assert spatial(net, data, Movements(0, 7, rotations=1))[1].accuracy == 0.5  # where it falls out of the frame


def test_art_is_no_stronger(few) -> None:
    """ART takes the one movement that is worst for the whole batch."""
    pytest.importorskip("art", reason="ART is not installed")
    from art.attacks.evasion import SpatialTransformation

    from inoculate.attacks.interop.art import to_art
    from inoculate.core.threat import Threat

    model, data = few
    peer = SpatialTransformation(
        to_art(model, Threat(), tuple(data.images.shape[1:]), 10),
        max_translation=12.5, num_translations=3, max_rotation=20, num_rotations=3, verbose=False,
    )  # fmt: skip
    theirs = torch.from_numpy(peer.generate(to_float(data.images).numpy(), data.labels.numpy()))
    with torch.no_grad():
        accuracy = float((model(theirs).argmax(1) == data.labels).float().mean())
    clean, row = spatial(model, data, Movements(20, 1, rotations=3, shifts=3))
    assert row.accuracy <= accuracy <= clean.accuracy


@pytest.mark.parametrize(
    "options", [{"angle": -1}, {"angle": 200}, {"shift": "wide"}, {"shift": -1}, {"search": "best"}, {"rotations": 0}]
)
def test_an_option_out_of_its_range_is_refused_in_one_line(options) -> None:
    with pytest.raises(InputError) as caught:
        Movements(**options)
    assert "\n" not in str(caught.value)
