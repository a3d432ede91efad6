"""`inoculate evaluate`: a model, images, attacks; accuracies and whether to believe them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    writable,
    writable_file,
)
from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from inoculate.core.row import Row
    from inoculate.core.threat import Threat
    from inoculate.data.dataset import Dataset
    from inoculate.evaluation.checks import Check
    from inoculate.evaluation.per_sample import Verdict

MODEL = "timm name, package.module:factory, file.py:factory, a trained folder, a TorchScript or an ONNX file."
Outputs = Annotated[str, typer.Option(help="What the model gives: logits, probabilities or single-logit.")]
Normalization = Annotated[
    str | None,
    typer.Option("--normalize", help="Put this in front of the model: imagenet, cifar10, or 0.5,0.5,0.5/0.2,0.2,0.2."),
]
Precision = Annotated[str, typer.Option(help="How attacks craft: fast or exact. The verdict is always exact.")]
Eps = Annotated[str, typer.Option(help="Sizes in units of [0, 1], separated by commas: 0.01,8/255.")]


def evaluate(
    model: Annotated[str, typer.Option(help=MODEL)],
    data: Data,
    weights: Annotated[Path | None, typer.Option(help="safetensors file to load into the model.")] = None,
    pretrained: Annotated[bool, typer.Option(help="Download timm's weights for the model.")] = False,
    outputs: Outputs = "logits",
    normalize: Normalization = None,
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "test",
    data_root: DataRoot = None,
    image_size: ImageSize = None,
    limit: Limit = None,
    attack: Annotated[
        str, typer.Option(help="Attacks, separated by commas: fgsm, pgd, autoattack …, foolbox:PGD, art:…")
    ] = "fgsm,pgd",
    norm: Norm = "linf",
    eps: Eps = "8/255",
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    precision: Precision = "fast",
    time_budget: Annotated[
        str | None,
        typer.Option(help="Stop attacking after this long, with what is known: 90s, 5m, 2h. Checks come on top."),
    ] = None,
    surrogate: Annotated[
        list[str] | None, typer.Option(help="Another model: its examples must not beat white-box ones. Repeatable.")
    ] = None,
    trust: Annotated[bool, typer.Option(help="Check whether the numbers can be believed.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
    records: Annotated[Path | None, typer.Option(help="Write one line per image to this .parquet file.")] = None,
    save_images: Annotated[Path | None, typer.Option(help="Write adversarial images to this folder as PNG.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write rows, checks, explanations and the page report.html to this folder.")
    ] = None,
    explain: Annotated[bool, typer.Option(help="With --out: explain the model on some of the images.")] = True,
    device: Device = "auto",
) -> None:
    """Measure clean and adversarial accuracy of a model on a dataset, and whether to believe it."""
    from inoculate.artifacts.rows import write_rows
    from inoculate.attacks.registry import get_attack
    from inoculate.cli.progress import Steps
    from inoculate.core.duration import parse_duration
    from inoculate.core.threat import Threat, parse_eps
    from inoculate.evaluation.checks import trust_panel
    from inoculate.evaluation.engine import check_precision
    from inoculate.evaluation.evaluate import evaluate as measure
    from inoculate.evaluation.records import Gallery, write_records

    check_precision(precision)
    threats = [Threat(norm, parse_eps(text)) for text in eps.split(",")]  # type: ignore[arg-type]
    attacks = {name.strip(): get_attack(name.strip()) for name in attack.split(",")}
    seconds = None if time_budget is None else parse_duration(time_budget)
    for file in (json_file, records):
        if file is not None:
            writable_file(file)
    if out is not None:
        writable(out)
    if records is not None and records.suffix != ".parquet":
        raise InputError(f"--records {records}: the records are written as Parquet, give a name that ends in .parquet")
    images = load_images(data, split, data_root, image_size, limit, seed, model)
    warn_large_eps(threats, images)
    network = load_network(
        model, images, pick_device(device),
        weights=weights, pretrained=pretrained, outputs=outputs, normalize=normalize,
    )  # fmt: skip
    if not (weights or pretrained):
        note_random([model])
    warn_of(network, images, seed)
    others = {spec: load_network(spec, images, pick_device(device)) for spec in surrogate or ()}
    for spec, other in others.items():
        warn_of(other, images, seed, f"surrogate {spec}: ")
    gallery = None if save_images is None else Gallery(writable(save_images), network, images)
    verdicts: dict[str, Verdict] = {}
    rows = measure(
        network, images, attacks, threats, batch_size, seed, precision, name=model, time_budget=seconds,  # type: ignore[arg-type]
        records=verdicts, keep=None if gallery is None else gallery.keep, progress=(steps := Steps()),
    )  # fmt: skip
    steps.close()
    _show(rows, verdicts, images, model, split, attacks)
    if json_file is not None:
        write_rows(json_file, rows)
    if records is not None:
        write_records(records, images, rows, verdicts)
    for (name, size), (written, still) in (gallery.verify() if gallery else {}).items():
        typer.echo(
            f"  {name} eps {size:.4g}: {written} images saved, {still} of them still fool the model when read back"
        )
    largest, checks = max(threats, key=lambda threat: threat.eps), []
    if trust:
        checks = trust_panel(network, images, attacks, largest, seed=seed, batch_size=batch_size, surrogates=others)
        _show_trust(checks)
    if out is not None:
        with tempfile.TemporaryDirectory(dir=out) as made:
            seen = _explained(Path(made), network, images, largest, model, batch_size, seed) if explain else []
            _write_folder(out, rows, verdicts, checks, largest, seen)
        typer.echo(f"Report: {out}/report.html (open it in a browser)")


def _explained(
    folder: Path, network: nn.Module, images: Dataset, threat: Threat, model: str, batch_size: int, seed: int
) -> list[Path]:
    """Explain the model under PGD at one threat; an empty list, and a note, for a model without gradients."""
    from inoculate.attacks.pgd import PGD
    from inoculate.attribution.explain import explain
    from inoculate.cli.progress import Steps

    steps = Steps()
    try:
        found = explain(
            network, images, PGD(), threat, batch_size=batch_size, seed=seed, name=model,
            progress=lambda done, total: steps("explain", done, total),
        )  # fmt: skip
    except InputError as error:
        typer.echo(f"note: the report explains nothing ({error})", err=True)
        return []
    finally:
        steps.close()
    found.save(folder)
    return [folder]


def _write_folder(
    out: Path,
    rows: list[Row],
    verdicts: Mapping[str, Verdict],
    checks: list[Check],
    threat: Threat,
    explanations: list[Path],
) -> None:
    """What `inoculate report` reads, and the page."""
    from inoculate.artifacts.files import write_json
    from inoculate.artifacts.rows import write_records, write_rows
    from inoculate.attribution.explanation import Explained, save_explanations
    from inoculate.report.write import write_report

    write_rows(out / "results.json", rows)
    write_records(out / "records.npz", {k: v.right.numpy() for k, v in verdicts.items() if v.known is None})
    (out / "checks.json").unlink(missing_ok=True)
    if checks:
        listed = [{"name": each.name, "passed": each.passed, "message": each.says} for each in checks]
        write_json(out / "checks.json", {"threat": asdict(threat), "checks": listed})
    save_explanations(out, [Explained.load(folder) for folder in explanations])
    write_report(out)


def load_images(
    data: str, part: str, data_root: Path | None, image_size: int | None, limit: int | None, seed: int, model: str
) -> Dataset:
    """The images to evaluate on, at the size and with the channels that a trained folder asks for."""
    from inoculate.data.load import load_data
    from inoculate.models.loading.specs import expected_size

    expected = expected_size(model)
    size, channels = (image_size or expected[0], expected[1]) if expected else (image_size, None)
    images = load_data(data, part, data_root=data_root, image_size=size, channels=channels)
    return images if limit is None else images.limit(limit, seed=seed)


def note_random(specs: list[str]) -> None:
    """Say which of these models would be measured with the weights that chance gave them."""
    from inoculate.models.loading.specs import brings_weights

    for spec in specs:
        if not brings_weights(spec):
            typer.echo(f"note: {spec} has random weights; give --weights, --pretrained or a trained folder", err=True)


def warn_of(network: nn.Module, images: Dataset, seed: int, who: str = "") -> None:
    """Say what looks wrong with a network on a few of the images."""
    from inoculate.models.checks import inspect_model

    sample = images.limit(min(64, len(images)), seed=seed)
    try:
        found = inspect_model(network, sample.images, sample.labels, len(images.classes))
    except InputError as error:
        raise InputError(f"{who}{error}") from error
    for finding in found:
        typer.echo(f"warning: {who}{finding}", err=True)


def load_network(
    spec: str,
    images: Dataset,
    device: str,
    *,
    weights: Path | None = None,
    pretrained: bool = False,
    outputs: str = "logits",
    normalize: str | None = None,
    seed: int = 0,
) -> nn.Module:
    """The classifier that a model SPEC means, for these images; in eval mode.

    What weights chance gives it depends on `seed` alone.
    """
    from inoculate.models.loading.load import load_model

    return load_model(
        spec, images, weights=weights, pretrained=pretrained, outputs=outputs, normalize=normalize, seed=seed
    ).to(device)


def _show(
    rows: list[Row],
    verdicts: Mapping[str, Verdict],
    images: Dataset,
    model: str,
    split: str,
    attacks: Mapping[str, Any],
) -> None:
    from inoculate.evaluation.evaluate import bounds

    typer.echo(f"{model} on {len(images)} images of {images.name} ({split})")
    for row in rows:
        what = "clean" if row.attack == "none" else f"{row.attack} {row.norm} eps {row.eps:.4g}"
        line = f"  {what:28} {row.accuracy:6.1%}  [{row.ci_low:.1%}, {row.ci_high:.1%}]  {row.seconds:.1f} s"
        if row.n < len(images):
            low, high = bounds(verdicts[row.key])
            line += f"  {row.n} images in the time given; over all {len(images)} it lies in [{low:.1%}, {high:.1%}]"
        typer.echo(line)
    for name in set(attacks) - {row.attack for row in rows}:
        typer.echo(f"  {name}: no image was finished in the time given: give more, or a smaller --limit")


def _show_trust(checks: list[Check]) -> None:
    typer.echo("Can these numbers be believed?")
    signs = {True: "ok   ", False: "ALARM", None: "  –  "}
    for check in checks:
        typer.echo(f"  {signs[check.passed]} {check.name}: {check.says}")
