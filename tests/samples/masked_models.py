"""Digit networks behind defences that mask gradients, each with the attack that is adapted to it.

`masked(name)` is a trained network for `digits_samples.every_digit` (8×8, grey), `adaptive_accuracy` how far it falls.
Standard gradient attacks end well above that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from digits_samples import every_digit
from torch import Tensor, nn

from inoculate.attacks.square import Square
from inoculate.core.pixels import to_float
from inoculate.core.rng import Draws, seeded
from inoculate.core.threat import Threat, project, sample, steepest_direction, step_along
from inoculate.data.dataset import Dataset

THREAT = Threat("linf", 0.1)  # at which the networks are compared
JUDGED = 20  # passes over which a random network is judged
STEPS = 30  # of each run of the adapted attack


class Masked(nn.Module):
    """A network `body` behind a defence.

    `forward` is what is deployed. `attackable` gives logits whose gradient leads to errors of the deployed network: of
    the defence undone, or passed by the straight-through estimator (BPDA, Athalye et al. 2018). A gradient is averaged
    over `draws` passes (EOT) of images moved by up to `blur`.
    """

    draws, blur, is_random = 1, 0.0, False

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def attackable(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


class Temperature(Masked):
    """Logits times `factor`: softmax saturates and its gradient is 0, or it is flat and tells classes hardly apart."""

    def __init__(self, body: nn.Module, factor: float) -> None:
        super().__init__(body)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x) * self.factor
        return logits


class Quantised(Masked):
    """Activations rounded to few levels, which have no gradient."""

    def __init__(self, body: nn.Sequential, after: int, levels: float) -> None:
        super().__init__(body)
        self.after, self.levels = after, levels

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body[self.after :](self._round(self.body[: self.after](x)))
        return logits

    def attackable(self, x: Tensor) -> Tensor:
        hidden = self.body[: self.after](x)
        logits: Tensor = self.body[self.after :](straight_through(hidden, self._round(hidden)))
        return logits

    def _round(self, hidden: Tensor) -> Tensor:
        return (hidden * self.levels).round() / self.levels


class Compressed(Masked):
    """Images of few bits a pixel, compressed like JPEG: a rounded cosine transform of the 8×8 block."""

    def __init__(self, body: nn.Module, bits: int, step: float) -> None:
        super().__init__(body)
        self.levels, self.step = 2**bits - 1, step
        place = torch.arange(8.0)
        basis = torch.cos((2 * place[None] + 1) * place[:, None] * math.pi / 16) / 2
        basis[0] /= math.sqrt(2)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("coarse", step * (1 + place[:, None] + place[None]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(self._compress(x))
        return logits

    def attackable(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(straight_through(x, self._compress(x)))
        return logits

    def _compress(self, x: Tensor) -> Tensor:
        pixels = (x * self.levels).round() / self.levels
        frequencies = self.basis @ pixels @ self.basis.T
        kept = (frequencies / self.coarse).round() * self.coarse
        restored: Tensor = (self.basis.T @ kept @ self.basis).clamp(0, 1)
        return restored


class Dropped(Masked):
    """Dropout of hidden units at test time."""

    draws, is_random = 8, True

    def __init__(self, body: nn.Sequential, before: int, p: float) -> None:
        super().__init__(body)
        self.before, self.p = before, p

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.dropout(self.body[: self.before](x), self.p, training=True)
        logits: Tensor = self.body[self.before :](hidden)
        return logits

    def attackable(self, x: Tensor) -> Tensor:
        return self(x)


class Resized(Masked):
    """Each image scaled and shifted at random (Xie et al. 2018)."""

    draws, is_random = 8, True

    def __init__(self, body: nn.Module, scale: float, shift: float) -> None:
        super().__init__(body)
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        size = 1 + self.scale * (2 * torch.rand(len(x), device=x.device) - 1)
        theta = torch.zeros(len(x), 2, 3, device=x.device)
        theta[:, 0, 0] = theta[:, 1, 1] = size
        theta[:, :, 2] = self.shift * (2 * torch.rand(len(x), 2, device=x.device) - 1)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        logits: Tensor = self.body(F.grid_sample(x, grid, align_corners=False))
        return logits

    def attackable(self, x: Tensor) -> Tensor:
        return self(x)


class DummyClasses(Masked):
    """A second output for each class, which counts for it where it is the larger one.

    It stays below the largest logit by `gap` ± `slack`, so that it never decides. Where the other classes are far away
    it is the larger one, and its gradient leads nowhere.
    """

    def __init__(self, body: nn.Module, gap: float, slack: float) -> None:
        super().__init__(body)
        self.gap, self.slack = gap, slack
        self.register_buffer("decoys", torch.randn(64, 10, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        real = self.body(x)
        dummy = real.amax(dim=1, keepdim=True) - self.gap + self.slack * (x.flatten(1) @ self.decoys).tanh()
        logits: Tensor = real.maximum(dummy)
        return logits


class Thermometer(Masked):
    """Each pixel as a row of steps (Buckman et al. 2018), so steep that their gradient is 0 nearly everywhere."""

    def __init__(self, body: nn.Module, levels: int, steepness: float = 1000.0) -> None:
        super().__init__(body)
        self.steepness = steepness
        thresholds = (torch.arange(levels) + 0.5) / levels + 0.015  # off the grey levels of the digits
        self.register_buffer("thresholds", thresholds.view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body((self.steepness * (x - self.thresholds)).sigmoid())
        return logits

    def attackable(self, x: Tensor) -> Tensor:
        steep, gentle = (factor * (x - self.thresholds) for factor in (self.steepness, 10.0))
        logits: Tensor = self.body(straight_through(gentle.sigmoid(), steep.sigmoid()))
        return logits


class Winners(Masked):
    """Only the largest `share` of a layer's units stay (k-winners-take-all, Xiao et al. 2020): a broken function."""

    draws, blur = 8, 0.03

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.body(x)
        return logits


