"""The same images as torchattacks, foolbox and ART, pixel by pixel.

A pixel whose gradient is 0 up to rounding may take either sign in two libraries that sum in another order, so pixels
whose gradient falls below a millionth of their image's largest one, at any step, are left out: below 0.1 % of them. An
image at a kink of the network (a ReLU at 0 up to rounding) has two gradients, of which each library may take the other:
where a change of 1e-7 makes another gradient, the image is left out: at most half of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from attack_samples import for_every, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective, get_loss
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.pgd import PGD
from inoculate.core.modes import frozen
from inoculate.core.rng import Draws
from inoculate.core.threat import Norm, Threat, project, sample, steepest_direction, step_along
from inoculate.models.build import build_model

EPSILONS = (0.01, 0.03, 8 / 255)
STEPS, STEP = 5, 0.25
KINKS = 4  # changes that are tried at each step
NETS = ("cnn", "resnet18")
SETTINGS = [*(("cnn", eps) for eps in EPSILONS), ("resnet18", 8 / 255)]


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    """Some libraries seed or draw from the global generators."""
    with torch.random.fork_rng(devices=[]):
        before = np.random.get_state()
        yield
        np.random.set_state(before)


@cache
def network(name: str) -> nn.Module:
    """A small net, or a ResNet with BatchNorm statistics and weights of its own (as built, its branches have none)."""
    if name == "cnn":
        return small_net(classes=10)
    model = build_model("resnet18", classes=10, channels=3, image_size=32).train()
    g = seeded(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=g)
        for i in range(4):
            model(torch.rand(16, 3, 32, 32, generator=seeded(i)))
    return model.eval()


@cache
def batch(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels, and each image's least likely class. Eight: the mean and the sum of a loss differ exactly."""
    x = torch.rand(8, 3, 32, 32, generator=seeded(1))
    with torch.no_grad():
        logits = network(name)(x)
    return x, logits.topk(2).indices[torch.arange(8), torch.arange(8) % 2], logits.argmin(1)


def same(ours: Tensor, theirs: Any, x: Tensor, where: Tensor | None = None) -> None:
    """Assert that both results are the same images, at the pixels `where` (bool) the comparison is certain."""
    theirs = torch.as_tensor(theirs)
    assert theirs.shape == ours.shape
    assert (ours - x).abs().flatten(1).amax(1).min() > 1e-3  # both moved
    difference = (ours - theirs).abs()
    assert (difference if where is None else difference[where]).max() <= 1e-6


@dataclass(frozen=True)
class Walk:
    """A walk of steepest ascent on a network: what a comparison is certain of depends on its gradients."""

    net: str
    threat: Threat
    steps: int = 1
    step: float = 1.0
    labels: str = "true"  # or "least", "three"
    start: str = "image"  # or "random"; "centred": the image drawn to the middle of the range

    def images(self) -> Tensor:
        x = batch(self.net)[0]
        return 0.25 + 0.5 * x if self.start == "centred" else x

    def first(self) -> Tensor:
        x = self.images()
        return sample(x, self.threat, Draws(x, seeded(5))) if self.start == "random" else x


@cache
def certain(walk: Walk) -> Tensor:
    """Pixels (bool) whose gradient is clear of 0 at every step; nearly all, or the comparison says nothing."""
    net, (_, y, least) = network(walk.net), batch(walk.net)
    x, x_adv = walk.images(), walk.first()
    labels = {"true": y, "least": least, "three": torch.full_like(y, 3)}[walk.labels]
    objective, noise = Objective(get_loss("cross_entropy"), labels), seeded(2)
    clear, smooth = torch.ones_like(x, dtype=torch.bool), torch.ones(len(x), dtype=torch.bool)
    with frozen(net):
        for _ in range(walk.steps):
            g = value_and_input_grad(net, x_adv, objective).gradient
            largest = g.abs().flatten(1).amax(1)
            clear &= g.abs() > 1e-6 * largest.view(-1, 1, 1, 1)
            for _ in range(KINKS):
                near = x_adv + 1e-7 * torch.randn(x.shape, generator=noise)
                change = value_and_input_grad(net, near, objective).gradient - g
                smooth &= change.abs().flatten(1).amax(1) < 1e-4 * largest
            direction = steepest_direction(g, walk.threat.norm)
            ahead = x_adv + step_along(x_adv, x, direction, walk.step * walk.threat.eps, walk.threat)
            x_adv = project(ahead, x, walk.threat)
    assert (~clear).float().mean() < 0.001
    assert smooth.float().mean() >= 0.5
    return clear & smooth.view(-1, 1, 1, 1)


# --- torchattacks


