"""Whether a copy of a model computes what the model computes, on given images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inoculate.core.calls import call
from inoculate.core.modes import frozen
from inoculate.models.acceleration.compiling import eager

SAMPLE = 2  # images compared
TOLERANCE = 1e-3  # relative to each logit, and of the largest logit
GRADIENT_TOLERANCE = 0.05  # of its norm: rounding puts a few pixels on the other side of a ReLU


class Reference:
    """The logits of a model for a few images, with which copies of it are compared.

    There are two passes, over the images and over their mirror images at half the brightness: a model may write to its
    own weights as it runs, and a copy may read what an earlier pass of the original has left. Mirror images alone can
    leave nearly the same, such as means over the image.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.logits: Tensor | None = None
        self.gradient: Tensor | None = None
        for sample in (images[:SAMPLE], images):  # all of them for a model that takes a fixed number
            self.images = sample.detach()
            try:
                self.logits, self.gradient = _pass(model, self.images, torch.contiguous_format)
            except Exception:  # whatever the user's code raises: the first pass that counts will report it
                continue
            return

    def matches(self, copy: nn.Module, memory_format: torch.memory_format | None = None) -> bool:
        """Whether `copy` gives the same logits and gradients up to rounding, for images in this format.

        False where either raises, or gives a logit that is not finite.
        """
        if self.logits is None:
            return False
        try:
            found, gradient = _pass(copy, self.images, memory_format or torch.preserve_format)
        except Exception:  # a copy may refuse what its original takes
            return False
        if found.shape != self.logits.shape or not self.logits.isfinite().all():
            return False
        if self.gradient is None or gradient is None:
            same_gradient = self.gradient is gradient
        else:
            same_gradient = bool((gradient - self.gradient).norm() <= GRADIENT_TOLERANCE * self.gradient.norm())
        tolerance = TOLERANCE * float(self.logits.abs().max())
        return same_gradient and torch.allclose(self.logits, found, rtol=TOLERANCE, atol=tolerance)


def _pass(model: nn.Module, images: Tensor, memory_format: torch.memory_format) -> tuple[Tensor, Tensor | None]:
    """Logits in full precision, and the gradient of a sum of them in the images, None where there is none.

    Random numbers do not depend on the model; the global state is untouched.
    """
    device = images.device
    with (
        torch.random.fork_rng([device] if images.is_cuda else []),
        torch.autocast(device.type, enabled=False),
        eager(model),
        frozen(model),
    ):
        x = images.clone().requires_grad_()
        seen = [each.clone(memory_format=memory_format) for each in (x, x.flip(-1) / 2)]
        logits = torch.cat([call(model, each).float() for each in seen])
        return logits.detach(), _gradient(logits, x)


def _gradient(logits: Tensor, x: Tensor) -> Tensor | None:
    weights = torch.linspace(1, 2, logits.shape[-1], device=logits.device)  # the sum of all may be constant
    try:
        (gradient,) = torch.autograd.grad((logits * weights).sum(), x, allow_unused=True)
    except RuntimeError:  # not differentiable
        return None
    return gradient
