"""Examples that move a prediction: PGD on a divergence instead of cross-entropy (TRADES, RSLAD)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inoculate.attacks.ascent import Steps, ascend
from inoculate.attacks.base import carry_out
from inoculate.attacks.losses import Loss, Objective, targeted_cross_entropy
from inoculate.core.modes import frozen
from inoculate.core.rng import Draws
from inoculate.core.threat import project
from inoculate.training.losses import divergence
from inoculate.training.methods.adversarial import Batch

NOISE = 1e-3  # standard deviation of the random start of TRADES and the methods derived from it


def eval_logits(model: nn.Module, x: Tensor) -> Tensor:
    """Logits (B×K, fp32) in eval mode, without a gradient; a copy: a compiled network may reuse its outputs' memory."""
    with frozen(model), torch.no_grad():
        logits: Tensor = model(x)
    return logits.to(torch.float32, copy=True)


def noisy_start(batch: Batch) -> Tensor:
    """The images with Gaussian noise of standard deviation `NOISE`, inside the ball."""
    noise = Draws(batch.x, batch.generator).normal(*batch.x.shape[1:]).to(batch.x)
    return project(batch.x + NOISE * noise, batch.x, batch.threat)


def maximise_divergence(reference: Tensor, batch: Batch, steps: int, step: float) -> Tensor:
    """Images whose prediction diverges most from `reference` (logits, B×K), by PGD from small noise."""
    start = noisy_start(batch)

    def craft(x: Tensor, y: Tensor) -> Tensor:
        loss = Loss(lambda logits, _: divergence(logits, reference), targeted_cross_entropy)
        return ascend(batch.model, x, Objective(loss, y), batch.threat, start, Steps(steps, step))

    return carry_out(batch.model, batch.x, batch.y, batch.threat, craft)
