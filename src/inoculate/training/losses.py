"""Losses of the adversarial methods: functions of logits (B×K, fp32) on clean and adversarial images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def divergence(logits: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(softmax(reference) ‖ softmax(logits)) per sample (B), both logits divided by `temperature` first."""
    ours = F.log_softmax(logits / temperature, dim=1)
    theirs = F.log_softmax(reference / temperature, dim=1)
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)


def trades(clean: Tensor, adversarial: Tensor, y: Tensor, beta: float, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy on the clean images plus `beta` times KL(clean ‖ adversarial prediction).

    Zhang et al. 2019, equation 5; the gradient passes through both terms of the divergence.
    """
    natural = F.cross_entropy(clean, y, label_smoothing=smoothing)
    return natural + beta * divergence(adversarial, clean).mean()


def mart(clean: Tensor, adversarial: Tensor, y: Tensor, beta: float) -> Tensor:
    """Boosted cross-entropy on the adversarial images plus `beta` times a KL term weighted by clean 1 − p_y.

    Wang et al. 2020, equations 8 to 11. The boosted part is −log p_y − log(1 − the largest wrong p).
    """
    p = F.softmax(adversarial, dim=1)
    wrong = p.scatter(1, y[:, None], 0.0).amax(dim=1)
    boosted = F.cross_entropy(adversarial, y) - torch.log(1.0001 - wrong).mean()
    hard = 1 - F.softmax(clean, dim=1).gather(1, y[:, None]).squeeze(1)
    return boosted + beta * (divergence(adversarial, clean) * hard).mean()


def ard(clean: Tensor, adversarial: Tensor, teacher: Tensor, y: Tensor, alpha: float, temperature: float) -> Tensor:
    """KL from the teacher's clean to the student's adversarial prediction (Goldblum et al. 2020, eq. 5).

    `teacher` are its logits on the clean images. The rest, 1 − `alpha`, is cross-entropy on the clean images.
    """
    distilled = temperature**2 * divergence(adversarial, teacher, temperature).mean()
    return alpha * distilled + (1 - alpha) * F.cross_entropy(clean, y)


def rrm(own: Tensor, teacher: Tensor, logits: Tensor, y: Tensor, xent: float, smoothing: float = 0.0) -> Tensor:
    """The negative cosine of the student's and the teacher's features (B×D), plus `xent` times cross-entropy.

    Vaishnavi et al. 2022, equation 4, up to the constant 1.
    """
    return xent * F.cross_entropy(logits, y, label_smoothing=smoothing) - F.cosine_similarity(own, teacher).mean()


def rslad(clean: Tensor, adversarial: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """KL from the teacher's clean to both of the student's predictions, without hard labels (Zi et al. 2021, eq. 6)."""
    return (1 - alpha) * divergence(clean, teacher).mean() + alpha * divergence(adversarial, teacher).mean()
