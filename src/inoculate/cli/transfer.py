"""`inoculate transfer`: which model's adversarial examples fool which other model."""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from inoculate.cli import options, threat_options
from inoculate.cli.output import print_notes, print_table, print_warnings, require_writable_places, store_in
from inoculate.cli.parsers import masked, parse_threats, pick_device
from inoculate.cli.reading_options import adapts_attacks, reads_images
from inoculate.core.errors import InputError
from inoculate.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from inoculate.evaluation.result import TransferMatrix

WIDEST = 16  # characters of a model's name in a table; longer ones are given letters


@adapts_attacks
@reads_images
def transfer(
    model: options.Models,
    data: options.Data,
    preprocessing: Preprocessing,
    adaptation: dict[str, Any],
    pretrained: options.Pretrained = False,
    outputs: options.Outputs = "logits",
    normalize: options.Normalize = None,
    class_names: options.ClassNames = None,
    classes: options.Classes = "all",
    split: options.Split = "test",
    data_root: options.DataRoot = None,
    limit: options.Limit = None,
    source: options.Sources = None,
    attack: options.Attack = "mifgsm",
    norm: options.Norms = "linf",
    eps: options.EpsList = "8/255",
    mask: threat_options.Mask = None,
    precision: options.Precision = "fast",
    seed: options.Seed = 0,
    batch_size: options.AutoBatchSize = None,
    device: options.Device = "auto",
    executor: options.Executor = "local",
    json_file: options.Json = None,
    out: options.OptionalOut = None,
    store: options.Store = None,
) -> None:
    """Craft adversarial examples on each model and evaluate all models on them: a table per eps.

    Example: inoculate transfer --model model_a --model model_b --data my_images --attack mifgsm --eps 8/255
    """
    from inoculate.artifacts.rows import write_rows
    from inoculate.cli.progress import Steps
    from inoculate.evaluation.inputs import load_images, random_weights_warning, resolve_attack
    from inoculate.evaluation.transfer import TransferOptions
    from inoculate.evaluation.transfer import transfer as run
    from inoculate.models.loading.inputs import expected_preprocessing, fit_channels
    from inoculate.models.loading.load import load_model

    threats, (name, chosen) = parse_threats(norm, eps), resolve_attack(attack, adaptation)
    if len(set(model)) < len(model):
        raise InputError("a model is given twice: name each --model once")
    require_writable_places((json_file,), (out, store))
    place = pick_device(device)
    settings = TransferOptions(
        precision, name=name, store=store_in(out, store), class_names=class_names,  # type: ignore[arg-type]
        classes=classes, sources=source, executor=executor,  # type: ignore[arg-type]
    )  # fmt: skip
    reading = preprocessing.over(expected_preprocessing(model[0], pretrained=pretrained, normalize=normalize))
    images = load_images(data, split, reading, data_root=data_root, limit=limit, seed=seed)
    networks = {}
    for spec in model:
        declared = {} if Path(spec).is_dir() else {"outputs": outputs, "normalize": normalize}  # a folder has its own
        networks[spec] = load_model(spec, images, pretrained=pretrained, **declared).to(place)  # type: ignore[arg-type]
        if not pretrained:
            print_warnings(random_weights_warning(spec))
    images = fit_channels(images, networks[model[0]], preprocessing)
    threats = masked(threats, mask, images)
    with Steps() as steps:
        found = run(
            networks, images, chosen, threats, batch_size=batch_size, seed=seed, options=settings, progress=steps
        )
    print_notes(found.notes)
    print_warnings(found.warnings)
    _show(found, f"accuracy on {len(images)} images of {images.name} ({split})")
    if json_file is not None:
        write_rows(json_file, found.rows)
    if out is not None:
        found.save(out)


def _show(found: TransferMatrix, title: str) -> None:
    console, names = Console(soft_wrap=True), _short(found.models)
    for model, letter in names.items():
        if letter != model:
            console.print(f"{letter} = {model}", markup=False, highlight=False)
    for row in {(row.space, row.eps): row for row in found if row.attack != "none"}.values():
        matrix = found.matrix(row.eps, row.norm, row.mask)  # type: ignore[arg-type]
        cells = [
            [names[source], *(f"{accuracies[target]:.1%}" for target in found.models)]
            for source, accuracies in matrix.items()
        ]
        columns = ["crafted on", *(f"evaluated on {names[target]}" for target in found.models)]
        print_table(console, columns, cells, title=f"{row.attack} {row.space} eps {row.eps:.4g}: {title}")


def _short(models: tuple[str, ...]) -> dict[str, str]:
    """What to call each model in a table: itself, or letters where a path would be cut off."""
    if max(map(len, models)) <= WIDEST:
        return {model: model for model in models}
    letters = string.ascii_uppercase
    return {model: letters[i] if i < len(letters) else f"M{i + 1}" for i, model in enumerate(models)}
