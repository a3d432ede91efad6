"""`inoculate transfer`: which model's adversarial examples fool which other model."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from inoculate.cli.common import (
    BatchSize,
    Data,
    DataRoot,
    Device,
    ImageSize,
    Limit,
    Norm,
    Seed,
    pick_device,
    warn_large_eps,
    writable_file,
)
from inoculate.cli.evaluate import (
    MODEL,
    Eps,
    Normalization,
    Outputs,
    Precision,
    load_images,
    load_network,
    note_random,
    warn_of,
)
from inoculate.core.errors import InputError


def transfer(
    model: Annotated[list[str], typer.Option(help=MODEL + " Give it several times.")],
    data: Data,
    pretrained: Annotated[bool, typer.Option(help="Download timm's weights for models that are timm names.")] = False,
    outputs: Outputs = "logits",
    normalize: Normalization = None,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    limit: Limit = None,
    attack: Annotated[str, typer.Option(help="One attack, such as fgsm or mifgsm.")] = "mifgsm",
    norm: Norm = "linf",
    eps: Eps = "8/255",
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    precision: Precision = "fast",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
    device: Device = "auto",
) -> None:
    """Craft on each model, judge on all: a matrix of accuracies per eps."""
    from inoculate.artifacts.rows import write_rows
    from inoculate.attacks.registry import get_attack
    from inoculate.core.threat import Threat, parse_eps
    from inoculate.evaluation.transfer import transfer_matrix

    epsilons = [parse_eps(text) for text in eps.split(",")]
    threat = Threat(norm, max(epsilons))  # type: ignore[arg-type]
    chosen = get_attack(attack)
    if len(set(model)) < len(model):
        raise InputError("a model is given twice: name each --model once")
    if json_file is not None:
        writable_file(json_file)
    images = load_images(data, split, data_root, image_size, limit, seed, model[0])
    warn_large_eps([threat], images)
    place, networks = pick_device(device), {}
    for spec in model:
        trained = Path(spec).is_dir()  # brings its own
        networks[spec] = load_network(
            spec, images, place,
            pretrained=pretrained, outputs="logits" if trained else outputs, normalize=None if trained else normalize,
        )  # fmt: skip
    if not pretrained:
        note_random(model)
    for spec, network in networks.items():
        warn_of(network, images, seed, f"{spec}: ")
    rows = transfer_matrix(
        networks, images, chosen, threat, epsilons, batch_size=batch_size, seed=seed,
        precision=precision, name=attack,  # type: ignore[arg-type]
    )  # fmt: skip
    found = {(row.protocol, row.model, row.eps): row.accuracy for row in rows}
    console, names = Console(soft_wrap=True), _short(model)
    for spec, letter in names.items():
        if letter != spec:
            console.print(f"{letter} = {spec}", markup=False, highlight=False)
    for size in epsilons:
        title = f"{attack} {norm} eps {size:.4g}: accuracy on {len(images)} images of {images.name} ({split})"
        table = Table("crafted on", *(f"judged on {names[spec]}" for spec in model), title=title, title_justify="left")
        for source in model:
            protocols = ["white-box" if target == source else f"transfer:{source}/standard" for target in model]
            cells = [found[protocol, target, size] for protocol, target in zip(protocols, model, strict=True)]
            table.add_row(names[source], *(f"{cell:.1%}" for cell in cells))
        console.print(table)
    if json_file is not None:
        write_rows(json_file, rows)


def _short(models: list[str], widest: int = 16) -> dict[str, str]:
    """What to call each model in a table: itself, or letters where a path would be cut off."""
    if max(map(len, models)) <= widest:
        return {spec: spec for spec in models}
    letters = string.ascii_uppercase
    return {spec: letters[i] if i < len(letters) else f"M{i + 1}" for i, spec in enumerate(models)}
