"""`inoculate evaluate`: accuracy of a model under attack, and whether the numbers can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from inoculate.cli import options
from inoculate.cli.output import print_note, print_notes, print_report, print_warnings, require_writable_places
from inoculate.cli.parsers import parse_attacks, parse_threats, pick_device
from inoculate.cli.reading_options import reads_images
from inoculate.core.errors import InputError
from inoculate.data.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from inoculate.attribution.explain import ExplainOptions
    from inoculate.core.threat import Threat
    from inoculate.data.dataset import Dataset
    from inoculate.evaluation.result import Evaluation


@reads_images
def evaluate(
    model: options.Model,
    data: options.Data,
    preprocessing: Preprocessing,
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    outputs: options.Outputs = "logits",
    normalize: options.Normalize = None,
    class_names: options.ClassNames = None,
    classes: options.Classes = "all",
    split: options.Split = "test",
    data_root: options.DataRoot = None,
    limit: options.Limit = None,
    attack: options.Attacks = "fgsm,pgd",
    norm: options.Norms = "linf",
    eps: options.EpsList = "8/255",
    precision: options.Precision = "fast",
    time_budget: options.TimeBudget = None,
    checks: options.Checks = True,
    surrogate: options.OtherModels = None,
    seed: options.Seed = 0,
    batch_size: options.AutoBatchSize = None,
    device: options.Device = "auto",
    json_file: options.Json = None,
    records: options.Records = None,
    save_images: options.SaveImages = None,
    out: options.OptionalOut = None,
    explain: options.Explain = True,
) -> None:
    """Measure clean and adversarial accuracy of a model on a dataset, and whether to trust the numbers.

    Example: inoculate evaluate --model my_model --data my_images --attack fgsm,pgd --eps 2/255,8/255 --out report
    """
    from inoculate.attribution.explain import ExplainOptions
    from inoculate.cli.progress import Steps
    from inoculate.core.threat import largest_threat
    from inoculate.evaluation.evaluate import EvaluationOptions
    from inoculate.evaluation.evaluate import evaluate as run
    from inoculate.evaluation.inputs import load_images, random_weights_warning, resolve_attacks
    from inoculate.evaluation.records import require_parquet
    from inoculate.models.classes import match_classes
    from inoculate.models.loading.inputs import expected_preprocessing, fit_channels
    from inoculate.models.loading.load import load_model

    threats, attacks = parse_threats(norm, eps), resolve_attacks(parse_attacks(attack))
    place, others = pick_device(device), {spec: spec for spec in surrogate or ()}
    settings = EvaluationOptions(
        precision, time_budget, checks, others, save_images is not None, name=model, device=place, classes=classes  # type: ignore[arg-type]
    )  # fmt: skip
    require_parquet(records)
    require_writable_places((json_file, records), (save_images, out))
    needed = expected_preprocessing(model, pretrained=pretrained, weights=weights, normalize=normalize)
    images = load_images(data, split, preprocessing.over(needed), data_root=data_root, limit=limit, seed=seed)
    loaded = load_model(model, images, weights=weights, pretrained=pretrained, outputs=outputs, normalize=normalize)
    print_warnings(random_weights_warning(model) if not (weights or pretrained) else ())
    network, images = loaded.to(place), fit_channels(images, loaded, preprocessing)
    network, images = match_classes(network, images, class_names, classes)  # type: ignore[arg-type]
    with Steps() as steps:
        found = run(
            network, images, attacks, threats, batch_size=batch_size, seed=seed, options=settings, progress=steps
        )
    print_notes(found.notes)
    print_warnings(found.warnings)
    typer.echo(found)
    _write(found, network, images, json_file, records, save_images)
    if out is not None:
        found.save(out)
        largest = largest_threat(threats)
        explained = ExplainOptions(seed, batch_size, model, evaluation=found) if explain else None
        _report(out, network, images, largest, explained)


def _write(
    found: Evaluation, network: nn.Module, images: Dataset, rows: Path | None, records: Path | None, folder: Path | None
) -> None:
    from inoculate.artifacts.rows import write_rows
    from inoculate.evaluation.records import save_images, write_records

    if rows is not None:
        write_rows(rows, found.rows)
    if records is not None:
        write_records(found, records)
    for saved in save_images(found, network, images, folder) if folder else ():
        typer.echo(f"  {saved}")


def _report(out: Path, network: nn.Module, images: Dataset, threat: Threat, explained: ExplainOptions | None) -> None:
    """Write the page of an evaluation, with an explanation of the model under PGD if it is wanted and possible."""
    from inoculate.attribution.explain import explain
    from inoculate.attribution.explanation import save_explanations
    from inoculate.cli.progress import Steps
    from inoculate.report.write import write_report

    explanations = []
    try:
        with Steps() as steps:
            if explained is not None:
                explanations.append(explain(network, images, "pgd", threat, options=explained, progress=steps))
    except InputError as error:  # a model without gradients
        print_note(f"the report explains nothing ({error})")
    print_warnings(note for each in explanations for note in each.facts["notes"] if note not in images.notes)
    save_explanations(out, explanations)
    print_report(write_report(out))
