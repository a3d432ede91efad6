"""Randomized smoothing: L2 certificates for any classifier (Cohen et al. 2019).

The smoothed classifier gives an image the class that the *base classifier* gives most of its noisy copies. The
certificate is of the smoothed classifier. The copies are not clipped, so the base classifier sees values outside
[0, 1]; one that was not trained with such noise abstains a lot.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.core.calls import call, single_output
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of, dtype_for
from inoculate.core.options import require_count, require_positive
from inoculate.core.rng import Draws, drawn_seed
from inoculate.core.stats import exceeds_rate, proportion_lower
from inoculate.models.acceleration.hardware import memory_format_for
from inoculate.models.acceleration.small_maps import inference_context

ABSTAINED = -1
BLOCK = 64  # copies whose noise is drawn together, so that it does not depend on the batch size


@dataclass(frozen=True)
class Smoothing:
    """How a base classifier is smoothed. The defaults of n, n0 and alpha are those of the paper.

    Options:
        sigma: standard deviation of the noise, in pixel units of [0, 1].
        n: copies on which the certificate rests. With all of them in one class the radius is at most
            σ · Φ⁻¹(alpha^(1/n)): 3.2 σ at n = 10,000, 3.8 σ at 100,000.
        n0: copies that choose the class, apart from the others.
        alpha: probability that the statement on an image is false.
        batch_size: copies in a forward pass.
    """

    sigma: float = 0.25
    n: int = 100_000
    n0: int = 100
    alpha: float = 0.001
    batch_size: int = 512

    def __post_init__(self) -> None:
        require_positive(sigma=self.sigma, alpha=self.alpha)
        require_count(n=self.n, n0=self.n0, batch_size=self.batch_size)
        if self.alpha >= 1:
            raise InputError(f"alpha {self.alpha!r} is not a probability of error: give a number such as 0.001")

    def radius(self, count: int) -> float:
        """The certified L2 radius where `count` of `n` copies are in the class; 0 where the image is abstained from."""
        from scipy.special import ndtri

        low = proportion_lower(count, self.n, 1 - self.alpha)
        return self.sigma * float(ndtri(low)) if low > 0.5 else 0.0

    @property
    def largest_radius(self) -> float:
        """The radius where all copies are in the class."""
        return self.radius(self.n)


@dataclass(frozen=True, eq=False)
class SmoothedCertificates:
    """Certificates of images, in their order, on the CPU.

    Fields:
        predicted: class of the smoothed classifier (N, int64), `ABSTAINED` where it abstains.
        radius: L2 radius within which it keeps that class (N, float64); 0 where it abstains.
        counts: copies in that class, of `Smoothing.n` (N, int64).
        judged: whether the image was reached before the deadline (N, bool); the others abstain.
    """

    predicted: Tensor
    radius: Tensor
    counts: Tensor
    judged: Tensor

    def certified(self, y: Tensor, eps: float) -> Tensor:
        """Which images (N) keep their label `y` at any distance of less than `eps` in L2; with eps 0 those predicted
        right. An image that was not judged is not certified."""
        return (self.predicted == y.cpu()) & (self.radius >= eps)

    @property
    def abstained(self) -> Tensor:
        """Which of the judged images (N) the smoothed classifier abstains from; bool."""
        return self.judged & (self.predicted == ABSTAINED)


def certify_smoothed(
    model: nn.Module,
    x: Tensor,
    smoothing: Smoothing,
    *,
    y: Tensor | None = None,
    generator: torch.Generator | None = None,
    deadline: float | None = None,
) -> SmoothedCertificates:
    """Certify images with algorithm CERTIFY of Cohen et al. (2019).

    Each certificate is false with a probability of at most `smoothing.alpha`, over the noise. The noise of an image
    depends on its content and `generator` alone, not on the other images, their order or the batch size; on the CPU it
    is another than on a GPU.

    Args:
        model: the base classifier, as it is: float images in any range → logits.
        x: images (N×C×H×W in [0, 1]).
        y: their labels (N); then an image whose `n0` copies choose another class is abstained from without further
            passes: it cannot count as certified.
        generator: from which the noise is derived; without one it is always the same.
        deadline: on `time.monotonic`; images after it are not judged.

    Raises `InputError` for a model that does not take the images.
    """
    found = SmoothedCertificates(
        torch.full((len(x),), ABSTAINED), torch.zeros(len(x), dtype=torch.float64),
        torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(x), dtype=torch.bool),
    )  # fmt: skip
    for row, votes in enumerate(_votes(model, x, smoothing, generator)):
        if deadline is not None and time.monotonic() > deadline:
            break
        found.judged[row] = True
        chosen = int(votes.count(smoothing.n0).argmax())
        if y is not None and chosen != int(y[row]):
            continue
        count = int(votes.count(smoothing.n)[chosen])
        found.counts[row], found.radius[row] = count, smoothing.radius(count)
        if found.radius[row] > 0:
            found.predicted[row] = chosen
    return found


def predict_smoothed(
    model: nn.Module, x: Tensor, smoothing: Smoothing, *, generator: torch.Generator | None = None
) -> Tensor:
    """The classes (N, int64, on the CPU) that the smoothed classifier gives images, `ABSTAINED` where it is not sure.

    Algorithm PREDICT of Cohen et al. (2019): a class is given unless, with `smoothing.n` copies, it may be a tie with
    the second one (two-sided exact binomial test at `alpha`); it is false with a probability of at most `alpha`.
    """
    found = torch.full((len(x),), ABSTAINED)
    for row, votes in enumerate(_votes(model, x, smoothing, generator)):
        (first, second), classes = votes.count(smoothing.n).topk(2)
        if 2 * exceeds_rate(int(first), int(first + second), 0.5) <= smoothing.alpha:
            found[row] = classes[0]
    return found


class _Votes:
    """Classes of noisy copies of one image (1×C×H×W); every `count` draws new copies."""

    def __init__(self, model: nn.Module, x: Tensor, classes: int, smoothing: Smoothing, draws: Draws) -> None:
        self.model, self.x, self.classes, self.smoothing = model, x, classes, smoothing
        self.draws, (self.stream,) = draws, draws.streams()

    def count(self, n: int) -> Tensor:
        """How many of `n` copies are in each class (K, int64, on the CPU); one whose logits are not finite is in none.

        The device is waited for only once.
        """
        counts = torch.zeros(self.classes + 1, dtype=torch.int64, device=self.x.device)
        ones = torch.ones((), dtype=torch.int64, device=self.x.device)
        layout, at_once = _layout(self.x), -(-self.smoothing.batch_size // BLOCK) * BLOCK
        for start in range(0, n, at_once):
            copies = min(at_once, n - start)
            noise = self._noise(-(-copies // BLOCK))[:copies]
            noisy = torch.add(self.x, noise, alpha=self.smoothing.sigma).to(memory_format=layout)
            for part in torch.split(noisy, self.smoothing.batch_size):
                logits = call(self.model, part)
                classes = logits.argmax(dim=1).where(logits.isfinite().all(dim=1), self.classes)
                counts.scatter_add_(0, classes, ones.expand(len(classes)))
        return counts[: self.classes].cpu()

    def _noise(self, blocks: int) -> Tensor:
        """Standard normal numbers (copies×C×H×W). On the CPU a stream gives the same in one call as in several, because
        a block is a multiple of the 16 numbers that it makes together."""
        shape = self.x.shape[1:]
        if self.x.is_cpu:
            return torch.randn(blocks * BLOCK, *shape, generator=self.stream).to(self.x)
        return torch.cat([self.draws.normal(BLOCK, *shape)[0] for _ in range(blocks)]).to(self.x)


def _votes(model: nn.Module, x: Tensor, smoothing: Smoothing, generator: torch.Generator | None) -> Iterator[_Votes]:
    """The votes on each image. The noise comes from one draw of the generator."""
    if not len(x):
        return
    device = device_of(model)
    with _running(model, x[:1].to(device)) as (classes, layout):
        seed = drawn_seed(generator)
        for image in torch.split(x, 1):
            placed = image.to(device, dtype_for(model)).contiguous(memory_format=layout)
            draws = Draws(image.to(device), torch.Generator(device).manual_seed(seed))  # one seed: the images differ
            yield _Votes(model, placed, classes, smoothing, draws)


@contextmanager
def _running(model: nn.Module, image: Tensor) -> Iterator[tuple[int, torch.memory_format]]:
    """Inside, the model is in eval mode without gradients; its number of classes and fastest memory format."""
    with torch.autocast(image.device.type, enabled=False), inference_context(model), torch.no_grad():
        found = call(model, image)
        if found.ndim == 1 or found.shape[1] == 1:
            raise single_output(found)
        yield found.shape[1], memory_format_for(model, image)


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
