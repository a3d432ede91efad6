"""What tells one model from another: its weights, its structure, its code, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.artifacts.own_code import code_of_class, digest_of, name_of_class
from inoculate.core.calls import call
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.rng import seeded
from inoculate.data.dataset import Dataset
from inoculate.models.classifier import Classifier
from inoculate.models.findings import differ

PROBES = 2  # images of noise, and as many that are smooth
SHOWN = 64  # images of the data, where nothing else tells models apart
SKETCH = 256  # numbers that are kept of gradients
EXACT = 1e-4  # of the size of all numbers: what other numbers of threads change


class Answers(NamedTuple):
    """What a model answers to some images (float64): outputs, and a sketch of the gradients of their weighted sums.

    Both are empty where it has none, or gives others each time.
    """

    outputs: Tensor
    gradients: Tensor

    @property
    def is_sure(self) -> bool:
        """Whether there are answers by which the model can be told from others."""
        return len(self.outputs) > 0

    def resembles(self, other: Answers) -> bool:
        """Whether the outputs are equal up to the rounding of different machines."""
        one, another = self.outputs, other.outputs
        return one.shape == another.shape and (torch.equal(one, another) or not differ(one, another))

    def equals(self, other: Answers) -> bool:
        """Whether outputs and gradients are equal up to the rounding of one machine."""
        return all(
            one.shape == another.shape and float((one - another).norm()) <= EXACT * float(one.norm())
            for one, another in zip(self, other, strict=True)
        )


NOTHING = Answers(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.float64))


def identity(classifier: Classifier) -> dict[str, Any]:
    """What decides the outputs of a classifier and what is crafted on it, as JSON values.

    It tells apart other weights, layers, options of layers, versions of libraries, and other code of the user's own
    classes and functions. What these hold beside it does not see: compare `answers` as well.
    """
    model, classes = classifier.model, sorted({type(module) for module in classifier.model.modules()}, key=str)
    return {
        "state": weights_digest(model),
        "structure": hashlib.sha256(str(model).encode()).hexdigest()[:20],
        "code": {name_of_class(each): code_of_class(each) for each in classes},
        "calls": digest_of(*_functions_in(model)),
        "precision": classifier.precision if classifier.crafting is not model else "exact",
        "dtype": str(classifier.dtype),
        "passes": classifier.passes,
        "labels_only": classifier.labels_only,
        "classes": classifier.classes,
    }


def answers(classifier: Classifier, data: Dataset) -> Answers:
    """What a classifier answers to images of noise; one that gives labels alone, and whose weights nobody sees, to
    some of the data and to mixtures of them.

    A random model answers under a seed. Where it gives other outputs even so, there are no answers.
    """
    hidden = classifier.labels_only and weights_digest(classifier.model) is None
    x = classifier.placed(_mixtures(data) if hidden else _noise(tuple(data.images.shape[1:])))
    with torch.inference_mode(False), classifier.ready():
        outputs = _outputs(classifier, x)
        if classifier.is_random and not torch.equal(outputs, _outputs(classifier, x)):
            return NOTHING
        gradients = NOTHING.gradients if classifier.labels_only else _gradients(classifier.model, x)
    return Answers(outputs, gradients)


def _outputs(classifier: Classifier, x: Tensor) -> Tensor:
    y = torch.zeros(len(x), dtype=torch.long, device=classifier.device)
    with seeded(0, "answers"):
        found = classifier.predict(x, y).predicted if classifier.labels_only else classifier.logits(x, y)
    return found.detach().cpu().double()


def _gradients(model: nn.Module, x: Tensor) -> Tensor:
    """A sketch of the gradient of a weighted sum of the outputs by the images; empty where there is none."""
    with suppress(RuntimeError, InputError), torch.enable_grad(), seeded(0, "answers"):
        leaf = x.detach().clone().requires_grad_()
        outputs = call(model, leaf * 1)
        weights = torch.arange(outputs[0].numel(), device=outputs.device).add(1).cos()
        (gradient,) = torch.autograd.grad((outputs.flatten(1) * weights).sum(), leaf)
        return _sketch(gradient.detach().cpu().double().nan_to_num())
    return NOTHING.gradients


def _sketch(tensor: Tensor) -> Tensor:
    """`SKETCH` sums of all values with random signs (count sketch): two tensors differ as much as their sketches do."""
    values = F.pad(tensor.flatten(), (0, -tensor.numel() % SKETCH))
    signs = torch.randint(0, 2, values.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (values * signs).view(-1, SKETCH).sum(dim=0)


def _noise(shape: tuple[int, ...]) -> Tensor:
    """Images of noise (B×C×H×W), and smooth ones."""
    draw = torch.Generator().manual_seed(0)
    noise, coarse = torch.rand(PROBES, *shape, generator=draw), torch.rand(PROBES, shape[0], 4, 4, generator=draw)
    return torch.cat([noise, F.interpolate(coarse, size=shape[1:], mode="bilinear").clamp(0, 1)])


def _mixtures(data: Dataset) -> Tensor:
    """Some images of the data, and the mean of each and the next one."""
    images = to_float(data.images[:SHOWN].cpu())
    return torch.cat([images, (images + images.roll(1, 0)) / 2])


def _functions_in(model: nn.Module) -> Iterator[Callable[..., Any]]:
    """The functions that modules hold: those that they wrap, and hooks."""
    for module in model.modules():
        for value in vars(module).values():
            held = value.values() if isinstance(value, dict) else [value]
            yield from (each for each in held if callable(each) and not isinstance(each, nn.Module | type | Tensor))


def weights_digest(model: nn.Module) -> str | None:
    """A hex digest of the names and values of all parameters and buffers; None where there are none."""
    hasher, values = blake2b(digest_size=16), model.state_dict()
    tensors = {name: value for name, value in sorted(values.items()) if isinstance(value, Tensor)}
    for name, value in tensors.items():
        value = value.int_repr() if value.is_quantized else value
        hasher.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        hasher.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hasher.hexdigest() if tensors else None
