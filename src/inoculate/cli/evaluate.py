"""`inoculate evaluate`: accuracy of a model under attack, and whether the numbers can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inoculate.cli import options
from inoculate.cli.output import print_note, print_report, print_warnings
from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from inoculate.attribution.explain import ExplainOptions
    from inoculate.attribution.explanation import Explanation
    from inoculate.core.threat import Threat
    from inoculate.data.dataset import Dataset
    from inoculate.evaluation.checks import Check
    from inoculate.evaluation.result import Evaluation

Records = Annotated[Path | None, typer.Option(help="Write one line per image to this .parquet file.")]
SaveImages = Annotated[Path | None, typer.Option(help="Write adversarial images to this folder as PNG.")]
Explain = Annotated[bool, typer.Option(help="With --out: explain the model on some of the images.")]


def evaluate(
    model: options.Model,
    data: options.Data,
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    outputs: options.Outputs = "logits",
    normalize: options.Normalize = None,
    split: options.Split = "test",
    data_root: options.DataRoot = None,
    image_size: options.ImageSize = None,
    limit: options.Limit = None,
    attack: options.Attacks = "fgsm,pgd",
    norm: options.Norm = "linf",
    eps: options.EpsList = "8/255",
    precision: options.Precision = "fast",
    time_budget: options.TimeBudget = None,
    checks: options.Checks = True,
    surrogate: options.OtherModels = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 256,
    device: options.Device = "auto",
    json_file: options.Json = None,
    records: Records = None,
    save_images: SaveImages = None,
    out: options.OptionalOut = None,
    explain: Explain = True,
) -> None:
    """Measure clean and adversarial accuracy of a model on a dataset, and whether to trust the numbers.

    Example: inoculate evaluate --model my_model --data my_images --attack fgsm,pgd --eps 2/255,8/255 --out report
    """
    from inoculate.artifacts.output import require_writable, require_writable_file
    from inoculate.artifacts.rows import write_rows
    from inoculate.attribution.explain import ExplainOptions
    from inoculate.cli.progress import Steps
    from inoculate.evaluation import records as files
    from inoculate.evaluation.evaluate import EvaluationOptions
    from inoculate.evaluation.evaluate import evaluate as run
    from inoculate.evaluation.inputs import load_images, random_weights_warning, resolve_attacks
    from inoculate.models.loading.load import load_model

    threats, attacks = options.parse_threats(norm, eps), resolve_attacks(options.parse_attacks(attack))
    place = options.pick_device(device)
    settings = EvaluationOptions(
        precision, time_budget, checks, {each: each for each in surrogate or ()}, save_images is not None, model,  # type: ignore[arg-type]
        device=place,
    )  # fmt: skip
    for file in (json_file, records):
        if file is not None:
            require_writable_file(file)
    for folder in (out, save_images):
        if folder is not None:
            require_writable(folder)
    if records is not None:
        files.require_parquet(records)
    images = load_images(data, model, split, data_root=data_root, image_size=image_size, limit=limit, seed=seed)
    network = load_model(
        model, images, weights=weights, pretrained=pretrained, outputs=outputs, normalize=normalize
    ).to(place)
    if not (weights or pretrained):
        print_warnings(random_weights_warning(model))
    with Steps() as steps:
        found = run(
            network, images, attacks, threats, batch_size=batch_size, seed=seed, options=settings, progress=steps
        )
    print_warnings(found.warnings)
    _show(found, f"{model} on {len(images)} images of {images.name} ({split})")
    if json_file is not None:
        write_rows(json_file, found.rows)
    if records is not None:
        files.write_records(found, records)
    for saved in files.save_images(found, network, images, save_images) if save_images else ():
        typer.echo(
            f"  {saved.row.attack} eps {saved.row.eps:.4g}: {len(saved.files)} images saved, {saved.misclassified} of "
            "them still misclassified when read back"
        )
    _show_checks(found.checks)
    if out is not None:
        found.save(out)
        largest, labels = max(threats, key=lambda threat: threat.eps), ExplainOptions(seed, batch_size, model)
        _report(out, _explain(network, images, largest, labels) if explain else None)


def _report(out: Path, explanation: Explanation | None) -> None:
    """Add the explanation to the folder of an evaluation, and write its page."""
    from inoculate.attribution.explanation import save_explanations
    from inoculate.report.write import write_report

    save_explanations(out, [] if explanation is None else [explanation])
    print_report(write_report(out))


def _explain(network: nn.Module, images: Dataset, threat: Threat, options: ExplainOptions) -> Explanation | None:
    """Explain the model under PGD at one threat; None, and a note, for a model without gradients."""
    from inoculate.attribution.explain import explain
    from inoculate.cli.progress import Steps

    try:
        with Steps() as steps:
            return explain(network, images, "pgd", threat, options=options, progress=steps)
    except InputError as error:
        print_note(f"the report explains nothing ({error})")
        return None


def _show(found: Evaluation, title: str) -> None:
    typer.echo(title)
    for row in found:
        what = "clean" if row.attack == "none" else f"{row.attack} {row.norm} eps {row.eps:.4g}"
        line = f"  {what:28} {row.accuracy:6.1%}  [{row.ci_low:.1%}, {row.ci_high:.1%}]  {row.seconds:.1f} s"
        if row.n < len(found.labels):
            low, high = found.per_image[row].bounds
            line += f"  {row.n} images in the time given; over all {len(found.labels)} in [{low:.1%}, {high:.1%}]"
        typer.echo(line)


def _show_checks(checks: list[Check]) -> None:
    signs = {True: "ok   ", False: "ALARM", None: "  –  "}
    typer.echo("Can these numbers be trusted?" if checks else "", nl=bool(checks))
    for check in checks:
        typer.echo(f"  {signs[check.passed]} {check.name}: {check.message}")
