"""`inoculate train`: train a classifier and write it to a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from inoculate.cli import options, training_options
from inoculate.cli.errors import launched_rank
from inoculate.cli.output import print_warnings
from inoculate.cli.parsers import parse_method_options, pick_device
from inoculate.cli.progress import Steps
from inoculate.cli.reading_options import reads_images
from inoculate.core.errors import InputError
from inoculate.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from inoculate.core.threat import Threat
    from inoculate.training.result import Training


@reads_images
def train(
    model: training_options.NewModel,
    data: options.Data,
    out: options.Out,
    preprocessing: Preprocessing,
    data_root: options.DataRoot = None,
    limit: options.Limit = None,
    method: training_options.Method = "standard",
    eps: training_options.OptionalEps = None,
    norm: training_options.OptionalNorm = None,
    option: training_options.MethodOptions = None,
    teacher: training_options.Teacher = None,
    surrogate: training_options.Surrogates = None,
    fallback: training_options.Fallback = None,
    epochs: training_options.Epochs = 5,
    batch_size: options.BatchSize = 64,
    lr: training_options.LearningRate = 2e-3,
    stem: training_options.Stem = "imagenet",
    augment: training_options.Augment = "none",
    precision: training_options.TrainingPrecision = "auto",
    accumulate: training_options.Accumulate = 1,
    tracker: training_options.Tracker = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
) -> None:
    """Train a classifier and write a folder that evaluate reads. Run it again to continue after an interruption.

    The test part that evaluate uses is never seen; the validation part chooses the round that is kept. Several
    processes train one network under torchrun or accelerate launch, also on CPUs.

    Example: inoculate train --model resnet18 --data my_images --epochs 10 --out my_model
    """
    from inoculate.training.options import TrainingOptions
    from inoculate.training.trackers import default_tracker
    from inoculate.training.train import train as run

    settings = TrainingOptions(
        batch_size=batch_size, lr=lr or TrainingOptions.lr, stem=stem, augment=augment,  # type: ignore[arg-type]
        precision=precision, accumulate=accumulate,  # type: ignore[arg-type]
        method_options=parse_method_options(option), teacher=teacher, surrogates=tuple(surrogate or ()),
        fallback=fallback, preprocessing=preprocessing, limit=limit, data_root=data_root,
        tracker=tracker or default_tracker(), seed=seed, device=pick_device(device),
    )  # fmt: skip
    threat, steps = _threat(method, eps, norm), Steps()
    try:
        found = run(model, data, method, threat, epochs=epochs, out=out, options=settings, progress=steps)
    finally:
        steps.close()
    if not launched_rank():
        _show(found, str(out))


def _threat(method: str, eps: str | None, norm: str | None) -> Threat | None:
    from inoculate.core.threat import Threat, parse_eps
    from inoculate.training.methods.names import STANDARD

    if method != STANDARD:
        return Threat(norm or "linf", parse_eps(eps or "8/255"))  # type: ignore[arg-type]
    if eps or norm:
        raise InputError(f"method {STANDARD} has no eps and no norm: leave them out, or choose another --method")
    return None


def _show(found: Training, out: str) -> None:
    if found.reused:
        typer.echo(f"{out}: this command has finished here before; to repeat it, remove the folder")
        return
    print_warnings(found.warnings)
    best = found.best
    robust = f", {best['val_robust']:.1%} under attack" if "val_robust" in best else ""
    robust += f", {best['val_certified']:.1%} certified" if "val_certified" in best else ""
    typer.echo(f"{out}: validation accuracy {best['val_accuracy']:.1%}{robust} after {best['update']:.0f} updates")
