"""The panel is calm about an honest model and alarmed by those that fool gradient attacks."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from evaluation_samples import Misleading, measured
from scipy.stats import binom
from torch import Tensor, nn

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.base import Attack
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fab import FAB
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.fmn import FMN
from inoculate.attacks.mifgsm import MIFGSM
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.checks import GAP, HONEST, Check, run_checks
from inoculate.evaluation.engine import Settings
from inoculate.evaluation.sample import ENOUGH, SIGNIFICANT
from inoculate.models.classifier import prepare


def checked(
    model: nn.Module,
    split: Dataset,
    attacks: Mapping[str, Attack],
    threat: Threat = Threat("linf", 0.1),
    surrogates: Mapping[str, nn.Module] | None = None,
) -> dict[str, Check]:
    others = {name: prepare(other, split) for name, other in (surrogates or {}).items()}
    return {c.name: c for c in run_checks(prepare(model, split), split, attacks, threat, surrogates=others)}


def panel(
    model: nn.Module, split: Dataset, eps: float = 0.1, surrogates: Mapping[str, nn.Module] | None = None
) -> dict[str, Check]:
    attacks = {"fgsm": FGSM(), "pgd": PGD(), "square": Square(), "autoattack": AutoAttack()}
    return checked(model, split, attacks, Threat("linf", eps), surrogates)


def test_an_honest_model_passes(digits: tuple[nn.Module, Dataset]) -> None:
    for eps in (0.03, 0.1):
        checks = panel(*digits, eps, surrogates={"itself": digits[0]})
        assert [c.passed for c in checks.values()] == [True] * 7, eps
    transfer = panel(*digits)["transfer"]
    assert transfer.passed is None
    assert transfer.message.startswith("give another model")


class _Scaled(nn.Module):
    """Logits so large that the cross-entropy's gradient is exactly 0 in fp32."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x) * self.scale
        return logits


