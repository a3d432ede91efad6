"""The job `universal_patch`: one square that, laid anywhere over any image, misleads a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from inoculate.artifacts.files import write_bytes, write_file
from inoculate.attacks.losses import Objective, get_loss
from inoculate.attacks.universal_patch import FixedPatch, ascend_universal
from inoculate.core.errors import InputError
from inoculate.core.options import require_count, require_one_of, require_positive
from inoculate.core.progress import Progress
from inoculate.core.rng import generator, seeded
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.inputs import name_of_model, resolve_data, resolve_model
from inoculate.evaluation.passes import batch_within_memory, require_batch_size
from inoculate.evaluation.result import Evaluation
from inoculate.models.classes import match_classes
from inoculate.models.classifier import Classifier, Precision, prepare
from inoculate.models.loading.load import ModelLike

WEIGHTS, PICTURE = "patch.safetensors", "patch.png"


@dataclass(frozen=True)
class PatchOptions:
    """Settings of `universal_patch` that are rarely changed.

    Args:
        steps: number of steps, each on one batch.
        step: their length, in pixel units of [0, 1].
        loss: `margin`, `cross_entropy` or `dlr`.
        target: the class (a number) that the patch shall make of every image; None for any wrong class.
        batch_size: images a step.
        precision: as in `EvaluationOptions`.
        device: where a model SPEC is loaded.
    """

    steps: int = 300
    step: float = 0.05
    loss: str = "margin"
    target: int | None = None
    batch_size: int = 64
    precision: Precision = "fast"
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_count(steps=self.steps)
        require_positive(step=self.step)
        get_loss(self.loss)
        require_batch_size(self.batch_size)
        require_one_of(("fast", "exact"), precision=self.precision)


@dataclass(frozen=True, eq=False)
class UniversalPatch:
    """A patch (C×side×side in [0, 1]), and what it does to the test images.

    `evaluation` has the rows `none`, `universal_patch` and, as a control, `random_patch`: uniform noise of the same
    size at the same places. `FixedPatch(found.patch)` is the attack, for `evaluate`, `transfer` and `save_images`.
    """

    patch: Tensor
    evaluation: Evaluation

    @property
    def attack(self) -> FixedPatch:
        """The attack that lays the patch at a random place of each image."""
        return FixedPatch(self.patch)

    def __str__(self) -> str:
        return str(self.evaluation)

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write the evaluation, `patch.safetensors` and, where it is grey or RGB, `patch.png` into `folder`."""
        place = self.evaluation.save(folder)
        write_bytes(place / WEIGHTS, save({"patch": self.patch.contiguous()}))
        if len(self.patch) in (1, 3):
            pixels = (self.patch * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
            write_file(place / PICTURE, partial(picture.save, format="png"))
        return place

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> UniversalPatch:
        """Read what `save` wrote. Raises `InputError` for a missing or damaged file."""
        path = Path(folder) / WEIGHTS
        try:
            patch = load_file(path)["patch"]
        except (OSError, KeyError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read ({error}): give a folder that `save` wrote") from error
        return cls(patch, Evaluation.load(folder))


def universal_patch(
    model: ModelLike,
    data: DataLike,
    side: int,
    test: DataLike | None = None,
    *,
    seed: int = 0,
    options: PatchOptions = PatchOptions(),
    progress: Progress | None = None,
) -> UniversalPatch:
    """Find one patch that misleads a classifier wherever it lies in an image, and measure it on other images.

    Args:
        model: as for `evaluate`.
        data: the images on which the patch is found, as for `evaluate`.
        side: of the square, in pixels.
        test: the images on which it is measured; by default a random half of `data`, on which it is not found.
        seed: of every random draw: the half, the batches, the places and the first patch.
        options: everything else.
        progress: called as `("patch", steps done, all steps)`, then as by `evaluate`.

    Raises `InputError` for a patch that does not fit into the images, a target that is no class, or a model that is not
    differentiable.
    Source: Brown et al. 2017, section 3.
    """
    require_count(side=side)
    images = resolve_data(data, model)
    network = resolve_model(model, images, options.device)
    found_on, tested_on = _halves(images, seed) if test is None else (images, resolve_data(test, model))
    with seeded(seed, "prepare"):
        classifier = prepare(*match_classes(network, found_on), precision=options.precision)
    draw = generator(seed, "universal patch", device=classifier.device)
    start, control = torch.rand(2, images.channels, side, side, generator=generator(seed, "first patch"))
    FixedPatch(start).require_fits(images.images[:1])
    step = partial(_batch, classifier, _to_mislead(found_on, options), options, draw)

    def batch(number: int) -> tuple[Tensor, Objective]:
        if progress is not None:
            progress("patch", number, options.steps)
        return step()

    with classifier.ready():
        patch = ascend_universal(classifier.crafting, start, batch, options.steps, options.step, draw)
    if progress is not None:
        progress("patch", options.steps, options.steps)
    evaluation = evaluate(
        network, tested_on, {"universal_patch": FixedPatch(patch), "random_patch": FixedPatch(control)},
        [Threat("l0", side * side)], batch_size=batch_within_memory(classifier, images, None), seed=seed,
        options=EvaluationOptions(options.precision, checks=False, name=name_of_model(model)), progress=progress,
    )  # fmt: skip
    return UniversalPatch(patch, evaluation)


def _halves(data: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    if len(data) < 2:
        raise InputError(f"{data.name}: a patch is found on some images and measured on others: give at least two")
    order = torch.randperm(len(data), generator=generator(seed, "patch halves"))
    half = len(data) // 2
    return data.subset(order[half:].sort().values), data.subset(order[:half].sort().values)


def _to_mislead(data: Dataset, options: PatchOptions) -> Dataset:
    """The images that the patch is found on: those that do not belong to the target class."""
    target = options.target
    if target is None:
        return data
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < len(data.classes):
        raise InputError(f"target {target!r} is no class: give a number from 0 to {len(data.classes) - 1}")
    rows = (data.labels != target).nonzero().squeeze(1)
    if not len(rows):
        raise InputError(f"all images belong to the target class {target}: give images of other classes")
    return data.subset(rows)


def _batch(
    classifier: Classifier, data: Dataset, options: PatchOptions, draw: torch.Generator
) -> tuple[Tensor, Objective]:
    """Random images, and the objective on them."""
    size = min(options.batch_size, len(data))
    rows = torch.randint(len(data), (size,), generator=draw, device=draw.device).cpu()
    x, y = classifier.load(data, rows)
    target = None if options.target is None else torch.full_like(y, options.target)
    return x, Objective(get_loss(options.loss), y, target)
