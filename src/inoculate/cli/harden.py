"""`inoculate harden`: train a classifier to withstand attacks and write a robustness card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from inoculate.cli.methods import parse_options
from inoculate.cli.options import (
    Augment,
    BatchSize,
    Budget,
    Data,
    DataRoot,
    Device,
    Eps,
    Fallback,
    ImageSize,
    LearningRate,
    Limit,
    MethodOptions,
    Norm,
    Normalize,
    Onnx,
    OptionalEpochs,
    OptionalMethod,
    Out,
    Outputs,
    Pretrained,
    Seed,
    Stem,
    Surrogates,
    Teacher,
    TestImages,
    TrainableModel,
    Weights,
    pick_device,
)
from inoculate.cli.output import print_warnings
from inoculate.cli.progress import Steps

if TYPE_CHECKING:
    from inoculate.core.row import Row
    from inoculate.hardening.result import Hardened


def harden(
    model: TrainableModel,
    data: Data,
    out: Out,
    eps: Eps = "8/255",
    norm: Norm = "linf",
    method: OptionalMethod = None,
    option: MethodOptions = None,
    budget: Budget = "10m",
    epochs: OptionalEpochs = None,
    weights: Weights = None,
    pretrained: Pretrained = False,
    outputs: Outputs = "logits",
    normalize: Normalize = None,
    stem: Stem = "imagenet",
    teacher: Teacher = None,
    surrogate: Surrogates = None,
    fallback: Fallback = None,
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    limit: Limit = None,
    test_images: TestImages = 500,
    batch_size: BatchSize = 128,
    lr: LearningRate = None,
    augment: Augment = "auto",
    onnx: Onnx = False,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a classifier to withstand attacks; write a folder that evaluate reads, with a card of what was measured.

    The test part is used by the measurements only. Run the same command again to continue after an interruption.

    Example: inoculate harden --model resnet18 --data my_images --eps 8/255 --budget 30m --out hardened
    """
    from inoculate.core.threat import Threat, parse_eps
    from inoculate.hardening.harden import harden as run
    from inoculate.hardening.options import HardeningOptions

    options = HardeningOptions(
        epochs=epochs, batch_size=batch_size, lr=lr, augment=augment, method_options=parse_options(option),
        teacher=teacher, surrogates=tuple(surrogate or ()), fallback=fallback, weights=weights, pretrained=pretrained,
        outputs=outputs, normalize=normalize, stem=stem, image_size=image_size, limit=limit,  # type: ignore[arg-type]
        test_images=test_images, data_root=data_root, onnx=onnx, seed=seed, device=pick_device(device),
    )  # fmt: skip
    threat, steps = Threat(norm, parse_eps(eps)), Steps()  # type: ignore[arg-type]
    try:
        found = run(model, data, threat, budget=budget, method=method, out=out, options=options, progress=steps)
    finally:
        steps.close()
    if found.reused:
        typer.echo(f"{out}: this command has finished here before; to repeat it, remove the folder")
        return
    print_result(found)


def print_result(found: Hardened) -> None:
    """Print schedule, accuracies before and after, and the files; warnings go to stderr."""
    training = found.facts.training
    typer.echo(f"{found.method}: {training.reason}; augmentation {training.augment}")
    print_accuracies(found.before, found.after)
    print_warnings(found.warnings)
    files = "weights, README.md (robustness card), results.json" + (", model.onnx" if found.onnx is not None else "")
    typer.echo(f"{found.folder}: {files}")


def print_accuracies(before: Sequence[Row], after: Sequence[Row]) -> None:
    """Print accuracies before and after, side by side."""
    typer.echo(f"{'':18}{'before':>8}{'after':>8}   95 % interval, {after[0].n} test images")
    for old, new in zip(before, after, strict=True):
        name = "clean" if new.attack == "none" else f"{new.attack} {new.eps:.4g}"
        typer.echo(f"{name:18}{old.accuracy:8.1%}{new.accuracy:8.1%}   [{new.ci_low:.1%}, {new.ci_high:.1%}]")
