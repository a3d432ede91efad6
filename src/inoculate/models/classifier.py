"""The prepared classifier: what everything that measures a model is given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from inoculate.core.allocator import keep_small_buffers
from inoculate.core.calls import call, labels_or_outputs, predicted_classes
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of, dtype_for
from inoculate.core.options import require_one_of
from inoculate.core.pixels import to_float
from inoculate.data.dataset import Dataset
from inoculate.models.acceleration.fast import fast, original, verified
from inoculate.models.acceleration.hardware import memory_format_for
from inoculate.models.acceleration.memory_formats import in_memory_format
from inoculate.models.acceleration.small_maps import inference_context
from inoculate.models.findings import differ
from inoculate.models.loading.endpoint import Endpoint
from inoculate.models.unmeasurable import require_known_labels, require_output_per_class

Precision = Literal["fast", "exact"]
VERIFICATION_IMAGES = 2
RANDOM_PASSES = 20  # over which a random model is judged


class Prediction(NamedTuple):
    """What a model predicts for a batch, on the CPU: right (B, bool), predicted class (B, int64), margin (B, float32).

    The margin is the best wrong logit minus the true one: positive where misclassified, NaN with a single class. An
    output that is not finite is an error. The margin of a model that gives labels only is NaN.
    """

    right: Tensor
    predicted: Tensor
    margin: Tensor


@dataclass(frozen=True, eq=False)
class Classifier:
    """A model made ready for images of one dataset, by `prepare`.

    `model` gives every verdict. `crafting` is what attacks are called on: with `precision` fast a verified faster copy
    if there can be one, else `model` itself. Images go to `device`, as `dtype`, in the memory format `layout`. The
    model has one output for each of `classes`, or is `labels_only`: then it gives one of them. A random model is judged
    by the mean of its probabilities over several `passes`, or by its most frequent label.
    """

    model: nn.Module
    crafting: nn.Module
    classes: int
    device: torch.device
    dtype: torch.dtype
    layout: torch.memory_format
    precision: Precision
    passes: int = 1
    labels_only: bool = False

    @property
    def is_black_box(self) -> bool:
        """Whether it gives labels only or lies behind an address, so that queries count."""
        return self.labels_only or any(isinstance(module, Endpoint) for module in self.model.modules())

    @property
    def is_random(self) -> bool:
        """Whether two passes over the same images differ."""
        return self.passes > 1

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside, the model is in eval mode with frozen parameters and without autocast; all is restored after."""
        with torch.autocast(self.device.type, enabled=False), inference_context(self.model):
            yield

    def load(self, data: Dataset, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Float images (B×C×H×W in [0, 1]) and labels (B) of these rows, on the model's device."""
        return self.placed(to_float(data.images[rows].to(self.device))), data.labels[rows].to(self.device)

    def placed(self, x: Tensor) -> Tensor:
        """Float images (B×C×H×W in [0, 1]) on the model's device, in its precision and memory format."""
        return in_memory_format(x.to(self.device, self.dtype), self.layout)

    def predict(self, x: Tensor, y: Tensor) -> Prediction:
        """The predictions for images `x` with labels `y`, inside `ready()`.

        Raises `InputError` where the model does not take the images, or does not give one logit per class.
        """
        if self.labels_only:
            predicted = self._labels(x)
            return Prediction((predicted == y).cpu(), predicted.cpu(), torch.full((len(x),), torch.nan))
        logits = self.logits(x, y)
        predicted = logits.argmax(dim=1)
        right = (predicted == y) & logits.isfinite().all(dim=1)
        margin = torch.full((len(x),), torch.nan)
        if self.classes > 1:
            true = logits.gather(1, y[:, None]).squeeze(1)
            margin = (logits.scatter(1, y[:, None], -torch.inf).amax(dim=1) - true).float().cpu()
        return Prediction(right.cpu(), predicted.cpu(), margin)

    def _labels(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            passes = [predicted_classes(self.model, x) for _ in range(self.passes)]
        for labels in passes:
            require_known_labels(labels, self.classes)
        return torch.stack(passes).mode(dim=0).values

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """The logits (B×K) by which images are judged, inside `ready()`; of a random model log probabilities."""
        try:
            with torch.no_grad():
                passes = [call(self.model, x) for _ in range(self.passes)]
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(f"no memory for {len(x)} images at once: lower --batch-size") from error
        require_output_per_class(self.model, passes[0], y, self.classes)
        if self.passes == 1:
            return passes[0]
        return torch.stack([each.float().log_softmax(dim=1) for each in passes]).logsumexp(dim=0) - math.log(
            self.passes
        )


def prepare(model: nn.Module, data: Dataset, *, precision: Precision = "fast") -> Classifier:
    """Make `model` (float images in [0, 1] → logits) ready to be measured on `data`; it is left as it was.

    With `precision="fast"` attacks craft on a faster copy (see `fast`) if its outputs on images of `data` equal the
    model's; with `"exact"`, and otherwise, on the model itself. Raises `InputError` for another precision, and for what
    is no model.
    """
    require_one_of(("fast", "exact"), precision=precision)
    keep_small_buffers()
    model = original(model)
    device, dtype = device_of(model), dtype_for(model)
    images = to_float(data.images[:VERIFICATION_IMAGES].to(device)).to(dtype)
    with torch.inference_mode(False), inference_context(model):
        layout = memory_format_for(model, images[:1])
        labels_only, is_random = _observe(model, images)
    passes = RANDOM_PASSES if is_random else 1
    exact = precision == "exact" or is_random or labels_only
    crafting = model if exact else verified(fast(model), images)
    return Classifier(model, crafting, len(data.classes), device, dtype, layout, precision, passes, labels_only)


def _observe(model: nn.Module, images: Tensor) -> tuple[bool, bool]:
    """Whether the model gives labels only, and whether two passes over these images differ; False where none works."""
    try:
        with torch.no_grad(), torch.random.fork_rng([images.device] if images.is_cuda else []):
            one, other = (labels_or_outputs(model, images) for _ in range(2))
    except Exception:  # the first pass that counts will report it
        return False, False
    if one.is_floating_point():
        return False, bool(len(images)) and differ(one, other)
    return True, not torch.equal(one, other)
