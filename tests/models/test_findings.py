"""Each common mistake gives its finding, and a correct model none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.models.checks import inspect_model, model_warnings
from inoculate.models.findings import Finding
from inoculate.models.loading.outputs import AsLogits
from inoculate.models.normalize import NORMALIZATIONS, Normalize, normalized

CLASSES, N = 4, 64
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")


@pytest.fixture(scope="module")
def sample() -> tuple[Tensor, Tensor]:
    """Images whose class is the brighter quarter, and the labels."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(N) % CLASSES
    x = torch.rand(N, 3, 8, 8, generator=g) * 0.4 + 0.2
    for i, label in enumerate(y.tolist()):
        x[i, :, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 0.3
    return (x * 255).round().to(torch.uint8), y


class Quarters(nn.Module):
    """Correct: the mean of each quarter is its logit."""

    def forward(self, x: Tensor) -> Tensor:
        return 20 * F.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)


class ExpectsPixels(nn.Module):
    """Right only on images normalised by `prepare`."""

    def __init__(self, prepare: Normalize) -> None:
        super().__init__()
        self.prepare, self.inner = prepare, Quarters()

    def forward(self, x: Tensor) -> Tensor:
        plain = x * self.prepare.std + self.prepare.mean  # back to [0, 1], if the caller normalised
        fits = ((plain > -0.01) & (plain < 1.01)).flatten(1).all(1) & ((plain.mean((1, 2, 3)) - 0.45).abs() < 0.06)
        wrong = x.mean((1, 2, 3))[:, None] * torch.eye(CLASSES)[0] / 10  # hardly depends on the image
        return torch.where(fits[:, None], self.inner(plain), wrong)


def dataset(sample: tuple[Tensor, Tensor], classes: int) -> Dataset:
    return Dataset.from_tensors(*sample, classes=[str(number) for number in range(classes)])


def check(model: nn.Module, sample: tuple[Tensor, Tensor], classes: int = CLASSES) -> list[Finding]:
    found = inspect_model(model, dataset(sample, classes))
    assert all("\n" not in str(f) and len(str(f)) < 300 for f in found)
    return found


