"""Where features lie: maps with the channels first or last, tokens on a grid; compared with the same moved by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from inoculate.attribution.explain import explain
from inoculate.attribution.explanation import Amounts
from inoculate.attribution.features import FeatureMaps, last_maps
from inoculate.attribution.maps import grad_cam
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset

SWIN = {"img_size": 64, "window_size": 2, "embed_dim": 16, "depths": (1, 1, 1), "num_heads": (1, 2, 2)}
VIT = {"img_size": 64, "embed_dim": 16, "depth": 2, "num_heads": 2}


def small(name: str, **options: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, num_classes=4, **options).eval()


class ChannelsFirst(nn.Module):
    """What a layer gives as B×C×H×W: moved by hand, and tokens without the `prefix` first ones."""

    def __init__(self, prefix: int | None = None, side: int = 4) -> None:
        super().__init__()
        self.prefix, self.side = prefix, side
        self.others: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.prefix is None:
            return x.movedim(3, 1)
        self.others = x[:, : self.prefix]
        return x[:, self.prefix :].transpose(1, 2).unflatten(2, (self.side, self.side))


class Back(nn.Module):
    def __init__(self, first: ChannelsFirst) -> None:
        super().__init__()
        self.first = (first,)

    def forward(self, x: Tensor) -> Tensor:
        if self.first[0].prefix is None:
            return x.movedim(1, 3)
        return torch.cat([self.first[0].others, x.flatten(2).transpose(1, 2)], dim=1)


def by_captum(model: nn.Module, layer: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(model, layer).attribute(x.clone().requires_grad_(), target=classes, relu_attributions=True)
    return LayerAttribution.interpolate(cam, tuple(x.shape[2:]), "bilinear")[:, 0].detach()


@pytest.mark.parametrize(
    ("name", "options", "path", "prefix"),
    [
        ("swin_tiny_patch4_window7_224", SWIN, "norm", None),
        ("swinv2_tiny_window8_256", SWIN, "norm", None),
        ("vit_tiny_patch16_224", VIT, "blocks.1.norm1", 1),
        ("vit_tiny_patch16_224", VIT | {"class_token": False, "global_pool": "avg"}, "blocks.1.norm1", 0),
        ("vit_tiny_patch16_224", VIT | {"reg_tokens": 4}, "blocks.1.norm1", 5),
        ("deit_tiny_distilled_patch16_224", VIT, "blocks.1.norm1", 2),
        ("resnet18", {}, "layer2", "first"),
    ],
)
def test_a_map_equals_that_of_features_moved_by_hand(name, options, path, prefix):
    model, x, classes = small(name, **options), torch.rand(4, 3, 64, 64), torch.arange(4)
    if prefix == "first":
        x = x[..., :32, :32]
        found, expected = grad_cam(model, x, classes), by_captum(model, model.get_submodule(path), x, classes)
    else:
        found, first = grad_cam(model, x, classes), ChannelsFirst(prefix)
        parent, _, last = path.rpartition(".")
        layer = model.get_submodule(path)
        setattr(model.get_submodule(parent), last, nn.Sequential(layer, first, Back(first)))
        expected = by_captum(model, first, x, classes)
    assert found is not None
    assert expected.max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_tokens_come_to_their_place():
    tokens = torch.arange(7.0).view(1, 7, 1)
    placed = FeatureMaps(nn.Identity(), "tokens", (2, 3), prefix=1).placed(tokens)
    assert placed.tolist() == [[[[1, 2, 3], [4, 5, 6]]]]
    rows_and_columns = torch.arange(6.0).view(1, 2, 3, 1)
    assert FeatureMaps(nn.Identity(), "channels last").placed(rows_and_columns).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]


class OneBrightPatch(nn.Module):
    """Channels-last features of 8×8 patches, as many channels as rows; class 0 is how bright the brightest patch is."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 8, 8, bias=False)
        self.mixed = nn.Linear(8, 8, bias=False)
        nn.init.constant_(self.patches.weight, 1 / 64)
        nn.init.eye_(self.mixed.weight)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.mixed(self.patches(x).movedim(1, 3))
        score = maps.mean(dim=(1, 2, 3))
        return torch.stack([score, -score], dim=1)


def test_as_many_channels_as_rows_and_columns_are_told_by_the_layers():
    x = torch.zeros(1, 1, 64, 64)
    x[:, :, 16:24, 40:48] = 1  # the patch in row 2, column 5
    found = grad_cam(OneBrightPatch(), x, torch.tensor([0]))
    assert found is not None
    assert divmod(int(found[0].argmax()), 64)[0] // 8 == 2
    assert divmod(int(found[0].argmax()), 64)[1] // 8 == 5


@pytest.mark.parametrize("name", ["mixer_s16_224", "xcit_nano_12_p16_224"])
def test_tokens_without_a_known_grid_give_no_map(name):
    options = {"img_size": 64} if name == "mixer_s16_224" else {}
    model = small(name, **options)
    assert last_maps(model, torch.rand(1, 3, 64, 64)) is None


def test_tokens_that_are_not_the_grids_give_no_map():
    model = small("vit_tiny_patch16_224", **VIT)
    model.patch_embed.grid_size = (2, 8)  # as many, but not in the proportions of the image
    assert last_maps(model, torch.rand(1, 3, 64, 64)) is None


def test_an_explanation_without_maps_says_so():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    data = Dataset.from_tensors(torch.randint(256, (12, 1, 8, 8), dtype=torch.uint8), torch.arange(12) % 2)
    amounts = Amounts(images=2, stability=2, fragility=2, steps=4, search=2)
    found = explain(model, data, "fgsm", Threat("linf", 0.1), amounts=amounts)
    assert "grad_cam" not in found.arrays
    (note,) = found.facts["notes"]
    assert "Grad-CAM is left out" in note
