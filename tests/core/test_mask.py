from __future__ import annotations

import json

import pytest
import torch

from inoculate.core.errors import InputError
from inoculate.core.mask import Mask
from inoculate.core.threat import Threat


def test_regions_literally() -> None:
    centre = Mask.region("center:0.5", (4, 6))
    assert centre.pixels[0, 0].int().tolist() == [
        [0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]
    ]  # fmt: skip
    border = Mask.region("border:1", (3, 4))
    assert border.pixels[0, 0].int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert Mask.region("border:9", (3, 4)).share == 1
    assert Mask.region("center:1", (3, 4)) == Mask.region("border:2", (3, 4)) == Mask.of(torch.ones(3, 4))
    assert (centre.name, centre.box()) == ("center:0.5", (slice(1, 3), slice(1, 4)))


@pytest.mark.parametrize(
    "text", ["center", "center:0", "center:1.5", "border:0", "border:1.5", "left:2", "center:a", ""]
)
def test_an_unknown_region_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"center:0\.5") as caught:
        Mask.region(text, (8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (torch.zeros(4, 4), "no pixel change"),
        (torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)]), "no pixel of image 1"),
        (torch.full((4, 4), 0.5), "value 0.5"),
        (torch.tensor([[0, 255], [1, 0]]), "value 1"),
        (torch.ones(4), "mask is 4:"),
        (torch.tensor(1), "a number"),
        (torch.ones(1, 1, 1, 4, 4), "1×1×1×4×4"),
        (torch.full((2, 2), torch.nan), "value nan"),
    ],
)
def test_what_is_no_mask_is_refused_in_one_line(pixels: torch.Tensor, said: str) -> None:
    with pytest.raises(InputError) as caught:
        Threat(mask=pixels)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_is_its_pixels() -> None:
    pixels = torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    one, other = Threat(mask=pixels), Threat(mask=(255 * pixels.int()).numpy())  # type: ignore[arg-type]
    assert one == other
    assert hash(one) == hash(other)
    assert one != Threat()
    assert one.mask != Mask.of(pixels[:1].expand(3, 1, 5, 7))
    assert Mask.of(pixels[0, 0]) != Mask.of(pixels[:1])  # for all images, for one
    assert Mask.of(pixels[0], "same").name != Mask.of(pixels[1], "same").name
    assert len({one, other, Threat(), Threat(mask=pixels[0])}) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (4, 1, 5, 7), (4, 3, 5, 7)])
def test_a_threat_survives_json(shape: tuple[int, ...]) -> None:
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    threat = Threat("l2", 0.5, mask=Mask.of(pixels, "mine"))
    read = Threat.from_dict(json.loads(json.dumps(threat.as_dict())))
    assert read == threat
    assert read.mask is not None
    assert read.mask.name == f"mine-{read.mask.digest}"
    assert Threat.from_dict(json.loads(json.dumps(Threat().as_dict()))) == Threat()
    assert "mask" not in Threat().as_dict()


def test_rows_are_selected_only_from_masks_of_their_own() -> None:
    pixels = torch.eye(4).view(4, 1, 2, 2)
    own, shared = Mask.of(pixels), Mask.of(pixels[0, 0])
    assert own.select([2, 0]) == Mask.of(pixels[[2, 0]])
    assert own.select(torch.tensor([True, False, False, True])) == Mask.of(pixels[[0, 3]])
    assert shared.select([2, 0]) is shared
    assert Threat().select([1]) == Threat()
