"""What is usually wrong with a model that somebody brings, found on a few images before anything is measured."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of, dtype_for, frozen
from inoculate.core.stats import mcnemar
from inoculate.data.dataset import Dataset
from inoculate.models.normalize import Normalize, parse_normalize

ENOUGH, GAIN, SURE = 32, 0.2, 0.001  # images; accuracy; p-value of a paired test
ALIKE = 0.01  # of the spread of the logits: rounding differs with the batch size, more so at reduced precision


@dataclass(frozen=True)
class Finding:
    """What is wrong, and what mends it; `str` gives both in one line."""

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}: {self.cure}"


def inspect_model(model: nn.Module, images: Tensor, labels: Tensor, classes: int) -> list[Finding]:
    """What looks wrong with `model` on a sample: N×C×H×W images, uint8 or floats in [0, 1], and their labels (N).

    About 64 images of all classes do; with fewer than 32, accuracies are not compared. The model, its buffers and the
    global random state are left as they were. Raises `InputError` where the model cannot be measured at all: it does
    not take the images, or does not give one logit for each of `classes`.
    """
    device = device_of(model)
    x = (images.to(torch.float32) / 255 if images.dtype is torch.uint8 else images).to(device, dtype_for(model))
    y = labels.to(device)
    found = _modes(model)
    with _borrowed(model, device):
        logits = _logits(model, x, classes)
        found += _probabilities(logits)
        again = _logits(model, x, classes)
        if _differ(logits, again):
            found.append(Finding(
                "predictions are random: two passes over the same images differ",
                "attack it with autoattack_rand, which averages gradients, and compare several seeds",
            ))  # fmt: skip
        elif _differ(logits[:4], torch.cat([_logits(model, x[i : i + 1], classes) for i in range(min(4, len(x)))])):
            found.append(Finding(
                "a prediction depends on the other images of its batch, as with BatchNorm without running statistics",
                "train with track_running_stats=True; as it is, every number holds for this batch size alone",
            ))  # fmt: skip
        if len(x) >= ENOUGH:
            found += _preprocessing(model, x, y, logits) or _class_order(logits, y)
    return found


def check_trainable(model: nn.Module) -> None:
    """Raise `InputError` for a network that no gradient could change."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("no parameter of the network requires a gradient, so nothing can be trained: unfreeze some")


def check_training(model: nn.Module, split: Dataset, batch_size: int) -> None:
    """Raise `InputError` if no update of `model` can be made on such a batch, or no gradient comes back to the images;
    tried on a copy, in train mode."""
    check_trainable(model)
    if odd := {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}:
        raise InputError(
            f"the network has parameters of {', '.join(map(str, odd))}, and training is done in float32: "
            "let its function return model.float()"
        )
    device = device_of(model)
    batch = split.subset(torch.arange(batch_size) % len(split))
    x, y = (batch.images.to(torch.float32) / 255).requires_grad_(), batch.labels
    try:
        twin = copy.deepcopy(model).train()
    except Exception as error:  # a lock, an open file, a tensor with a history
        raise InputError(
            f"the network cannot be copied ({one_line(error)}), which training needs: keep what is not a layer, weight or "
            "number out of it"
        ) from error
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            F.cross_entropy(twin(x.to(device, dtype_for(model))).float(), y.to(device)).backward()  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever the user's code raises
            raise InputError(
                f"the network cannot be trained on batches of {len(x)} images ({one_line(error)}): in train mode too it "
                "must return logits alone, and BatchNorm needs several images"
            ) from error
    if x.grad is None:
        raise InputError("no gradient of the network reaches the pixels, and adversarial training climbs it: look for "
                         "a detach(), a round() or a no_grad() in what it does first")  # fmt: skip


def _modes(model: nn.Module) -> list[Finding]:
    kinds = (getattr(m, "original_name", type(m).__name__) for m in model.modules() if getattr(m, "training", False))
    if not any("BatchNorm" in kind for kind in kinds):
        return []
    return [Finding("the model is in train mode and has BatchNorm", "it is measured in eval mode, call model.eval()")]


def _probabilities(logits: Tensor) -> list[Finding]:
    sums = logits.sum(dim=1)
    if logits.min() < 0 or logits.max() > 1 or not torch.allclose(sums, torch.ones_like(sums), atol=1e-2):
        return []
    return [Finding(
        "the outputs are probabilities, not logits: gradients of a second softmax are weak and flatter the model",
        "leave the model's softmax out, or declare them with --outputs probabilities (in Python: FromProbabilities)",
    )]  # fmt: skip


