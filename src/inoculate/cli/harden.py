"""`inoculate harden`: train a classifier to withstand attacks and write a robustness card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from inoculate.cli import options, training_options
from inoculate.cli.errors import launched_rank
from inoculate.cli.output import print_warnings
from inoculate.cli.parsers import parse_method_options, pick_device
from inoculate.cli.progress import Steps
from inoculate.cli.reading_options import reads_images
from inoculate.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from inoculate.core.row import Row
    from inoculate.evaluation.checks import Check
    from inoculate.hardening.result import Hardened


@reads_images
def harden(
    model: training_options.TrainableModel,
    data: options.Data,
    out: options.Out,
    preprocessing: Preprocessing,
    eps: options.Eps = "8/255",
    norm: options.Norm = "linf",
    method: training_options.OptionalMethod = None,
    option: training_options.MethodOptions = None,
    budget: training_options.Budget = "10m",
    epochs: training_options.OptionalEpochs = None,
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    outputs: options.Outputs = "logits",
    normalize: options.Normalize = None,
    stem: training_options.Stem = "imagenet",
    teacher: training_options.Teacher = None,
    surrogate: training_options.Surrogates = None,
    fallback: training_options.Fallback = None,
    data_root: options.DataRoot = None,
    limit: options.Limit = None,
    test_images: training_options.TestImages = 500,
    batch_size: options.BatchSize = 128,
    accumulate: training_options.Accumulate = 1,
    lr: training_options.LearningRate = None,
    augment: training_options.Augment = "auto",
    onnx: training_options.Onnx = False,
    certify: training_options.Certify = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
) -> None:
    """Train a classifier to withstand attacks; write a folder that evaluate reads, with a card of what was measured.

    The test part is used by the measurements only. Run the same command again to continue after an interruption.
    Several processes train one network under torchrun or accelerate launch.

    Example: inoculate harden --model resnet18 --data my_images --eps 8/255 --budget 30m --out hardened
    """
    from inoculate.core.threat import Threat, parse_eps
    from inoculate.hardening.harden import harden as run
    from inoculate.hardening.options import HardeningOptions

    settings = HardeningOptions(
        epochs=epochs, batch_size=batch_size, accumulate=accumulate, lr=lr, augment=augment,
        method_options=parse_method_options(option), teacher=teacher, surrogates=tuple(surrogate or ()),
        fallback=fallback, weights=weights, pretrained=pretrained, outputs=outputs, normalize=normalize,
        stem=stem, preprocessing=preprocessing, limit=limit, test_images=test_images,  # type: ignore[arg-type]
        data_root=data_root, onnx=onnx, certify=certify, seed=seed, device=pick_device(device),
    )  # fmt: skip
    threat, steps = Threat(norm, parse_eps(eps)), Steps()  # type: ignore[arg-type]
    try:
        found = run(model, data, threat, budget=budget, method=method, out=out, options=settings, progress=steps)
    finally:
        steps.close()
    if launched_rank():
        return
    if found.reused:
        typer.echo(f"{out}: this command has finished here before; to repeat it, remove the folder")
        return
    print_result(found)


def print_result(found: Hardened) -> None:
    """Print schedule, accuracies before and after, and the files; warnings go to stderr."""
    training = found.facts.training
    typer.echo(f"{found.method}: {training.reason}; augmentation {training.augment}")
    print_accuracies(found.before, found.after)
    print_checks(found.checks)
    print_warnings(found.warnings)
    files = "weights, README.md (robustness card), results.json" + (", model.onnx" if found.onnx is not None else "")
    typer.echo(f"{found.folder}: {files}")


def print_checks(checks: Sequence[Check]) -> None:
    """Print in one line whether the accuracies can be trusted."""
    from inoculate.hardening.masking import failed_checks

    failed = failed_checks(checks)
    made = sum(check.passed is not None for check in checks)
    verdict = f"FAILED: {', '.join(failed)}" if failed else "no alarm"
    typer.echo(f"checks: {verdict} ({made} of {len(checks)} made)")


def print_accuracies(before: Sequence[Row], after: Sequence[Row]) -> None:
    """Print accuracies before and after, side by side."""
    from inoculate.core.results import early_termination_words

    typer.echo(f"{'':18}{'before':>8}{'after':>8}   95 % interval, {after[0].n} test images")
    for old, new in zip(before, after, strict=True):
        name = "clean" if new.attack == "none" else f"{new.attack} {new.eps:.4g}"
        interval = f"[{new.ci_low:.1%}, {new.ci_high:.1%}]  {early_termination_words(new)}".rstrip()
        typer.echo(f"{name:18}{old.accuracy:8.1%}{new.accuracy:8.1%}   {interval}")