def refused(model: nn.Module, sample: tuple[Tensor, Tensor], classes: int = CLASSES) -> str:
    with pytest.raises(InputError) as caught:
        inspect_model(model, dataset(sample, classes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def then(layer: Callable[[Tensor], Tensor]) -> nn.Module:
    """The correct model, with something done to its outputs."""

    class Then(Quarters):
        def forward(self, x: Tensor) -> Tensor:
            return layer(super().forward(x))

    return Then()


@pytest.mark.smoke
def test_correct_model_has_no_findings(sample: tuple[Tensor, Tensor]) -> None:
    assert check(Quarters(), sample) == []
    assert check(AsLogits(then(lambda z: z.softmax(1)), "probabilities"), sample) == []
    assert check(AsLogits(then(lambda z: z.log_softmax(1)), "log-probabilities"), sample) == []


def test_untrained_model_has_no_findings(sample: tuple[Tensor, Tensor]) -> None:
    for seed in range(5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, CLASSES))
        assert check(model, sample) == []


@pytest.mark.parametrize("name", ["0-255", "imagenet", "cifar10"])
def test_missing_normalisation(name: str, sample: tuple[Tensor, Tensor]) -> None:
    (found,) = check(ExpectsPixels(Normalize(*NORMALIZATIONS[name])), sample)
    assert "on 25% of 64 sample images, and on 100% once they are" in found.what
    cures = {"imagenet", "cifar10"} if name != "0-255" else {name}  # nearly the same two
    assert any(f"--normalize {cure}" in found.cure for cure in cures)
    assert ("multiplied by 255" in found.what) == (name == "0-255")
    few = (sample[0][:31], sample[1][:31])
    assert check(ExpectsPixels(Normalize(*NORMALIZATIONS[name])), few) == []


class Hues(nn.Module):
    """Correct: class 0 is red, 1 green, 2 blue, by the mean of each channel; class 3 is none of them."""

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean((2, 3))
        return 20 * torch.cat([means - means.mean(1, keepdim=True), torch.full_like(means[:, :1], 0.02)], dim=1)


@pytest.fixture(scope="module")
def hues() -> tuple[Tensor, Tensor]:
    """Images whose class is their colour: red, green or blue."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(N) % 3
    x = torch.rand(N, 3, 8, 8, generator=g) * 0.4 + 0.2
    x[torch.arange(N), y] += 0.3
    return (x * 255).round().to(torch.uint8), y


def test_channels_in_the_wrong_order(hues: tuple[Tensor, Tensor]) -> None:
    class OfBgr(nn.Module):
        """Trained on images read by OpenCV."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = Hues()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.flip(1))

    assert check(Hues(), hues) == []
    for model in (OfBgr(), normalized(OfBgr(), (0.0,), (1.0,))):
        (found,) = check(model, hues)
        assert "right on 33% of 64 sample images, and on 100% once their channels are reversed" in found.what
        assert "it expects BGR images" in found.what
        assert "x.flip(1)" in found.cure
    few = (hues[0][:31], hues[1][:31])
    assert check(OfBgr(), few) == []


def test_model_with_a_normalisation_inside(sample: tuple[Tensor, Tensor]) -> None:
    assert check(normalized(ExpectsPixels(Normalize(*NORMALIZATIONS["cifar10"])), (0.0,), (1.0,)), sample) == []


def test_missing_normalisation_of_grey_images(sample: tuple[Tensor, Tensor]) -> None:
    grey = (sample[0][:, :1], sample[1])
    (found,) = check(ExpectsPixels(Normalize(*NORMALIZATIONS["mnist"])), grey)
    assert "--normalize mnist" in found.cure


def test_majority_class_baseline_is_no_evidence(sample: tuple[Tensor, Tensor]) -> None:
    class Bright(nn.Module):
        """Class 1 for bright images, else class 0: on images of class 1 alone, ×255 would make it perfect."""

        def forward(self, x: Tensor) -> Tensor:
            bright = (x.mean((1, 2, 3)) > 2).float()
            classes = torch.stack([1 - bright, bright, *[torch.zeros_like(bright)] * 2], dim=1)
            return 9 * classes + x.mean((1, 2, 3))[:, None] / 100

    assert check(Bright(), (sample[0], torch.ones_like(sample[1]))) == []


def test_train_mode_with_batchnorm(sample: tuple[Tensor, Tensor]) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), Quarters())
    (found,) = check(model.train(), sample)
    assert "train mode" in found.what
    assert check(model.eval(), sample) == []
    assert check(nn.Sequential(nn.Dropout(0.5), Quarters()).train(), sample) == []  # eval mode says it all


def test_predictions_that_depend_on_the_batch(sample: tuple[Tensor, Tensor]) -> None:
    (found,) = check(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), Quarters()).eval(), sample)
    assert "depends on the other images of its batch" in found.what


def test_random_predictions(sample: tuple[Tensor, Tensor]) -> None:
    (found,) = check(then(lambda z: z + torch.randn_like(z)), sample)
    assert "predictions are random" in found.what
    assert "autoattack_rand" in found.cure
    assert check(then(lambda z: z + 1e-4 * torch.randn_like(z)), sample) == []  # as rounding on an accelerator


def test_probabilities(sample: tuple[Tensor, Tensor]) -> None:
    (found,) = check(then(lambda z: z.softmax(1)), sample)
    assert "probabilities" in found.what
    assert "--outputs probabilities" in str(found)
    assert check(then(lambda z: (z / 40).sigmoid()), sample) == []  # rows do not sum to 1, and lie close together


def test_log_probabilities_and_sigmoids(sample: tuple[Tensor, Tensor]) -> None:
    (found,) = check(then(lambda z: z.log_softmax(1)), sample)
    assert "log-probabilities: they serve as logits" in str(found)
    (found,) = check(then(lambda z: (z - 9).sigmoid()), sample)
    assert "--outputs sigmoid" in found.cure
    assert check(AsLogits(then(lambda z: (z - 9).sigmoid()), "sigmoid"), sample) == []
    assert check(then(lambda z: -z), sample) != [found]  # negative, but no log-probabilities


def test_images_with_outputs_that_are_not_finite_do_not_hide_the_others(sample: tuple[Tensor, Tensor]) -> None:
    def one_nan(z: Tensor) -> Tensor:
        return torch.where(torch.arange(len(z))[:, None] == 3, torch.nan, z) if len(z) == N else z

    assert check(then(one_nan), sample) == []
    (found,) = check(then(lambda z: one_nan(z.softmax(1))), sample)
    assert "probabilities" in found.what
    (found,) = check(then(lambda z: one_nan(z + torch.randn_like(z))), sample)
    assert "predictions are random" in found.what


