"""Networks with more outputs than classes: dummy classes that attract an attack, or an output of a detector.

Training with a dummy class beside each class (Wang et al. 2024) lets an attack push images into dummy classes, which
then count as the classes that they stand for; a detector's output counts as right where it is the largest. An attack
on the scores of the classes, each the largest of its outputs, is not misled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from inoculate.attacks.pgd import PGD
from inoculate.core.calls import call
from inoculate.core.modes import frozen
from inoculate.core.rng import generator, seeded
from inoculate.core.stats import exceeds_rate, mcnemar
from inoculate.evaluation.passes import GRADIENT
from inoculate.evaluation.sample import SIGNIFICANT, Sample, affordable, per_image
from inoculate.models.classifier import Classifier

PLAIN = PGD(steps=20, loss="margin")
COST = per_image(2 * GRADIENT * PLAIN.steps + 10)
PURE = 0.8  # of the images that an output attracts must belong to one class, for it to stand for that class


class Attraction(NamedTuple):
    """Of `images` attacked ones, how many were `attracted` by outputs that are no class's own.

    `right` are still right under PGD where such an output counts as the class that it stands for, or as right where it
    stands for none; `right_adapted` under PGD on the scores of the classes. `is_trick`: that is clearly less.
    """

    images: int
    attracted: int
    right: int
    right_adapted: int
    is_trick: bool


def find_attraction(sample: Sample, labelled: Tensor, share: float) -> Attraction | None:
    """Attack some images of the sample, within `share` of the passes left; None without extra outputs, or any image.

    `labelled` are the classes that images of the data have. Extra are outputs for other classes, or outputs of the
    last layer with weights where that has more than the model.
    """
    classifier, clean = sample.classifier, sample.clean.nonzero().squeeze(1)
    if not len(clean) or sample.left < len(clean[:2]) + COST(1):
        return None
    few = classifier.load(sample.data, clean[:2])[0]
    with frozen(classifier.model):
        hidden = _wider_layer(classifier.model, few, classifier.classes)
    if hidden is None and len(labelled) == classifier.classes:
        return None
    rows = clean[: affordable(COST, len(clean), share * sample.left)]
    return _attack(sample, rows, labelled, hidden) if len(rows) else None


def _attack(sample: Sample, rows: Tensor, labelled: Tensor, hidden: str | None) -> Attraction | None:
    classifier = sample.classifier
    scores, seed = _Scores(classifier.model, hidden), sample.settings.seed
    x, y = classifier.load(sample.data, rows)
    with seeded(seed, "extra outputs"), classifier.ready():
        draw = generator(seed, "extra outputs", device=x.device)
        x_adv = PLAIN(classifier.model, x, y, sample.threat, generator=draw)
        with torch.no_grad():
            before, after = scores(x), scores(x_adv)
        clean, top = before.argmax(dim=1), after.argmax(dim=1)
        if hidden is None:
            real = labelled.to(x.device)
            owners = _owners([top], [y], real, after.shape[1])
        else:
            real, predicted = clean.unique(), [_predicted(classifier, each, y) for each in (x, x_adv)]
            owners = _owners([clean, top], predicted, clean[:0], after.shape[1])
        attracted = int((~torch.isin(top, real)).sum())
        if hidden is None and not _is_attracted(attracted, len(rows), 1 - len(real) / after.shape[1]):
            return Attraction(len(rows), attracted, 0, 0, False)
        aggregated = Aggregated(scores, owners.tolist(), classifier.classes)
        x_adapted = replace(PLAIN, loss=_beyond)(aggregated, x, y, sample.threat, generator=draw)
        with torch.no_grad():
            right, adapted = (
                (_beyond(aggregated(each), y) < 0 if hidden is None else classifier.predict(each, y).right).cpu()
                for each in (x_adv, x_adapted)
            )
    gap = int(right.sum()) > int(adapted.sum()) and mcnemar(right.numpy(), adapted.numpy()) < SIGNIFICANT
    return Attraction(len(rows), attracted, int(right.sum()), int(adapted.sum()), bool(gap))


def _beyond(scores: Tensor, y: Tensor) -> Tensor:
    """The best wrong class's score minus the larger one of the true class and of the outputs of none, per image (B)."""
    true = scores.gather(1, y[:, None]).squeeze(1).maximum(scores[:, -1])
    return scores[:, :-1].scatter(1, y[:, None], -torch.inf).amax(dim=1) - true


