"""When an image counts as adversarial, when attacks check it, and the best adversarial image found so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks.gradients import ValueAndGrad
from inoculate.attacks.losses import Objective, logits_fp32
from inoculate.core.calls import predicted_classes
from inoculate.core.modes import frozen
from inoculate.core.threat import per_sample
from inoculate.models.acceleration.fast import original


def is_adversarial(logits: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """Which images (B, bool) are adversarial by their logits (B×K): misclassified, or as `target` (B) if given.

    An image whose own class is its target is adversarial when it is misclassified.
    """
    return is_adversarial_class(logits.argmax(dim=1), y, target)


def is_adversarial_class(predicted: Tensor, y: Tensor, target: Tensor | None = None) -> Tensor:
    """The same by the predicted classes (B, int64)."""
    wrong = predicted != y
    return wrong if target is None else torch.where(target == y, wrong, predicted == target)


def verify_adversarial(
    model: nn.Module, x_adv: Tensor, candidates: Tensor, y: Tensor, target: Tensor | None = None
) -> Tensor:
    """Which of the `candidates` (B, bool), adversarial to `model`, are adversarial to the original model.

    A `fast` copy rounds differently, so its original evaluates each candidate; any other model is its own original.
    """
    judge = original(model)
    if judge is model or not candidates.any():
        return candidates
    rows = candidates.nonzero().squeeze(1)
    with frozen(judge), torch.no_grad():
        verified = is_adversarial(logits_fp32(judge, x_adv[rows]), y[rows], None if target is None else target[rows])
    return candidates.index_copy(0, rows, verified)


def evaluate_adversarial(model: nn.Module, x_adv: Tensor, objective: Objective) -> Tensor:
    """Which images (B, bool) are adversarial after one pass through `model`, verified on the original model."""
    with torch.no_grad():
        predicted = predicted_classes(model, x_adv)
    candidates = is_adversarial_class(predicted, objective.y, objective.target)
    return verify_adversarial(model, x_adv, candidates, objective.y, objective.target)


def should_check_success(steps: int, device: torch.device) -> bool:
    """Whether an attack checks after this number of steps which images are adversarial, to stop changing them.

    Always on a CPU. A check makes the host wait for a GPU, so there after 1, 2, 4, 8 and then every 16 steps.
    """
    return device.type != "cuda" or steps % 16 == 0 or steps in (1, 2, 4, 8)


@dataclass
class BestAdversarial:
    """The adversarial image of highest objective that a run has met for each image since the last `confirm`.

    `found` (B, bool) says for which there is one, `images` (B×C×H×W) and `values` (B) hold them.
    """

    found: Tensor
    images: Tensor
    values: Tensor

    @classmethod
    def empty(cls, x: Tensor) -> BestAdversarial:
        """None found yet for the images `x`."""
        return cls(torch.zeros(len(x), dtype=torch.bool, device=x.device), x, x.new_zeros(len(x)))

    def update(self, x_adv: Tensor, passed: ValueAndGrad, y: Tensor, target: Tensor | None = None) -> None:
        """Take in the iterates `x_adv` that are adversarial by their pass through the model."""
        adversarial = is_adversarial(passed.logits, y, target)
        better = adversarial & (~self.found | (passed.values > self.values))
        self.images = torch.where(per_sample(better, x_adv), x_adv, self.images)
        self.values, self.found = torch.where(better, passed.values, self.values), self.found | adversarial

    def confirm(self, model: nn.Module, y: Tensor, target: Tensor | None = None) -> Tensor:
        """Which of those found (B, bool) are adversarial to the original model; starts anew for all images."""
        verified = verify_adversarial(model, self.images, self.found, y, target)
        self.found = torch.zeros_like(self.found)
        return verified

    def select(self, rows: Tensor) -> BestAdversarial:
        """The same for some of the images."""
        return BestAdversarial(self.found[rows], self.images[rows], self.values[rows])
