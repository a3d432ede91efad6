"""The same images as torchattacks, foolbox and ART, pixel by pixel.

A pixel whose gradient is 0 up to rounding may take either sign in two libraries that sum in another order, so pixels
whose gradient falls below a millionth of their image's largest one, at any step, are left out: below 0.1 % of them. An
image at a kink of the network (a ReLU at 0 up to rounding) has two gradients, of which each library may take the other:
where a change of 1e-7 makes another gradient, the image is left out: at most half of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from attack_samples import seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective, get_loss
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.pgd import PGD
from inoculate.core.modes import frozen
from inoculate.core.rng import Draws
from inoculate.core.threat import Norm, Threat, project, sample, steepest_direction
from inoculate.models.build import build_model

EPSILONS = (0.01, 0.03, 8 / 255)
STEPS, STEP = 5, 0.25
KINKS = 4  # changes that are tried at each step
nets = pytest.mark.parametrize("net", ["cnn", "resnet18"], indirect=True)
epsilons = pytest.mark.parametrize("eps", EPSILONS)


@pytest.fixture(autouse=True)
def global_state_of_peers() -> Iterator[None]:
    """Some of them seed or draw from the global generators."""
    with torch.random.fork_rng(devices=[]):
        kept = np.random.get_state()
        yield
        np.random.set_state(kept)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """With BatchNorm statistics and weights of its own: as built, the residual branches' weights are 0."""
    model = build_model("resnet18", classes=10, channels=3, image_size=32).train()
    g = seeded(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=g)
        for i in range(4):
            model(torch.rand(16, 3, 32, 32, generator=seeded(i)))
    return model.eval()


@pytest.fixture
def net(request: pytest.FixtureRequest, resnet: nn.Module) -> nn.Module:
    return resnet if request.param == "resnet18" else small_net(classes=10)