class TopUnits(nn.Module):
    """The largest `share` of an image's units; the others become 0."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        units = x.flatten(1)
        least = units.topk(max(1, int(self.share * units.shape[1])), dim=1).values[:, -1:]
        return torch.where(units >= least, units, torch.zeros_like(units)).view_as(x)


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `x`."""
    return x + (rounded - x).detach()


def network(activation: Callable[[], nn.Module] = nn.ReLU, channels: int = 1) -> nn.Sequential:
    """A small CNN for 8×8 images, untrained."""
    layers = [nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), activation(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), activation()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


MASKED: dict[str, Callable[[], Masked]] = {
    "huge temperature": lambda: Temperature(network(), 1e4),
    "tiny temperature": lambda: Temperature(network(), 1e-4),
    "quantised activations": lambda: Quantised(network(), after=3, levels=2.0),
    "JPEG and bit depth": lambda: Compressed(network(), bits=3, step=0.08),
    "dropout": lambda: Dropped(network(), before=9, p=0.4),
    "random resizing": lambda: Resized(network(), scale=0.25, shift=0.15),
    "dummy classes": lambda: DummyClasses(network(), gap=2.0, slack=1.0),
    "gradient shattering": lambda: Thermometer(network(channels=8), levels=8),
    "k winners": lambda: Winners(network(lambda: TopUnits(0.15))),
}


@lru_cache
def parts() -> tuple[Dataset, Dataset]:
    """1,200 digits to train on, and 597 to measure on."""
    order = torch.randperm(len(every_digit()), generator=torch.Generator().manual_seed(0))
    return every_digit().subset(order[:1200]), every_digit().subset(order[1200:])


@lru_cache
def masked(name: str) -> Masked:
    """The trained network of this name, in eval mode; it is shared: copy it to change it."""
    train, _ = parts()
    x, y = to_float(train.images), train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MASKED[name]()
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(8):
            for rows in torch.randperm(len(x)).split(50):
                optimizer.zero_grad()
                F.cross_entropy(model.attackable(x[rows]), y[rows]).backward()
                optimizer.step()
    return model.eval()


def adaptive_attack(model: Masked, x: Tensor, y: Tensor, threat: Threat = THREAT, *, targets: int = 3) -> Tensor:
    """The images (B×C×H×W) that the deployed network likes least, of those that the attack adapted to it finds.

    PGD on the attackable logits: away from the class, then towards each of the `targets` most likely others. Square
    goes on with what a network that is not random has withstood.
    """
    worst, highest = x.clone(), deployed_margin(model, x, y)
    with seeded(0, "adaptive"):
        likely = deployed_logits(model, x).scatter(1, y[:, None], -torch.inf).topk(targets, dim=1).indices
        for number, target in enumerate((None, *likely.unbind(1))):
            x_adv = sample(x, threat, Draws(x, torch.Generator().manual_seed(number)))
            for step in range(STEPS):
                direction = steepest_direction(_gradient(model, x_adv, y, target), threat.norm)
                size = threat.eps * (0.4 if step < STEPS // 2 else 0.1)
                x_adv = project(x_adv + step_along(x_adv, x, direction, size, threat), x, threat)
                if step % 5 == 4:
                    margin = deployed_margin(model, x_adv, y)
                    better = margin > highest
                    worst[better], highest = x_adv[better], margin.maximum(highest)
    left = (highest < 0).nonzero().squeeze(1)
    if len(left) and not model.is_random:
        draws = torch.Generator().manual_seed(0)
        worst[left] = Square(queries=1000)(model, x[left], y[left], threat, generator=draws)
    return worst


def adaptive_accuracy(model: Masked, data: Dataset, threat: Threat = THREAT, *, targets: int = 3) -> float:
    """The accuracy of the deployed network under the adapted attack; a clean error is an error."""
    x, y = to_float(data.images), data.labels
    right = deployed_margin(model, x, y) < 0
    x_adv = adaptive_attack(model, x[right], y[right], threat, targets=targets)
    right[right.clone()] = deployed_margin(model, x_adv, y[right]) < 0
    return float(right.float().mean())


def deployed_margin(model: Masked, x: Tensor, y: Tensor) -> Tensor:
    """Best wrong logit of the deployed network minus the true one (B): positive where misclassified."""
    return _margin(deployed_logits(model, x), y)


@torch.no_grad()
def deployed_logits(model: Masked, x: Tensor) -> Tensor:
    """What is judged: `forward`; of a random network the mean probabilities over several passes, as logarithms."""
    if not model.is_random:
        logits: Tensor = model(x)
        return logits
    with seeded(1, "verdict"):
        return torch.stack([model(x).softmax(dim=1) for _ in range(JUDGED)]).mean(dim=0).log()


def _gradient(model: Masked, x: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    """Of the margin of the attackable logits, or of the logit of `target` against that of `y`; summed over draws."""
    x = x.clone().requires_grad_()
    total = torch.zeros(())
    for draw in range(model.draws):
        moved = x + model.blur * (2 * torch.rand_like(x) - 1) if draw else x
        logits = model.attackable(moved)
        lead = (
            _margin(logits, y) if target is None else (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))
        )
        total = total + lead.sum()
    return torch.autograd.grad(total, x)[0]


def _margin(logits: Tensor, y: Tensor) -> Tensor:
    true = logits.gather(1, y[:, None]).squeeze(1)
    return logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - true