def _preprocessing(model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> list[Finding]:
    """Whether some way to prepare the pixels makes the model much better than giving them as they are.

    A network without its normalisation may stay far above chance (67 % instead of 91 % on MNIST), so chance is no
    criterion; a model that is right as it is has never gained from a second normalisation.
    """
    plain = logits.argmax(dim=1) == y
    bar = _bar(float(plain.float().mean()) + GAIN, logits, y)
    if bar > 1 or isinstance(getattr(model, "normalize", None), Normalize):  # it has one inside
        return []
    tried = {}
    for name in (*(("imagenet", "cifar10") if x.shape[1] == 3 else ("mnist",)), "0.5/0.5", "0-255"):
        tried[name] = model(Normalize(*parse_normalize(name))(x)).argmax(dim=1) == y
    best = max(tried, key=lambda name: int(tried[name].sum()))
    after = float(tried[best].float().mean())
    if after < bar or mcnemar(plain.cpu().numpy(), tried[best].cpu().numpy()) > SURE:
        return []
    how = "multiplied by 255" if best == "0-255" else f"normalised ({best})"
    return [Finding(
        f"the model is right on {plain.float().mean():.0%} of {len(y)} sample images, and on {after:.0%} once they are "
        f"{how}, so it expects other pixels than [0, 1]",
        f"give --normalize {best}, or its own mean/std as in training (Normalize as the model's first layer)",
    )]  # fmt: skip


def _class_order(logits: Tensor, y: Tensor) -> list[Finding]:
    """Whether the model knows the classes by other numbers: one renumbering makes it right. It needs images of each."""
    from scipy.optimize import linear_sum_assignment

    classes, plain = logits.shape[1], float((logits.argmax(dim=1) == y).float().mean())
    if len(y) < 6 * classes:
        return []
    counts = torch.bincount(logits.argmax(dim=1) * classes + y, minlength=classes**2).view(classes, classes).cpu()
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    after = float(counts[rows, columns].sum()) / len(y)
    if after < _bar(plain + 0.5, logits, y):
        return []
    swaps = ", ".join(f"{r}→{c}" for r, c in zip(rows, columns, strict=True) if r != c)
    return [Finding(
        f"the model numbers the classes otherwise: right on {plain:.0%} of {len(y)} sample images, and on {after:.0%} "
        f"once its outputs are renumbered ({swaps[:60]})",
        "give the model its outputs in the order of the data's classes, or rename the class folders",
    )]  # fmt: skip


def _bar(least: float, logits: Tensor, y: Tensor) -> float:
    """The accuracy from which a change is believed: `least`, more than one answer for all gives, and not by luck.

    A network that knows nothing may answer alike for images that look alike, and so be right on a whole class: at
    least half of what chance (1/K) leaves is asked for.
    """
    return max(least, float(y.bincount().max()) / len(y) + GAIN, (1 + 1 / logits.shape[1]) / 2)


def _logits(model: nn.Module, x: Tensor, classes: int) -> Tensor:
    """The model's outputs, B×`classes` in fp32; raises `InputError` where they are anything else."""
    try:
        out = model(x)
    except InputError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise InputError(
            f"the model does not take {'×'.join(map(str, x.shape[1:]))} images ({one_line(error)}): "
            "load the data at the model's image size and channels"
        ) from error
    if not isinstance(out, Tensor):
        raise InputError(
            f"the model returns {type(out).__name__}, not a tensor: let its forward return the logits alone"
        )
    if classes == 2 and tuple(out.shape) in ((len(x),), (len(x), 1)):
        inside = bool(((out >= 0) & (out <= 1)).all())
        raise InputError(
            "the model gives a single number per image for two classes: "
            f"declare it with --outputs {'probabilities' if inside else 'single-logit'} (large for the second class), "
            f"or wrap it in {'FromProbabilities' if inside else 'FromSingleLogit'} of inoculate.models.loading.outputs"
        )
    if out.ndim != 2 or len(out) != len(x):
        raise InputError(
            f"the model gives outputs of shape {tuple(out.shape)} for {len(x)} images: it must give one logit per "
            f"class, {len(x)}×{classes}"
        )
    if out.shape[1] != classes:
        raise InputError(
            f"the model knows {out.shape[1]} classes and the data has {classes}: "
            "give the data it was trained for, or a model with an output per class of the data"
        )
    if not out.isfinite().all(dim=1).any():  # where only some are not, these count as errors
        raise InputError(
            f"the model gives outputs that are no finite numbers on all of {len(x)} plain images: "
            "check its weights and what it does with pixels in [0, 1]"
        )
    return out.float()


def _differ(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() > ALIKE * (one.max() - one.min()))


@contextmanager
def _borrowed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model frozen, without gradients; its buffers and the global random state are put back after."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with frozen(model), torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            for name, buffer in model.named_buffers():
                if not torch.equal(buffer, kept[name]):
                    buffer.copy_(kept[name])
