from __future__ import annotations

import pytest
import torch
from digits_samples import trained_digits
from torch import nn

from inoculate.attribution.features import last_maps
from inoculate.attribution.maps import grad_cam, integrated_gradients
from inoculate.core.pixels import to_float
from inoculate.models.build import build_model


def test_evidence_of_a_linear_model_is_weight_times_pixel():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    model[1].weight.data = torch.tensor([[1.0, -2.0, 3.0, 0.0], [0.0, 1.0, 0.0, -1.0]])
    x = torch.tensor([[[[0.5, 0.25], [1.0, 0.75]]], [[[0.5, 0.25], [1.0, 0.75]]]])
    found = integrated_gradients(model, x, torch.tensor([0, 1]), steps=4)
    torch.testing.assert_close(found[0], torch.tensor([[0.5, -0.5], [3.0, 0.0]]))
    torch.testing.assert_close(found[1], torch.tensor([[0.0, 0.25], [0.0, -0.75]]))


def test_evidence_sums_to_what_the_image_adds_to_the_logit():
    model, split = trained_digits()
    x = to_float(split.images[:8])
    with torch.no_grad():
        logits, black = model(x), model(torch.zeros_like(x))
    classes = logits.argmax(dim=1)
    gained = (logits - black).gather(1, classes[:, None]).squeeze(1)
    found = integrated_gradients(model, x, classes, steps=64).sum(dim=(1, 2))
    torch.testing.assert_close(found, gained, rtol=0.02, atol=0.05)


def test_focus_lies_where_the_class_was_found():
    """One map that copies the image, a mean over it, and two classes: bright counts for one, against the other."""
    conv = nn.Conv2d(1, 1, 1, bias=False)
    conv.weight.data.fill_(1.0)
    last = nn.Linear(1, 2, bias=False)
    last.weight.data = torch.tensor([[1.0], [-1.0]])
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    x = torch.zeros(2, 1, 8, 8)
    x[:, :, 2, 5] = 1.0
    found = grad_cam(model, x, torch.tensor([0, 1]))
    assert found is not None
    assert found[0].flatten().argmax() == 2 * 8 + 5
    assert found[1].abs().max() == 0  # evidence against is cut off


@pytest.mark.parametrize(
    ("name", "size", "block", "side"),
    [("resnet18", 32, "layer2.1", 4), ("resnet18", 64, "layer3.1", 4), ("mobilenetv3_small_050", 64, None, 4)],
)
def test_the_last_maps_with_a_sense_of_place(name, size, block, side):
    model = build_model(name, classes=4, image_size=size).eval()
    image = torch.zeros(1, 3, size, size)
    found = last_maps(model, image)
    names = {module: path for path, module in model.named_modules()}
    assert block is None or names[found.layer] == f"network.{block}"
    shapes = []
    hook = found.layer.register_forward_hook(lambda _m, _i, out: shapes.append(out.shape))
    model(image)
    hook.remove()
    assert min(shapes[0][2:]) >= side


def test_a_network_without_maps_has_no_focus():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert grad_cam(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 1])) is None
