"""`inoculate train`: one classifier, one folder."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from inoculate.cli.common import Data, DataRoot, Device, ImageSize, Limit, Seed, pick_device, writable
from inoculate.spec import fingerprint


def train(
    model: Annotated[str, typer.Option(help="A timm name such as resnet18.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the trained model.")],
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    limit: Limit = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training part.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per update.")] = 64,
    lr: Annotated[float, typer.Option(min=1e-9, help="Peak learning rate.")] = 2e-3,
    stem: Annotated[str, typer.Option(help="imagenet, or small for small images.")] = "imagenet",
    augment: Annotated[str, typer.Option(help="Augmentation: none, digits or photos.")] = "none",
    seed: Seed = 0,
    device: Device = "auto",
) -> None:
    """Train a classifier and write a folder that `evaluate --model` reads. Run it again to go on after a stop.

    The test part that `evaluate` uses is never seen; the validation part chooses the epoch that is kept.
    """
    from inoculate.data.sources import load_data
    from inoculate.defences.fit import Recipe, best_round, fit
    from inoculate.defences.methods import standard
    from inoculate.defences.transferred import training_set
    from inoculate.models.checkpoint import ModelSpec, save_model
    from inoculate.store import write_json
    from inoculate.watch import Bar

    images, validation = (
        load_data(data, part, data_root=data_root, image_size=image_size) for part in ("train", "val")
    )
    if limit is not None:
        images = images.limit(limit, seed=seed)
    mean, std = images.channel_statistics()
    spec = ModelSpec(model, images.classes, images.channels, images.image_size[0], stem, mean=mean, std=std)  # type: ignore[arg-type]
    network = spec.build(seed=seed).to(pick_device(device))
    recipe = Recipe(
        epochs * -(-len(images) // batch_size), rounds=epochs, batch_size=batch_size, lr=lr, augment=augment
    )
    made_from = {"model": asdict(spec), "recipe": asdict(recipe), "data": images.digest, "seed": seed}
    unfinished = writable(out / f".unfinished-{fingerprint(made_from)}")
    with Bar(Console(), f"train {model} on {images.name}") as bar:
        samples = training_set("standard", images, (), seed=seed)
        history = fit(network, samples, validation, standard, recipe, seed=seed, folder=unfinished, progress=bar)
    save_model(out, network, spec, seed=seed, data=images.digest)
    write_json(out / "history.json", history)
    shutil.rmtree(unfinished)
    best = history[best_round(history)]
    typer.echo(f"{out}: validation accuracy {best['val_accuracy']:.1%} after {best['update']:.0f} updates")