def test_zero_gradient(sample: tuple[Tensor, Tensor]) -> None:
    (found,) = check(then(lambda z: 1e4 * z), sample)
    assert "logits are saturated" in found.what
    assert "autoattack" in found.cure
    assert check(then(lambda z: 5 * z), sample) == []
    (found,) = check(then(lambda z: z * 0), sample)
    assert "same outputs for all 64" in found.what


def test_other_class_order(sample: tuple[Tensor, Tensor]) -> None:
    (found,) = check(then(lambda z: z[:, [1, 0, 3, 2]]), sample)
    assert "0→1, 1→0, 2→3, 3→2" in found.what
    two = (sample[0], sample[1] % 2)
    swapped = then(lambda z: torch.stack([z[:, [1, 3]].amax(1), z[:, [0, 2]].amax(1)], dim=1))
    (found,) = check(swapped, two, classes=2)
    assert "right on 0% of 64" in found.what


def test_single_output_for_two_classes(sample: tuple[Tensor, Tensor]) -> None:
    two = (sample[0], sample[1] % 2)
    logit = then(lambda z: z[:, [1, 3]].amax(1) - z[:, [0, 2]].amax(1))
    column = then(lambda z: (z[:, [1, 3]].amax(1) - z[:, [0, 2]].amax(1))[:, None])
    for model in (logit, column):
        assert "--outputs single-logit" in refused(model, two, classes=2)
        assert check(AsLogits(model, "single-logit"), two, classes=2) == []
        assert "--outputs probabilities" in refused(nn.Sequential(model, nn.Sigmoid()), two, classes=2)
        assert check(AsLogits(nn.Sequential(model, nn.Sigmoid()), "probabilities"), two, classes=2) == []
        assert "declared as probabilities" in refused(AsLogits(model, "probabilities"), two, classes=2)


def test_model_that_cannot_be_measured_is_refused_in_one_line(sample: tuple[Tensor, Tensor]) -> None:
    assert "knows 4 classes and the data has 10" in refused(Quarters(), sample, classes=10)
    assert "shape (1, 2, 2) for 1 images" in refused(then(lambda z: z.view(-1, 2, 2)), sample)
    assert "returns dict, not a tensor" in refused(then(lambda z: {"scores": z}), sample)  # type: ignore[arg-type, return-value]
    assert "does not take 3×8×8 images" in refused(nn.Linear(7, 4), sample)
    assert "declared as a single logit" in refused(AsLogits(Quarters(), "single-logit"), sample)
    scripted = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(7, 4)))
    assert "mat1 and mat2" in refused(scripted, sample)  # not the first line of TorchScript's traceback


def test_model_and_random_state_are_left_as_they_were(sample: tuple[Tensor, Tensor]) -> None:
    class HasSideEffects(nn.Module):
        """Draws random numbers and updates its statistics even in eval mode."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.inner = nn.BatchNorm2d(3), Quarters()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            norm = self.norm
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True)
            return self.inner(F.dropout(x, 0.5, training=True))

    model = HasSideEffects().train()
    model.norm.weight.requires_grad_(False)
    before, rng = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    for classes in (CLASSES, CLASSES + 1):
        with torch.inference_mode():
            refused(model, sample, classes) if classes > CLASSES else check(model, sample)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(m.training for m in model.modules())
    assert [p.requires_grad for p in model.parameters()] == [False, True]
    assert all(p.grad is None for p in model.parameters())


def test_output_that_holds_logits(sample: tuple[Tensor, Tensor]) -> None:
    for pack, name, place in (
        (lambda z: {"logits": z}, "dict", "output['logits']"),
        (lambda z: (z, z), "tuple", "output[0]"),
    ):
        (found,) = check(then(pack), sample)  # type: ignore[arg-type]
        assert f"the model returns {name}, not a tensor" in found.what
        assert found.cure == f"{place} is used as the logits"


def test_warnings_name_their_model(sample: tuple[Tensor, Tensor]) -> None:
    data = dataset(sample, CLASSES)
    assert model_warnings(Quarters(), data) == []
    (line,) = model_warnings(then(lambda z: z.softmax(1)), data, name="teacher a")
    assert line.startswith("teacher a: the outputs are probabilities")
    with pytest.raises(InputError, match=r"^surrogate b: the model does not take 3×8×8 images"):
        model_warnings(nn.Linear(7, 4), data, name="surrogate b")