def test_vanishing_gradients_alarm(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    checks = panel(_Scaled(model, 1e4), split)
    assert checks["gradients"].passed is False
    assert checks["a very large eps"].passed is False
    assert "masked" in checks["gradients"].message


def test_gradients_that_mislead_alarm(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    checks = panel(Misleading(model), split, surrogates={"honest": model})
    for name in ("gradient-free", "transfer from honest"):
        assert checks[name].passed is False, name
        assert "masked" in checks[name].message
    assert panel(Misleading(model), split, 0.7)["random noise"].passed is False


def test_an_alarm_on_few_images_does_not_say_that_they_are_too_few(digits: tuple[nn.Module, Dataset]) -> None:
    model, data = digits
    check = panel(Misleading(model), data.subset(range(40)))["random noise"]
    assert check.passed is False
    assert "FGSM comes nearer" in check.message
    assert "too few" not in check.message


class _Random(nn.Module):
    """Answers at random half the time."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x) + 6 * torch.randn(len(x), 10)
        return logits


def test_a_random_model_is_named(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        check = panel(_Random(model), split)["eps = 0"]
    assert check.passed is False
    assert "autoattack_rand" in check.message


class _Blind(nn.Module):
    """No gradient reaches the images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.inner(x)
        return logits


def test_a_model_without_gradients_is_checked_as_far_as_that_goes(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    checks = checked(_Blind(model), split, {"square": Square()})
    assert [(c.name, c.passed) for c in checks.values()] == [("eps = 0", True), ("gradients", None)]
    assert "square" in checks["gradients"].message


def test_a_model_that_knows_nothing_is_not_checked(digits: tuple[nn.Module, Dataset]) -> None:
    _, split = digits
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        wrong[1].weight.zero_()
        wrong[1].bias.copy_(torch.nn.functional.one_hot(torch.tensor(0), 10) * 1.0)
    none = Dataset.from_tensors(
        split.images[split.labels != 0], split.labels[split.labels != 0], classes=list("0123456789")
    )
    (check,) = checked(wrong, none, {"fgsm": FGSM()}).values()
    assert check.passed is None
    assert "none of the images" in check.message


class _Rooted(nn.Module):
    """The same function of the pixels, but the gradient at black ones is not a number."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner((x**2).sqrt())
        return logits


def test_gradients_that_are_no_numbers_alarm_and_do_not_stop_attacks(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    part = split.subset(range(24))
    checks = panel(_Rooted(model), part)
    assert checks["gradients"].passed is False
    assert "not a number" in checks["gradients"].message
    for norm, eps in (("linf", 0.15), ("l2", 1.0)):
        for attack in (MIFGSM(), PGD(), DeepFool(), FMN(), FAB()):
            threats = [Threat(norm, eps)]  # type: ignore[arg-type]
            rows = measured(_Rooted(model), part, {"a": attack}, threats)
            assert rows[1].accuracy < rows[0].accuracy - 0.2, (norm, attack)  # black pixels stay as they are


def test_an_honest_model_passes_in_every_norm(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    for threat in (Threat("l2", 0.5), Threat("l1", 2.0), Threat("l0", 2), Threat("l0", 5)):
        checks = checked(model, split, {"pgd": PGD()}, threat)
        assert not [check for check in checks.values() if check.passed is False], threat
        assert threat.norm != "l0" or "sparse_rs" in checks["gradient-free"].message


class _Scrambled(nn.Module):
    """The same function, but half of the gradient's signs are wrong, other ones for each image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.places = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        signs = (1e4 * (x.detach().mean(dim=(1, 2, 3), keepdim=True) + self.places)).sin().sign()
        logits: Tensor = self.inner(x.detach() + signs * (x - x.detach()))
        return logits


def test_fgsm_that_leads_nowhere_alarms_even_where_nothing_breaks(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    for inner, calm in ((model, True), (_Scrambled(model), False)):
        checks = checked(inner, split, {"fgsm": FGSM()}, Threat("linf", 1e-3))
        assert checks["random noise"].passed is calm, checks["random noise"].message
    assert "nearer to an error" in checks["random noise"].message


def test_enough_images_show_a_gap_of_eight_points() -> None:
    """By both tests that compare two attacks, in four of five samples; with a tenth fewer, not."""

    def power(images: int) -> float:
        flips = next(k for k in range(99) if 0.5**k < SIGNIFICANT)  # McNemar's test, all in one direction
        broken = next(k for k in range(99) if binom.sf(k - 1, images, HONEST) < SIGNIFICANT)
        return float(binom.sf(max(flips, broken) - 1, images, GAP))

    assert power(ENOUGH) >= 0.8 > power(ENOUGH - 11)


COMPARISONS = ("random noise", "more steps", "gradient-free", "transfer from itself")


def test_a_comparison_without_power_does_not_pass(digits: tuple[nn.Module, Dataset]) -> None:
    """On 64 images nothing is found; that says nothing of a gap of 8 points, while a single error is an alarm."""
    model, split = digits
    checks = panel(model, split.subset(range(64)), 0.03, surrogates={"itself": model})
    for name in COMPARISONS:
        assert checks[name].passed is None, name
        assert "too few images that the model gets right to see a gap of 8 points" in checks[name].message
        assert f"of {ENOUGH})" in checks[name].message
    assert [checks[name].passed for name in checks if name not in COMPARISONS] == [True] * 3


class _PartlyMisleading(nn.Module):
    """The gradient points the wrong way on the images that are brighter than `above`."""

    def __init__(self, inner: nn.Module, above: float) -> None:
        super().__init__()
        self.inner, self.misleading, self.above = inner, Misleading(inner), above

    def forward(self, x: Tensor) -> Tensor:
        bright = x.detach().mean(dim=(1, 2, 3))[:, None] > self.above
        return torch.where(bright, self.misleading(x), self.inner(x))


def test_masked_gradients_of_an_eighth_of_the_images_alarm(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    above = float((split.images.float() / 255).mean(dim=(1, 2, 3)).quantile(0.87))
    check = checked(_PartlyMisleading(model, above), split, {"pgd": PGD()}, Threat("linf", 0.25))["gradient-free"]
    assert check.passed is False, check.message


@pytest.mark.slow
def test_honest_networks_pass_over_five_seeds(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    classifier = prepare(model, split)
    for threat in (Threat("linf", 0.03), Threat("linf", 0.06), Threat("linf", 0.1), Threat("l2", 0.3)):
        for seed in range(5):
            checks = run_checks(classifier, split, {"pgd": PGD()}, threat, Settings(seed=seed))
            assert not [check for check in checks if check.passed is False], (threat, seed)
