"""`inoculate train`: one classifier, one folder."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from inoculate.artifacts.specs import fingerprint
from inoculate.cli.common import (
    Data,
    DataRoot,
    Device,
    ImageSize,
    Limit,
    Seed,
    check_out,
    finished,
    pick_device,
    remove_stale_outputs,
    warn_large_eps,
    writable,
)
from inoculate.cli.methods import (
    Fallback,
    Method,
    Options,
    Surrogates,
    Teacher,
    check_help,
    fallback_for,
    helper_networks,
    parse_options,
    threat_of,
    warnings_of,
)
from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from inoculate.training.trackers import Tracker

TrackerName = Annotated[
    str | None, typer.Option(help="tensorboard (into OUT/logs), mlflow, wandb or trackio; the first if installed.")
]
Precision = Annotated[str, typer.Option(help="auto (bf16 where the processor has it), bf16 or fp32.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Pass each batch in so many parts, to save memory.")]
ROUNDS_PER_EPOCH = 2  # with guards: a collapse is caught within an epoch


def train(
    model: Annotated[str, typer.Option(help="A timm name such as resnet18, or small_cnn for small grey images.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the trained model.")],
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    limit: Limit = None,
    method: Method = "standard",
    eps: Annotated[str | None, typer.Option(help="What an adversarial method trains against [8/255].")] = None,
    norm: Annotated[str | None, typer.Option(help="linf (if left out), l2 or l1; of an adversarial method.")] = None,
    option: Options = None,
    teacher: Teacher = None,
    surrogate: Surrogates = None,
    fallback: Fallback = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training part.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per update.")] = 64,
    lr: Annotated[float, typer.Option(min=1e-9, help="Peak learning rate.")] = 2e-3,
    stem: Annotated[str, typer.Option(help="imagenet, or small for small images.")] = "imagenet",
    augment: Annotated[str, typer.Option(help="Augmentation: none, digits, photos or shifts.")] = "none",
    precision: Precision = "auto",
    accumulate: Accumulate = 1,
    tracker: TrackerName = None,
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a classifier and write a folder that `evaluate --model` reads. Run it again to go on after a stop.

    The test part that `evaluate` uses is never seen; the validation part chooses the epoch that is kept. Several
    processes share every batch under `accelerate launch --multi_gpu -m inoculate train …` or `torchrun`, also on CPUs.
    """
    from inoculate.artifacts.files import write_json
    from inoculate.cli.progress import Bar
    from inoculate.data.augment import augmenter
    from inoculate.data.load import load_data
    from inoculate.models.checks import check_training
    from inoculate.models.loading.checkpoints import ModelSpec, save_model
    from inoculate.models.loading.specs import identity
    from inoculate.training.distributed import process_group
    from inoculate.training.methods.base import standard
    from inoculate.training.methods.registry import get_method
    from inoculate.training.samples import training_set
    from inoculate.training.trainer import Recipe, best_round, fit, updates_in

    chosen = None if method == "standard" else get_method(method, **parse_options(option))
    if chosen is None and option:
        raise InputError("method standard has no options: leave --option out, or choose another --method")
    if ":" in model or Path(model).is_dir():
        raise InputError(f"train starts a timm network or small_cnn anew, not {model}: inoculate harden takes it")
    check_help(method, teacher, surrogate)
    check_out(out, data, [teacher, *(surrogate or [])])
    if (out / "README.md").is_file():
        raise InputError(f"{out / 'README.md'} describes the model that is there now: give another folder with --out")
    if chosen is None and (eps or norm):
        raise InputError("method standard has no eps and no norm: leave them out, or choose another --method")
    threat = threat_of(norm or "linf", eps or "8/255")
    is_traced = chosen is not None and chosen.is_monitored
    fallback_method = None if fallback is None else fallback_for(method, is_traced, fallback, threat)
    if precision not in ("auto", "bf16", "fp32"):
        raise InputError(f"precision '{precision}' is unknown: use auto, bf16 or fp32")
    with process_group(pick_device(device)) as group:
        with group.main_first():  # it decodes the images, the others find them decoded
            images, validation = (
                load_data(data, part, data_root=data_root, image_size=image_size) for part in ("train", "val")
            )
        augmenter(augment, images.image_size)  # its own check, before anything is written
        if limit is not None:
            images = images.limit(limit, seed=seed)
        if chosen is not None and group.is_main:
            warn_large_eps([threat], images)
        spec = ModelSpec.fitting(model, images, stem)  # type: ignore[arg-type]
        network = spec.build(seed=seed).to(group.device)
        updates = updates_in(epochs, len(images), batch_size)
        recipe = Recipe(
            updates, rounds=min(updates, epochs * (1 if chosen is None else ROUNDS_PER_EPOCH)),
            batch_size=batch_size, lr=lr, augment=augment, stop_on_failure=False, precision=precision, accumulate=accumulate,  # type: ignore[arg-type]
        )  # fmt: skip
        recipe = recipe if chosen is None else chosen.adapt(recipe)
        made_from: dict[str, Any] = {
            "model": asdict(spec), "recipe": asdict(recipe), "data": images.digest, "seed": seed,
        }  # fmt: skip
        update, facts = standard, {}
        if chosen is not None:
            update = chosen.begin(threat, helper_networks(chosen.name, teacher, surrogate, images, group.device, seed))
            facts = {"method": chosen.spec, "threat": asdict(threat), **({"fallback": fallback} if fallback else {})}
            made_from |= {**facts, "helpers": [identity(str(each)) for each in (teacher, *(surrogate or ()))]}
        run = fingerprint(made_from)
        if group.broadcast(group.is_main and finished(out, run)):
            return
        share = group.parts(batch_size, accumulate)[0]
        check_training(network, images, share.stop - share.start)  # before anything is written
        unfinished = out / f".unfinished-{run}"
        if group.is_main:
            writable(unfinished)
        group.barrier()
        tracking = _tracker(tracker, out, made_from) if group.is_main else None
        with Bar(Console(quiet=not group.is_main), f"train {model} on {images.name}") as bar:
            history = fit(
                network, training_set("standard", images, (), seed=seed), validation, update, recipe, seed=seed,
                folder=unfinished, progress=bar, threat=threat if chosen else None, group=group, fallback=fallback_method,
                after_round=(lambda entry: tracking.log(entry, int(entry["update"]))) if tracking else None,
            )  # fmt: skip
            if tracking:
                tracking.close()
        group.barrier()
        if not group.is_main:
            return
        remove_stale_outputs(out)
        save_model(out, network, spec, run=run, seed=seed, data=images.digest, **facts)
        write_json(out / "history.json", history)
        shutil.rmtree(unfinished)
        best = history[best_round(history)]
        for message in warnings_of(history, fallback) if recipe.stop_on_failure else ():
            typer.echo(f"warning: {message}; the weights of update {best['update']:.0f} are kept", err=True)
        robust = f", {best['val_robust']:.1%} under PGD-10" if chosen else ""
        typer.echo(f"{out}: validation accuracy {best['val_accuracy']:.1%}{robust} after {best['update']:.0f} updates")


def _tracker(name: str | None, out: Path, config: dict[str, Any]) -> Tracker | None:
    """The tracker asked for; where none was, TensorBoard if it is installed."""
    from inoculate.training.trackers import Tracker, installed

    if name is None and not installed("tensorboard"):
        return None
    return Tracker(name or "tensorboard", out / "logs", config)
