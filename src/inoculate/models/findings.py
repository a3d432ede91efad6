"""What looks wrong with a model, as findings that say what to do: each function looks for one common mistake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.core.calls import behaviour, predicted_classes
from inoculate.core.stats import mcnemar
from inoculate.models.class_names import are_placeholders, stored_names
from inoculate.models.loading.outputs import AsLogits
from inoculate.models.normalize import Normalize, parse_normalize
from inoculate.models.select_outputs import SelectOutputs

MIN_GAIN = 0.2  # of accuracy, for a finding
MAX_P_VALUE = 0.001  # of a paired test
BGR = "bgr"  # the order of OpenCV's channels
MIN_SIGMOID_SPREAD = 0.5  # between the largest and the smallest output
SATURATED = 80.0  # the other classes' probabilities, and with them the gradient, are 0 in fp32 from there on
NOISE = 0.01  # of the spread of the logits: rounding differs with the batch size, more so at reduced precision


@dataclass(frozen=True)
class Finding:
    """What looks wrong, and what to do; `str` gives both in one line."""

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}: {self.cure}"


def training_mode(model: nn.Module) -> list[Finding]:
    """Whether a BatchNorm layer is in train mode."""
    if not any(_is_batchnorm(module) and module.training for module in model.modules()):
        return []
    return [Finding("the model is in train mode and has BatchNorm", "it is measured in eval mode, call model.eval()")]


def output_type(model: nn.Module) -> list[Finding]:
    """Whether the model returned something else than a tensor when it was called."""
    returned = behaviour(model.model if isinstance(model, SelectOutputs) else model).returns
    if issubclass(returned, Tensor):
        return []
    seen = behaviour(model)
    return [Finding(
        f"the model returns {returned.__name__}, not a tensor{seen.form}", f"{seen.place} is used as the logits"
    )]  # fmt: skip


def selected_outputs(model: nn.Module) -> list[Finding]:
    """Which outputs were matched with the classes of the data."""
    return [Finding(model.what, model.cure)] if isinstance(model, SelectOutputs) else []


def names_differ(model: nn.Module, classes: Sequence[str]) -> list[Finding]:
    """Whether the model names its outputs otherwise than the data their classes, so that nothing tells their order."""
    names = stored_names(model, len(classes))
    if (
        names is None
        or are_placeholders(classes)
        or are_placeholders(names.names)
        or all(map(names.outputs_of, classes))
    ):
        return []
    number = next(i for i, name in enumerate(classes) if not names.outputs_of(name))
    return [Finding(
        f"the model calls output {number} '{names.names[number]}', the data call class {number} '{classes[number]}'",
        "they are taken to be in the same order; if they are not, name the outputs with --class-names FILE",
    )]  # fmt: skip


def output_kind(model: nn.Module, logits: Tensor) -> list[Finding]:
    """Whether outputs that nothing was declared about are probabilities, or come from sigmoids."""
    if any(isinstance(module, AsLogits) for module in model.modules()):
        return []
    if logits.shape[1] > 1 and bool(((logits == 0) | (logits == 1)).all()) and bool((logits.sum(dim=1) == 1).all()):
        return [Finding(
            "the outputs are one-hot: labels in another form, in which attacks by gradients or scores see no slope",
            "declare them, --outputs labels, load_model(..., outputs='labels'), and attack with hopskipjump or rays",
        )]  # fmt: skip
    if _sum_to_one(logits.exp()) and logits.max() <= 1e-3:
        return [Finding(
            "the outputs are log-probabilities",
            "they serve as logits; --outputs log-probabilities, load_model(..., outputs=...) says so, and takes −inf",
        )]  # fmt: skip
    if logits.min() < 0 or logits.max() > 1:
        return []
    if _sum_to_one(logits):
        return [Finding(
            "the outputs are probabilities, not logits: gradients of a second softmax are weak and flatter the model",
            "leave the model's softmax out, or declare them: --outputs probabilities, load_model(..., outputs=...)",
        )]  # fmt: skip
    if logits.max() - logits.min() < MIN_SIGMOID_SPREAD:
        return []
    return [Finding(
        "the outputs all lie between 0 and 1, as after a sigmoid: gradients of a softmax of them are weak and flatter "
        "the model",
        "leave the model's sigmoid out, or declare it: --outputs sigmoid, load_model(..., outputs=...)",
    )]  # fmt: skip


def constant(logits: Tensor) -> list[Finding]:
    """Whether all images get the same outputs."""
    if len(logits) < 2 or logits.shape[1] < 2 or bool((logits != logits[:1]).any()):
        return []
    return [Finding(
        f"the model gives the same outputs for all {len(logits)} sample images",
        "no attack can change them; check its weights, and what its forward does with its input",
    )]  # fmt: skip


def zero_gradient(logits: Tensor, y: Tensor, gradients: Tensor | None) -> list[Finding]:
    """Whether cross-entropy has no gradient in most of the images that are right; `gradients` are of the first ones."""
    if gradients is None or logits.shape[1] < 2:
        return []
    logits, y = logits[: len(gradients)], y[: len(gradients)]
    right = logits.argmax(dim=1) == y
    zero = int(((gradients == 0).flatten(1).all(dim=1) & right).sum())
    if not zero or zero < int(right.sum()) / 2:
        return []
    top = logits.topk(2, dim=1).values
    gap = float((top[:, 0] - top[:, 1])[right].median())
    saturated = gap > SATURATED
    cause = f"its logits are saturated, {gap:.3g} apart" if saturated else "something in it rounds, or is a step"
    attack = ("autoattack" if logits.shape[1] > 3 else "autoattack_binary") if saturated else "square"
    return [Finding(
        f"cross-entropy has no gradient on {zero} of {int(right.sum())} sample images ({cause}), so fgsm and pgd fail "
        "and flatter the model",
        f"attack it with {attack} as well, and believe the lowest number",
    )]  # fmt: skip


def labels_only(labels: Tensor, again: Tensor) -> list[Finding]:
    """That a model gives labels only, and whether those (N) of two passes over the same images differ."""
    found = [Finding("the model gives labels only", "hopskipjump and rays can attack it; margins are unknown")]
    if not torch.equal(labels, again):
        found.append(Finding(
            f"labels are random: {int((labels != again).sum())} of {len(labels)} differ in a second pass",
            "each verdict is the most frequent of 20 labels; attacks that need labels only are weak on it",
        ))  # fmt: skip
    elif len(labels) > 1 and bool((labels == labels[0]).all()):
        found.append(Finding(
            f"the model gives all {len(labels)} sample images the label {int(labels[0])}",
            "check what it does with its input",
        ))  # fmt: skip
    return found


def randomness(logits: Tensor, again: Tensor) -> list[Finding]:
    """Whether two passes over the same images differ."""
    if not differ(logits, again):
        return []
    return [Finding(
        "predictions are random: two passes over the same images differ",
        "each verdict is the mean of 20 passes; attack it with autoattack_rand, which averages gradients, and compare "
        "several seeds",
    )]  # fmt: skip


def batch_dependence(logits: Tensor, alone: Tensor | None) -> list[Finding]:
    """Whether the logits of a batch differ from those of the same images one at a time, if there are any."""
    if alone is None or not differ(logits, alone):
        return []
    return [Finding(
        "a prediction depends on the other images of its batch, as with BatchNorm without running statistics",
        "train with track_running_stats=True, call eval() of the modules that a function runs; as it is, every number "
        "holds for this batch size alone",
    )]  # fmt: skip


def preprocessing(model: nn.Module, x: Tensor, y: Tensor, predicted: Tensor, classes: int) -> list[Finding]:
    """Whether the model is much more accurate on images normalised in some usual way, or with their channels reversed.

    A network without its normalisation may stay far above chance (67 % instead of 91 % on MNIST), so chance is no
    criterion; a model that is right as it is has never gained from a second normalisation.
    """
    plain = predicted == y
    threshold = _threshold(float(plain.float().mean()) + MIN_GAIN, classes, y)
    network = model.model if isinstance(model, SelectOutputs) else model
    if threshold > 1:
        return []
    names = () if isinstance(dict(network.named_children()).get("normalize"), Normalize) else _usual(x.shape[1])
    tried = {name: predicted_classes(model, Normalize(*parse_normalize(name))(x)) == y for name in names}
    if x.shape[1] == 3:
        tried[BGR] = predicted_classes(model, x.flip(1)) == y
    best = max(tried, key=lambda name: int(tried[name].sum()), default=None)
    after = 0.0 if best is None else float(tried[best].float().mean())
    if best is None or after < threshold or mcnemar(plain.cpu().numpy(), tried[best].cpu().numpy()) > MAX_P_VALUE:
        return []
    how, what, cure = _wanted(best)
    return [Finding(
        f"the model is right on {plain.float().mean():.0%} of {len(y)} sample images, and on {after:.0%} once {how}, "
        f"so it expects {what}",
        cure,
    )]  # fmt: skip


def _wanted(change: str) -> tuple[str, str, str]:
    """What was done to the images, what images the model then expects, and the cure."""
    if change == BGR:
        cure = "images are read as RGB; let its function reverse the channels first, model(x.flip(1))"
        return "their channels are reversed", "BGR images", cure
    how = "multiplied by 255" if change == "0-255" else f"normalised ({change})"
    cure = f"give --normalize {change}, or mean/std as in training; in Python load_model(model, normalize='{change}')"
    return f"they are {how}", "other pixels than [0, 1]", cure


def _usual(channels: int) -> tuple[str, ...]:
    """Normalisations that are tried."""
    return (*(("imagenet", "cifar10") if channels == 3 else ("mnist",)), "0.5/0.5", "0-255")


def _is_batchnorm(module: nn.Module) -> bool:
    name = module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
    return "BatchNorm" in name


def _threshold(least: float, classes: int, y: Tensor) -> float:
    """The accuracy from which a change counts: `least`, above the majority-class baseline, and not by chance.

    An untrained network may give similar images one answer, and so be right on a whole class: at least half of what
    chance (1/K) leaves is required.
    """
    return max(least, float(y.bincount().max()) / len(y) + MIN_GAIN, (1 + 1 / classes) / 2)


def _sum_to_one(values: Tensor) -> bool:
    sums = values.sum(dim=1)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-2)


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether outputs differ by more than rounding, which changes with the batch size."""
    return bool((one - other).abs().max() > NOISE * (one.max() - one.min()))
