"""The prepared classifier."""

from __future__ import annotations

import pytest
import torch
from model_samples import small_data, tutorial_images, tutorial_net
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from inoculate.attacks.registry import get_attack
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.acceleration.fast import CraftingCopy, fast, original
from inoculate.models.classifier import Classifier, prepare

ROWS = torch.arange(6)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset.from_tensors((tutorial_images() * 255).to(torch.uint8), ROWS % 4, classes="abcd")


class Fixed(nn.Module):
    """The same logits for every image, or whatever else is given."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


@pytest.mark.smoke
def test_prediction_literally() -> None:
    classifier = prepare(Fixed(1.0, 4.0, 2.0), small_data(classes="abc"))
    with classifier.ready():
        right, predicted, margin = classifier.predict(torch.zeros(3, 3, 8, 8), torch.arange(3))
    assert right.tolist() == [False, True, False]
    assert predicted.tolist() == [1, 1, 1]
    assert margin.tolist() == [3.0, -2.0, 2.0]


def test_output_that_is_not_finite_is_an_error() -> None:
    for bad in (torch.nan, torch.inf):
        classifier = prepare(Fixed(1.0, bad), small_data(classes="ab"))
        with classifier.ready():
            assert not classifier.predict(torch.zeros(2, 3, 8, 8), torch.tensor([1, 1])).right.any()


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_prepared_model_gives_the_models_own_predictions(precision: str, data: Dataset) -> None:
    net = tutorial_net().train()
    classifier = prepare(net, data, precision=precision)  # type: ignore[arg-type]
    assert all(m.training for m in net.modules())
    assert classifier.model is net
    assert (classifier.crafting is net) == (precision == "exact")
    assert original(classifier.crafting) is net
    with classifier.ready():
        x, y = classifier.load(data, ROWS)
        assert not net.training
        got = classifier.predict(x, y)
    assert net.training
    with torch.no_grad():
        logits = net.eval()(data.images.float() / 255)
    assert torch.equal(got.predicted, logits.argmax(1))
    assert torch.equal(got.right, logits.argmax(1) == data.labels)


def test_fast_copy_is_verified_on_the_data(data: Dataset) -> None:
    crafting = prepare(tutorial_net(), data).crafting
    assert isinstance(crafting, CraftingCopy)
    assert crafting.is_verified

    class ReadsItsNorm(nn.Sequential):
        """Needs BatchNorm, which its copy has folded, for the real images alone."""

        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            return logits + self[1].running_mean.mean() if torch.equal(x[0, 0, 0, 0], first) else logits

    first = data.images[0, 0, 0, 0] / 255
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = ReadsItsNorm(*layers).eval()
    assert prepare(model, data).crafting is model


def test_copy_is_prepared_as_its_original(data: Dataset) -> None:
    net = tutorial_net()
    assert prepare(fast(net), data).model is net


def test_half_precision_model_takes_fp32_images(data: Dataset) -> None:
    classifier = prepare(tutorial_net().to(torch.bfloat16), data)
    with classifier.ready():
        x, y = classifier.load(data, ROWS)
        assert x.dtype is torch.float32
        assert classifier.predict(x, y).margin.dtype is torch.float32


def predict(classifier: Classifier, data: Dataset) -> None:
    with classifier.ready():
        classifier.predict(*classifier.load(data, torch.arange(len(data))))


def test_wrong_outputs_are_refused_in_one_line(data: Dataset) -> None:
    for model, message in (
        (Fixed(1.0, 2.0), r"knows 2 classes and the data has 4: .* an output per class of the data"),
        (nn.Linear(7, 4), "does not take 3×8×8 images"),
        (nn.Identity(), r"outputs of shape \(6, 3, 8, 8\)"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            predict(prepare(model, data), data)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="declare it with --outputs"):
        predict(prepare(Fixed(1.0), small_data(classes="ab")), small_data(classes="ab"))
    with pytest.raises(InputError, match="precision 'quick' is unknown"):
        prepare(Fixed(1.0), data, precision="quick")  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_compiled_model_is_not_compiled_again_at_every_step(precision: str, data: Dataset) -> None:
    net, counts = tutorial_net(), []
    for steps in (1, 5):
        torch._dynamo.reset()
        counter = CompileCounter()
        classifier = prepare(torch.compile(net, backend=counter), data, precision=precision)  # type: ignore[arg-type]
        attack = get_attack("pgd", steps=steps)
        with classifier.ready():
            x, y = classifier.load(data, ROWS)
            for _ in range(2):
                x_adv = attack(classifier.crafting, x, y, Threat(eps=0.1), generator=torch.Generator().manual_seed(0))
                classifier.predict(x_adv, y)
            expected = attack(net, x, y, Threat(eps=0.1), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-5)
        counts.append(counter.frame_count)
    torch._dynamo.reset()
    assert counts[0] == counts[1] <= 4
