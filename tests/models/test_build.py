"""Classifiers by timm name: normalisation inside, a stem that fits, weights from a seed."""

from __future__ import annotations

import pytest
import torch

from inoculate.core.errors import InputError
from inoculate.models.build import IMAGENET_MEAN, IMAGENET_STD, build_model
from inoculate.models.normalize import Normalize


def test_normalisation_is_the_first_layer_literally() -> None:
    layer = Normalize((0.5, 0.0), (0.25, 2.0))
    x = torch.tensor([1.0, 0.5]).view(1, 2, 1, 1)
    assert layer(x).flatten().tolist() == [2.0, 0.25]
    model = build_model("resnet10t", classes=3)
    assert model[0].mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    assert model[0].std.flatten().tolist() == pytest.approx(IMAGENET_STD)
    grey = build_model("resnet10t", classes=3, channels=1)
    assert grey[0].mean.flatten().tolist() == pytest.approx([sum(IMAGENET_MEAN) / 3])


@pytest.mark.parametrize(("channels", "size", "stem"), [(1, 28, "small"), (3, 32, "imagenet"), (1, 64, "imagenet")])
def test_logits_of_the_right_shape(channels: int, size: int, stem: str) -> None:
    model = build_model("resnet18", classes=7, channels=channels, image_size=size, stem=stem)  # type: ignore[arg-type]
    with torch.no_grad():
        assert model.eval()(torch.rand(2, channels, size, size)).shape == (2, 7)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_small_cnn_takes_small_images_and_plain_pixels() -> None:
    for size in (12, 28, 32):
        model = build_model("small_cnn", classes=4, channels=1, image_size=size)
        assert model(torch.rand(2, 1, size, size)).shape == (2, 4)
        assert (model[0].mean.item(), model[0].std.item()) == (0.0, 1.0)
    with pytest.raises(InputError, match="does not take 2×2 images"):
        build_model("small_cnn", classes=4, channels=1, image_size=2)
    with pytest.raises(InputError, match="did you mean 'small_cnn'"):
        build_model("smal_cnn", classes=4)


def test_weights_depend_on_the_seed_and_the_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    first, same, other = (build_model("resnet10t", classes=3, seed=s).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[n], same[n]) for n in first)
    assert not torch.equal(first["network.fc.weight"], other["network.fc.weight"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet81", {}, "did you mean"),
        ("qqqqqqqq", {}, "such as resnet18"),
        ("vit_tiny_patch16_224", {"stem": "small"}, "fits ResNets"),
        ("inception_v3", {"image_size": 32}, "does not take"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_model(name, classes=3, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
