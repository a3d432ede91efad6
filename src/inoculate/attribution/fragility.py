"""Fragility: how near each image is to a misclassification, estimated and searched for."""

from __future__ import annotations

import torch

from inoculate.attacks.fmn import FMN
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import LOSSES, Objective
from inoculate.core.mask import Mask
from inoculate.core.modes import frozen
from inoculate.core.stats import rounded
from inoculate.core.threat import Norm, Threat, dual_norm, first_order_distance, range_diameter
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings
from inoculate.evaluation.minimal_eps import smallest_eps
from inoculate.models.classifier import Classifier


def fragility(
    classifier: Classifier,
    data: Dataset,
    norm: Norm = "linf",
    search: int = 30,
    settings: Settings = Settings(),
    mask: Mask | None = None,
) -> dict[str, list[float | None]]:
    """How near to a misclassification each image is, as lists with one number per image.

    `margin`: the logit of its class minus the best other one. `gradient_norm`: the dual norm of the margin's gradient,
    by which a step of size 1 in `norm` can change the margin. `estimate`: the first-order distance to the boundary.
    `measured`: the smallest eps at which FMN with `search` steps broke it (0 if misclassified clean, None if never).
    `mask` limits all of them to the pixels that may change.
    """
    margins, norms, estimates = [], [], []
    with frozen(classifier.model):
        for rows in torch.split(torch.arange(len(data)), settings.batch_size):
            x, y = classifier.load(data, rows)
            changeable = None if mask is None else mask.select(rows).on(x)
            passed = value_and_input_grad(classifier.model, x, Objective(LOSSES["margin"], y, changeable=changeable))
            margins.append(-passed.values.float().cpu())
            norms.append(dual_norm(passed.gradient, norm).float().cpu())
            estimates.append(first_order_distance(-passed.values, passed.gradient, norm).float().cpu())
    margin, gradient_norm, estimate = torch.cat(margins), torch.cat(norms), torch.cat(estimates)
    everything = Threat(norm, range_diameter(Threat(norm, 0.0), data.images.shape[1:]), mask=mask)
    measured = smallest_eps(classifier, data, FMN(steps=search), everything, settings)
    found = {"margin": margin, "gradient_norm": gradient_norm, "estimate": estimate, "measured": measured}
    return {name: [rounded(value) for value in values.tolist()] for name, values in found.items()}