def batch(net: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels, and each image's least likely class. Eight: the mean and the sum of a loss differ exactly."""
    x = torch.rand(8, 3, 32, 32, generator=seeded(1))
    with torch.no_grad():
        logits = net(x)
    return x, logits.topk(2).indices[torch.arange(8), torch.arange(8) % 2], logits.argmin(1)


def certain(
    net: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int = 1, step: float = 1.0, start: Tensor | None = None
) -> Tensor:
    """Pixels whose gradient is clear of 0 at every step; nearly all, or the comparison says nothing."""
    x_adv, clear = x if start is None else start, torch.ones_like(x, dtype=torch.bool)
    objective, noise = Objective(get_loss("cross_entropy"), y), seeded(2)
    smooth = torch.ones(len(x), dtype=torch.bool)
    with frozen(net):
        for _ in range(steps):
            g = value_and_input_grad(net, x_adv, objective).gradient
            largest = g.abs().flatten(1).amax(1)
            clear &= g.abs() > 1e-6 * largest.view(-1, 1, 1, 1)
            for _ in range(KINKS):
                near = value_and_input_grad(
                    net, x_adv + 1e-7 * torch.randn(x.shape, generator=noise), objective
                ).gradient
                smooth &= (near - g).abs().flatten(1).amax(1) < 1e-4 * largest
            x_adv = project(x_adv + step * threat.eps * steepest_direction(g, threat.norm), x, threat)
    assert (~clear).float().mean() < 0.001
    assert smooth.float().mean() >= 0.5
    return clear & smooth.view(-1, 1, 1, 1)


def same(ours: Tensor, theirs: Any, x: Tensor, where: Tensor | None = None) -> None:
    theirs = torch.as_tensor(theirs)
    assert theirs.shape == ours.shape
    assert (ours - x).abs().flatten(1).amax(1).min() > 1e-3  # both moved
    difference = (ours - theirs).abs()
    assert (difference if where is None else difference[where]).max() <= 1e-6


# --- torchattacks


@nets
@epsilons
def test_torchattacks_fgsm(net: nn.Module, eps: float) -> None:
    peer = pytest.importorskip("torchattacks")
    x, y, _ = batch(net)
    theirs = peer.FGSM(net, eps=eps)(x, y)
    same(FGSM()(net, x, y, Threat("linf", eps)), theirs, x, certain(net, x, y, Threat("linf", eps)))


@nets
@epsilons
def test_torchattacks_one_step_target(net: nn.Module, eps: float) -> None:
    peer = pytest.importorskip("torchattacks")
    x, y, least = batch(net)
    attack = peer.FGSM(net, eps=eps)
    attack.set_mode_targeted_by_label(quiet=True)
    clear = certain(net, x, least, Threat("linf", eps))
    same(OneStepTarget("least_likely")(net, x, y, Threat("linf", eps)), attack(x, least), x, clear)
    fixed = torch.full_like(y, 3)
    keep = y != 3  # we attack the images of the target class untargeted
    ours = OneStepTarget(3)(net, x, y, Threat("linf", eps))
    clear = certain(net, x, fixed, Threat("linf", eps))
    same(ours[keep], attack(x, fixed)[keep], x[keep], clear[keep])


@nets
@epsilons
def test_torchattacks_bim(net: nn.Module, eps: float) -> None:
    peer = pytest.importorskip("torchattacks")
    x, y, _ = batch(net)
    threat = Threat("linf", eps)
    theirs = peer.BIM(net, eps=eps, alpha=STEP * eps, steps=STEPS)(x, y)
    same(BIM(STEPS, STEP)(net, x, y, threat), theirs, x, certain(net, x, y, threat, STEPS, STEP))


@nets
@epsilons
def test_torchattacks_pgd_from_the_same_start(net: nn.Module, eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = pytest.importorskip("torchattacks")
    x, y, _ = batch(net)
    threat = Threat("linf", eps)
    start = sample(x, threat, Draws(x, seeded(5)))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *_bounds: self.copy_(start - x))
    theirs = peer.PGD(net, eps=eps, alpha=STEP * eps, steps=STEPS)(x, y)
    monkeypatch.undo()
    ours = PGD(STEPS, STEP)(net, x, y, threat, generator=seeded(5))
    same(ours, theirs, x, certain(net, x, y, threat, STEPS, STEP, start))
    assert torch.equal(ours, PGD(STEPS, STEP)(net, x, y, threat, start=start))


@nets
def test_torchattacks_l2(net: nn.Module) -> None:
    peer = pytest.importorskip("torchattacks")
    x, y, _ = batch(net)
    theirs = peer.PGDL2(net, eps=0.5, alpha=STEP * 0.5, steps=STEPS, random_start=False)(x, y)
    same(BIM(STEPS, STEP)(net, x, y, Threat("l2", 0.5)), theirs, x)


# --- foolbox


@nets
@epsilons
def test_foolbox_fgsm(net: nn.Module, eps: float) -> None:
    peer = pytest.importorskip("foolbox")
    x, y, _ = batch(net)
    theirs, _, _ = peer.attacks.FGSM()(peer.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=eps)
    same(FGSM()(net, x, y, Threat("linf", eps)), theirs, x, certain(net, x, y, Threat("linf", eps)))


@nets
@epsilons
def test_foolbox_one_step_target(net: nn.Module, eps: float) -> None:
    """Its FGSM refuses targets; its BIM of one step is the same attack."""
    peer = pytest.importorskip("foolbox")
    x, y, least = batch(net)
    attack = peer.attacks.LinfBasicIterativeAttack(abs_stepsize=eps, steps=1, random_start=False)
    resolve_targets = peer.criteria.TargetedMisclassification(least)
    theirs, _, _ = attack(peer.PyTorchModel(net, bounds=(0, 1)), x, resolve_targets, epsilons=eps)
    ours = OneStepTarget("least_likely")(net, x, y, Threat("linf", eps))
    same(ours, theirs, x, certain(net, x, least, Threat("linf", eps)))


@nets
@epsilons
def test_foolbox_bim(net: nn.Module, eps: float) -> None:
    peer = pytest.importorskip("foolbox")
    x, y, _ = batch(net)
    threat = Threat("linf", eps)
    attack = peer.attacks.LinfBasicIterativeAttack(abs_stepsize=STEP * eps, steps=STEPS, random_start=False)
    theirs, _, _ = attack(peer.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=eps)
    same(BIM(STEPS, STEP)(net, x, y, threat), theirs, x, certain(net, x, y, threat, STEPS, STEP))


@nets
@epsilons
def test_foolbox_pgd_from_the_same_start(net: nn.Module, eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = pytest.importorskip("foolbox")
    ep = pytest.importorskip("eagerpy")
    x, y, _ = batch(net)
    threat = Threat("linf", eps)
    start = sample(x, threat, Draws(x, seeded(5)))
    attack = peer.attacks.LinfPGD(abs_stepsize=STEP * eps, steps=STEPS)
    monkeypatch.setattr(attack, "get_random_start", lambda _x, _eps: ep.astensor(start))
    theirs, _, _ = attack(peer.PyTorchModel(net, bounds=(0, 1)), x, y, epsilons=eps)
    ours = PGD(STEPS, STEP)(net, x, y, threat, start=start)
    same(ours, theirs, x, certain(net, x, y, threat, STEPS, STEP, start))


@nets
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_foolbox_other_norms(net: nn.Module, norm: Norm) -> None:
    peer = pytest.importorskip("foolbox")
    x, y, _ = batch(net)
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


@nets
@epsilons
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_art_fgsm(net: nn.Module, eps: float, norm: Norm) -> None:
    evasion = pytest.importorskip("art.attacks.evasion")
    x, y, least = batch(net)
    eps = eps if norm == "linf" else 20 * eps
    order = np.inf if norm == "linf" else 2
    threat = Threat(norm, eps)
    theirs = evasion.FastGradientMethod(art_classifier(net), norm=order, eps=eps).generate(x.numpy(), y.numpy())
    same(FGSM()(net, x, y, threat), theirs, x, certain(net, x, y, threat))
    attack = evasion.FastGradientMethod(art_classifier(net), norm=order, eps=eps, targeted=True)
    theirs = attack.generate(x.numpy(), least.numpy())
    same(OneStepTarget("least_likely")(net, x, y, threat), theirs, x, certain(net, x, least, threat))


@nets
@epsilons
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_art_pgd_from_the_image(net: nn.Module, eps: float, norm: Norm) -> None:
    """It clips to the range before it projects, so in L2 the images keep clear of the ends of the range."""
    evasion = pytest.importorskip("art.attacks.evasion")
    x, y, _ = batch(net)
    if norm == "l2":
        x, eps = 0.25 + 0.5 * x, 20 * eps
    threat = Threat(norm, eps)
    attack = evasion.ProjectedGradientDescent(
        art_classifier(net), norm=np.inf if norm == "linf" else 2, eps=eps, eps_step=STEP * eps, max_iter=STEPS,
        num_random_init=0, verbose=False,
    )  # fmt: skip
    theirs = attack.generate(x.numpy(), y.numpy())
    where = certain(net, x, y, threat, STEPS, STEP)
    same(BIM(STEPS, STEP)(net, x, y, threat), theirs, x, where)
    same(PGD(STEPS, STEP)(net, x, y, threat, start=x), theirs, x, where)
