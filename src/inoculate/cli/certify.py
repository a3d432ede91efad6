"""`inoculate certify`: what is proven of a model, beside what attacks leave of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from inoculate.cli import gate, options, threat_options
from inoculate.cli.evaluation_files import write_files, write_page
from inoculate.cli.loading import Asked, load
from inoculate.cli.output import print_notes, print_warnings, require_writable_places, store_in
from inoculate.cli.parsers import masked, parse_attacks, parse_threats, pick_device
from inoculate.cli.reading_options import adapts_attacks, reads_images
from inoculate.data.preprocessing import Preprocessing

Method = Annotated[
    str, options.topic_option("--method", options.ATTACK, "What proves: auto, ibp, crown-ibp, crown or smoothing.")
]
Sigma = Annotated[float, options.topic_option("--sigma", options.ATTACK, "Of smoothing: deviation of the noise.")]
Copies = Annotated[int, options.topic_option("--copies", options.ATTACK, "Of smoothing: noisy copies of an image.")]
Alpha = Annotated[
    float, options.topic_option("--alpha", options.ATTACK, "Of smoothing: probability that a certificate is false.")
]


@adapts_attacks
@reads_images
def certify(
    model: options.Model,
    data: options.Data,
    preprocessing: Preprocessing,
    adaptation: dict[str, Any],
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    outputs: options.Outputs = "logits",
    normalize: options.Normalize = None,
    class_names: options.ClassNames = None,
    classes: options.Classes = "all",
    split: options.Split = "test",
    data_root: options.DataRoot = None,
    limit: options.Limit = None,
    method: Method = "auto",
    sigma: Sigma = 0.25,
    copies: Copies = 10_000,
    alpha: Alpha = 0.001,
    attack: options.Attacks = "autoattack",
    norm: options.Norms = "linf",
    eps: options.EpsList = "8/255",
    mask: threat_options.Mask = None,
    precision: options.Precision = "fast",
    time_budget: options.TimeBudget = None,
    checks: options.Checks = True,
    seed: options.Seed = 0,
    batch_size: options.AutoBatchSize = None,
    device: options.Device = "auto",
    executor: options.Executor = "local",
    json_file: options.Json = None,
    records: options.Records = None,
    out: options.OptionalOut = None,
    store: options.Store = None,
    require: gate.Require = None,
    require_on: gate.RequireOn = "estimate",
    sarif: gate.Sarif = None,
    junit: gate.JUnit = None,
) -> None:
    """Prove which images a model gets right whatever the attack, and attack the same images.

    Example: inoculate certify --model my_model --data my_images --eps 1/255 --attack pgd --limit 32 --out proofs
    """
    from inoculate.certification.certifiers import require_method
    from inoculate.certification.smoothing import Smoothing
    from inoculate.cli.progress import Steps
    from inoculate.core.requirements import require_planned
    from inoculate.core.threat import largest_threat
    from inoculate.evaluation.certify import CertificationOptions
    from inoculate.evaluation.certify import certify as run
    from inoculate.evaluation.evaluate import EvaluationOptions
    from inoculate.evaluation.inputs import resolve_attacks
    from inoculate.evaluation.planned import planned_cells
    from inoculate.evaluation.records import require_parquet
    from inoculate.models.classes import match_classes

    require_method(method)
    smoothing = Smoothing(sigma, n=copies, alpha=alpha)
    threats, attacks = parse_threats(norm, eps), resolve_attacks(parse_attacks(attack), adaptation)
    required = gate.parse(require, require_on, sarif, junit)
    place = pick_device(device)
    settings = EvaluationOptions(
        precision, time_budget, checks, name=model, device=place, classes=classes, store=store_in(out, store),  # type: ignore[arg-type]
        executor=executor,
    )  # fmt: skip
    require_parquet(records)
    require_planned(
        required, planned_cells(attacks if method != "smoothing" else (), threats, certified=threats), checks=True
    )
    require_writable_places((json_file, records, sarif, junit), (out, store))
    loaded = load(
        Asked(model, data, weights, pretrained, outputs, normalize, split, data_root, limit, seed), preprocessing
    )
    print_warnings(loaded.warnings)
    network, images = match_classes(loaded.network.to(place), loaded.images, class_names, classes)  # type: ignore[arg-type]
    threats = masked(threats, mask, images)
    with Steps() as steps:
        found = run(
            network, images, threats, attacks, batch_size=batch_size, seed=seed,
            options=CertificationOptions(method, smoothing, settings), progress=steps,
        )  # fmt: skip
    print_notes(found.notes)
    print_warnings(found.warnings)
    typer.echo(found)
    write_files(found, network, images, json_file, records, None)
    verdict = found.require(require, require_on) if require else None  # type: ignore[arg-type]
    if out is not None:
        found.save(out)
        write_page(Path(out), network, images, largest_threat(threats), None)
    gate.write_verdict(verdict, model, out, sarif, junit)
    gate.end_with(verdict)