@for_every(SETTINGS)
def test_torchattacks_fgsm(name: str, eps: float) -> None:
    peer = pytest.importorskip("torchattacks")
    net, (x, y, _) = network(name), batch(name)
    theirs = peer.FGSM(net, eps=eps)(x, y)
    same(FGSM()(net, x, y, Threat("linf", eps)), theirs, x, certain(Walk(name, Threat("linf", eps))))


@for_every(SETTINGS)
def test_torchattacks_one_step_target(name: str, eps: float) -> None:
    peer = pytest.importorskip("torchattacks")
    net, (x, y, least) = network(name), batch(name)
    attack = peer.FGSM(net, eps=eps)
    attack.set_mode_targeted_by_label(quiet=True)
    clear = certain(Walk(name, Threat("linf", eps), labels="least"))
    same(OneStepTarget("least_likely")(net, x, y, Threat("linf", eps)), attack(x, least), x, clear)
    fixed = torch.full_like(y, 3)
    keep = y != 3  # we attack the images of the target class untargeted
    ours = OneStepTarget(3)(net, x, y, Threat("linf", eps))
    clear = certain(Walk(name, Threat("linf", eps), labels="three"))
    same(ours[keep], attack(x, fixed)[keep], x[keep], clear[keep])


@for_every(SETTINGS)
def test_torchattacks_bim(name: str, eps: float) -> None:
    peer = pytest.importorskip("torchattacks")
    net, (x, y, _) = network(name), batch(name)
    threat = Threat("linf", eps)
    theirs = peer.BIM(net, eps=eps, alpha=STEP * eps, steps=STEPS)(x, y)
    same(BIM(STEPS, STEP)(net, x, y, threat), theirs, x, certain(Walk(name, threat, STEPS, STEP)))


@for_every(SETTINGS)
def test_torchattacks_pgd_from_the_same_start(name: str, eps: float) -> None:
    peer = pytest.importorskip("torchattacks")
    net, (x, y, _) = network(name), batch(name)
    threat = Threat("linf", eps)
    walk = Walk(name, threat, STEPS, STEP, start="random")
    start = walk.first()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "uniform_", lambda self, *_bounds: self.copy_(start - x))
        theirs = peer.PGD(net, eps=eps, alpha=STEP * eps, steps=STEPS)(x, y)
    ours = PGD(STEPS, STEP)(net, x, y, threat, generator=seeded(5))
    same(ours, theirs, x, certain(walk))
    assert torch.equal(ours, PGD(STEPS, STEP)(net, x, y, threat, start=start))


@for_every(NETS)
def test_torchattacks_l2(name: str) -> None:
    peer = pytest.importorskip("torchattacks")
    net, (x, y, _) = network(name), batch(name)
    theirs = peer.PGDL2(net, eps=0.5, alpha=STEP * 0.5, steps=STEPS, random_start=False)(x, y)
    same(BIM(STEPS, STEP)(net, x, y, Threat("l2", 0.5)), theirs, x)


# --- foolbox


@for_every(SETTINGS)
def test_foolbox_fgsm(name: str, eps: float) -> None:
    peer = pytest.importorskip("foolbox")
    net, (x, y, _) = network(name), batch(name)
    theirs, _, _ = peer.attacks.FGSM()(peer.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=eps)
    same(FGSM()(net, x, y, Threat("linf", eps)), theirs, x, certain(Walk(name, Threat("linf", eps))))


@for_every(SETTINGS)
def test_foolbox_one_step_target(name: str, eps: float) -> None:
    """Its FGSM refuses targets; its BIM of one step is the same attack."""
    peer = pytest.importorskip("foolbox")
    net, (x, y, least) = network(name), batch(name)
    attack = peer.attacks.LinfBasicIterativeAttack(abs_stepsize=eps, steps=1, random_start=False)
    criterion = peer.criteria.TargetedMisclassification(least)
    theirs, _, _ = attack(peer.PyTorchModel(net, bounds=(0, 1)), x, criterion, epsilons=eps)
    ours = OneStepTarget("least_likely")(net, x, y, Threat("linf", eps))
    same(ours, theirs, x, certain(Walk(name, Threat("linf", eps), labels="least")))


@for_every(SETTINGS)
def test_foolbox_bim(name: str, eps: float) -> None:
    peer = pytest.importorskip("foolbox")
    net, (x, y, _) = network(name), batch(name)
    threat = Threat("linf", eps)
    attack = peer.attacks.LinfBasicIterativeAttack(abs_stepsize=STEP * eps, steps=STEPS, random_start=False)
    theirs, _, _ = attack(peer.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=eps)
    same(BIM(STEPS, STEP)(net, x, y, threat), theirs, x, certain(Walk(name, threat, STEPS, STEP)))


