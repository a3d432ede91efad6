"""`inoculate train`: train a classifier and write it to a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from inoculate.cli.errors import launched_rank
from inoculate.cli.methods import parse_options
from inoculate.cli.options import (
    MODEL,
    TRAINING,
    Accumulate,
    Augment,
    BatchSize,
    Data,
    DataRoot,
    Device,
    Epochs,
    Fallback,
    ImageSize,
    LearningRate,
    Limit,
    Method,
    MethodOptions,
    Out,
    Seed,
    Stem,
    Surrogates,
    Teacher,
    TrainingPrecision,
    pick_device,
)
from inoculate.cli.output import print_warnings
from inoculate.cli.progress import Steps
from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from inoculate.core.threat import Threat
    from inoculate.training.result import Training

Model = Annotated[str, typer.Option(help="timm name such as resnet18, or small_cnn.", rich_help_panel=MODEL)]
Eps = Annotated[
    str | None, typer.Option(help="What an adversarial method trains against [8/255].", rich_help_panel=TRAINING)
]
Norm = Annotated[
    str | None, typer.Option(help="linf (default), l2 or l1; of an adversarial method.", rich_help_panel=TRAINING)
]
TrackerName = Annotated[
    str | None,
    typer.Option(
        "--tracker", help="tensorboard (OUT/logs; default if installed), mlflow, wandb or trackio.",
        rich_help_panel=TRAINING,
    ),
]  # fmt: skip


def train(
    model: Model,
    data: Data,
    out: Out,
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    limit: Limit = None,
    method: Method = "standard",
    eps: Eps = None,
    norm: Norm = None,
    option: MethodOptions = None,
    teacher: Teacher = None,
    surrogate: Surrogates = None,
    fallback: Fallback = None,
    epochs: Epochs = 5,
    batch_size: BatchSize = 64,
    lr: LearningRate = 2e-3,
    stem: Stem = "imagenet",
    augment: Augment = "none",
    precision: TrainingPrecision = "auto",
    accumulate: Accumulate = 1,
    tracker: TrackerName = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a classifier and write a folder that evaluate reads. Run it again to continue after an interruption.

    The test part that evaluate uses is never seen; the validation part chooses the round that is kept. Several
    processes train one network under torchrun or accelerate launch, also on CPUs.
    """
    from inoculate.training.options import TrainingOptions
    from inoculate.training.trackers import default_tracker
    from inoculate.training.train import train as run

    options = TrainingOptions(
        batch_size=batch_size, lr=lr or TrainingOptions.lr, stem=stem, augment=augment,  # type: ignore[arg-type]
        precision=precision, accumulate=accumulate,  # type: ignore[arg-type]
        method_options=parse_options(option), teacher=teacher, surrogates=tuple(surrogate or ()), fallback=fallback,
        image_size=image_size, limit=limit, data_root=data_root, tracker=tracker or default_tracker(), seed=seed,
        device=pick_device(device),
    )  # fmt: skip
    threat, steps = _threat(method, eps, norm), Steps()
    try:
        found = run(model, data, method, threat, epochs=epochs, out=out, options=options, progress=steps)
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
    robust = f", {best['val_robust']:.1%} under PGD-10" if "val_robust" in best else ""
    typer.echo(f"{out}: validation accuracy {best['val_accuracy']:.1%}{robust} after {best['update']:.0f} updates")