class Aggregated(nn.Module):
    """The scores of `classes` classes, each the largest of the outputs of `model` that stand for it: B×(classes + 1).

    `owners` says for each output of `model` (B×M) its class, −1 for none; the last score is the largest of these. What
    has no output has the lowest score.
    """

    def __init__(self, model: nn.Module, owners: Sequence[int], classes: int) -> None:
        super().__init__()
        self.model, self.owners, self.classes = model, tuple(owners), classes

    def forward(self, x: Tensor) -> Tensor:
        outputs = call(self.model, x)
        owners = torch.tensor(self.owners, device=x.device)
        lowest = outputs.new_tensor(torch.finfo(outputs.dtype).min / 4)
        every = (*range(self.classes), -1)
        columns = [torch.where(owners == each, outputs, lowest).amax(dim=1) for each in every]
        return torch.stack(columns, dim=1)


@dataclass(eq=False)
class _Kept:
    """What a layer gave last."""

    output: Tensor | None = None

    def __call__(self, _: nn.Module, inputs: Any, output: Tensor) -> None:
        self.output = output


class _Scores(nn.Module):
    """The outputs of the layer `hidden` of a model (B×M), or of the model itself."""

    def __init__(self, model: nn.Module, hidden: str | None) -> None:
        super().__init__()
        self.model, self.hidden = model, hidden

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden is None:
            return call(self.model, x)
        kept = _Kept()
        hook = self.model.get_submodule(self.hidden).register_forward_hook(kept)
        try:
            logits = call(self.model, x)
        finally:
            hook.remove()
        return logits if kept.output is None else kept.output


def _wider_layer(model: nn.Module, x: Tensor, classes: int) -> str | None:
    """The name of the last layer with weights that runs, if it gives each image more numbers than `classes`."""
    last: list[tuple[str, Any]] = []

    def note(name: str) -> Any:
        return lambda module, inputs, output: last.append((name, output))

    leaves = [
        (name, module)
        for name, module in model.named_modules()
        if name and not list(module.children()) and list(module.parameters())
    ]
    hooks = [] if isinstance(model, torch.jit.ScriptModule) else [m.register_forward_hook(note(n)) for n, m in leaves]
    try:
        with torch.no_grad():
            call(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    if not last or not isinstance(last[-1][1], Tensor):
        return None
    name, output = last[-1]
    return name if output.ndim == 2 and len(output) == len(x) and output.shape[1] > classes else None


def _owners(tops: Sequence[Tensor], classes: Sequence[Tensor], own: Tensor, outputs: int) -> Tensor:
    """The class that each of the `outputs` stands for (M), −1 for none.

    An output of `own` stands for itself, any other for the class (of `classes`) of nearly all images on which it is the
    largest (of `tops`). Where all found repeat with one period, so do the others.
    """
    top, of = torch.cat(list(tops)), torch.cat(list(classes))
    owners = torch.full((outputs,), -1, device=top.device)
    owners[own] = own
    for output in sorted(set(top.tolist())):
        drawn = of[top == output]
        best = int(drawn.mode().values)
        if owners[output] < 0 and float((drawn == best).float().mean()) >= PURE:
            owners[output] = best
    places = torch.arange(outputs, device=top.device)
    known, period = owners >= 0, int(of.max()) + 1 if not len(own) else int(own.max()) + 1
    if outputs % period == 0 and bool((owners[known] == places[known] % period).all()):
        return places % period
    return owners


def _predicted(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
    return classifier.predict(x, y).predicted.to(x.device)


def _is_attracted(attracted: int, images: int, chance: float) -> bool:
    """Whether most images, and significantly more than by chance, are drawn to the extra outputs."""
    return attracted > images / 2 and exceeds_rate(attracted, images, chance) < SIGNIFICANT