@for_every(SETTINGS)
def test_foolbox_pgd_from_the_same_start(name: str, eps: float) -> None:
    peer = pytest.importorskip("foolbox")
    ep = pytest.importorskip("eagerpy")
    net, (x, y, _) = network(name), batch(name)
    threat = Threat("linf", eps)
    walk = Walk(name, threat, STEPS, STEP, start="random")
    start = walk.first()
    attack = peer.attacks.LinfPGD(abs_stepsize=STEP * eps, steps=STEPS)
    attack.get_random_start = lambda _x, _eps: ep.astensor(start)
    theirs, _, _ = attack(peer.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=eps)
    ours = PGD(STEPS, STEP)(net, x, y, threat, start=start)
    same(ours, theirs, x, certain(walk))


@for_every(NETS, ["l2", "l1"])
def test_foolbox_other_norms(name: str, norm: Norm) -> None:
    peer = pytest.importorskip("foolbox")
    net, (x, y, _) = network(name), batch(name)
    model = peer.PyTorchModel(net, bounds=(0, 1))
    if norm == "l2":
        theirs, _, _ = peer.attacks.FGM()(model, x, y, epsilons=0.5)
        same(FGSM()(net, x, y, Threat("l2", 0.5)), theirs, x)
        attack = peer.attacks.L2BasicIterativeAttack(abs_stepsize=STEP * 0.5, steps=STEPS, random_start=False)
        theirs, _, _ = attack(model, x, y, epsilons=0.5)
        same(BIM(STEPS, STEP)(net, x, y, Threat("l2", 0.5)), theirs, x)
    else:  # its L1 step is the gradient over its L1 length, ours the steepest; the projections are the same
        far = (x + 0.1 * torch.randn(x.shape, generator=seeded(2))).clamp(0, 1)
        theirs = peer.distances.l1.clip_perturbation(x, far, 5.0)
        assert peer.distances.l1(x, far).min() > 10
        assert peer.distances.l1(x, project(far, x, Threat("l1", 5.0))).max() <= 5 + 1e-3
        ours = project(far, x, Threat("l1", 5.0))
        assert bool(((ours - far).flatten(1).norm(dim=1) <= (theirs - far).flatten(1).norm(dim=1) + 1e-6).all())


# --- ART


def art_classifier(net: nn.Module) -> Any:
    estimators = pytest.importorskip("art.estimators.classification")
    return estimators.PyTorchClassifier(
        net, loss=nn.CrossEntropyLoss(), input_shape=(3, 32, 32), nb_classes=10, clip_values=(0, 1), device_type="cpu"
    )


@for_every(SETTINGS, ["linf", "l2"])
def test_art_fgsm(name: str, eps: float, norm: Norm) -> None:
    evasion = pytest.importorskip("art.attacks.evasion")
    net, (x, y, least) = network(name), batch(name)
    eps = eps if norm == "linf" else 20 * eps
    order = np.inf if norm == "linf" else 2
    threat = Threat(norm, eps)
    theirs = evasion.FastGradientMethod(art_classifier(net), norm=order, eps=eps).generate(x.numpy(), y.numpy())
    same(FGSM()(net, x, y, threat), theirs, x, certain(Walk(name, threat)))
    attack = evasion.FastGradientMethod(art_classifier(net), norm=order, eps=eps, targeted=True)
    theirs = attack.generate(x.numpy(), least.numpy())
    same(OneStepTarget("least_likely")(net, x, y, threat), theirs, x, certain(Walk(name, threat, labels="least")))


@for_every(SETTINGS, ["linf", "l2"])
def test_art_pgd_from_the_image(name: str, eps: float, norm: Norm) -> None:
    """It clips to the range before it projects, so in L2 the images keep clear of the ends of the range."""
    evasion = pytest.importorskip("art.attacks.evasion")
    net, (x, y, _) = network(name), batch(name)
    eps = eps if norm == "linf" else 20 * eps
    threat = Threat(norm, eps)
    walk = Walk(name, threat, STEPS, STEP, start="image" if norm == "linf" else "centred")
    x = walk.images()
    attack = evasion.ProjectedGradientDescent(
        art_classifier(net), norm=np.inf if norm == "linf" else 2, eps=eps, eps_step=STEP * eps, max_iter=STEPS,
        num_random_init=0, verbose=False,
    )  # fmt: skip
    theirs = attack.generate(x.numpy(), y.numpy())
    where = certain(walk)
    same(BIM(STEPS, STEP)(net, x, y, threat), theirs, x, where)
    same(PGD(STEPS, STEP)(net, x, y, threat, start=x), theirs, x, where)
