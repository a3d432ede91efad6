"""`inoculate evaluate`: accuracy of a model under attack, and whether the numbers can be trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import typer

from inoculate.cli import gate, options, threat_options, variant_options
from inoculate.cli.evaluation_files import write_files, write_page
from inoculate.cli.loading import Asked, groups_by, load
from inoculate.cli.output import print_notes, print_warnings, require_writable_places, store_in
from inoculate.cli.parsers import masked, parse_corruptions, parse_movements, parse_threats, pick_device
from inoculate.cli.reading_options import adapts_attacks, reads_images
from inoculate.data.preprocessing import Preprocessing


@adapts_attacks
@reads_images
def evaluate(
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
    variants: variant_options.Variants = None,
    split: options.Split = "test",
    data_root: options.DataRoot = None,
    limit: options.Limit = None,
    by: options.By = None,
    attack: variant_options.Attacks = None,
    norm: options.Norms = "linf",
    eps: options.EpsList = "8/255",
    mask: threat_options.Mask = None,
    corruptions: threat_options.Corruptions = None,
    severity: threat_options.Severities = "1-5",
    spatial: threat_options.Spatial = None,
    precision: options.Precision = "fast",
    time_budget: options.TimeBudget = None,
    checks: options.Checks = True,
    surrogate: options.OtherModels = None,
    seed: options.Seed = 0,
    batch_size: options.AutoBatchSize = None,
    device: options.Device = "auto",
    executor: options.Executor = "local",
    json_file: options.Json = None,
    records: options.Records = None,
    save_images: options.SaveImages = None,
    out: options.OptionalOut = None,
    store: options.Store = None,
    explain: options.Explain = True,
    require: gate.Require = None,
    require_on: gate.RequireOn = "estimate",
    sarif: gate.Sarif = None,
    junit: gate.JUnit = None,
) -> None:
    """Measure clean and adversarial accuracy of a model on a dataset, and whether to trust the numbers.

    Example: inoculate evaluate --model my_model --data my_images --attack fgsm,pgd --eps 2/255,8/255 --out report
    """
    from inoculate.attribution.explain import ExplainOptions
    from inoculate.cli.progress import Steps
    from inoculate.core.requirements import require_planned
    from inoculate.core.threat import largest_threat
    from inoculate.evaluation.corruptions import corruptions as run_corruptions
    from inoculate.evaluation.evaluate import EvaluationOptions
    from inoculate.evaluation.evaluate import evaluate as run
    from inoculate.evaluation.inputs import resolve_attacks
    from inoculate.evaluation.planned import certified_threats, planned_cells
    from inoculate.evaluation.records import require_parquet
    from inoculate.evaluation.spatial import spatial as run_spatial
    from inoculate.models.classes import match_classes

    threats, required = parse_threats(norm, eps), gate.parse(require, require_on, sarif, junit)
    attacks = resolve_attacks(variant_options.attacks_of(attack, variants), adaptation)
    corrupted, movements = parse_corruptions(corruptions, severity), parse_movements(spatial)
    names = variant_options.parse(
        variants, corruptions=corrupted, spatial=movements, time_budget=time_budget, no_checks=not checks,
        surrogate=surrogate, records=records, save_images=save_images, by=by, executor=executor != "local",
    )  # fmt: skip
    place, others = pick_device(device), {spec: spec for spec in surrogate or ()}
    settings = EvaluationOptions(
        precision, time_budget, checks, others, save_images is not None, name=model, device=place,  # type: ignore[arg-type]
        classes=classes, store=store_in(out, store), executor=executor,  # type: ignore[arg-type]
    )  # fmt: skip
    require_parquet(records)
    proven = [] if names else certified_threats(required, threats)
    require_planned(required, planned_cells(attacks, threats, corrupted, movements, certified=proven), checks)
    require_writable_places((json_file, records, sarif, junit), (save_images, out, store))
    asked = Asked(model, data, weights, pretrained, outputs, normalize, split, data_root, limit, seed)
    loaded = load(asked, preprocessing)
    print_warnings(loaded.warnings)
    unmatched = loaded.network.to(place), loaded.images
    network, images = match_classes(*unmatched, class_names, classes)  # type: ignore[arg-type]
    settings = replace(settings, certified=masked(proven, mask, images), groups=groups_by(by, asked, images))
    threats = masked(threats, mask, images)
    how: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "options": settings}
    if names:
        chosen = variant_options.calibration(names, data, images, loaded.reading, data_root, seed)
        compared = variant_options.run(names, unmatched, attacks, threats, chosen, class_names, how, out)
        variant_options.write(compared, json_file, out)
        verdict = compared.require(require, require_on) if require else None  # type: ignore[arg-type]
        gate.write_verdict(verdict, model, out, sarif, junit)
        gate.end_with(verdict)
        return
    with Steps() as steps:
        found = run(network, images, attacks, threats, **how, progress=steps)
    print_notes(found.notes)
    print_warnings(found.warnings)
    with Steps() as steps:
        if corrupted:
            found = found.joined(run_corruptions(network, images, *corrupted, **how, progress=steps))
        if movements:
            found = found.joined(run_spatial(network, images, movements, **how, progress=steps))
    typer.echo(found)
    write_files(found, network, images, json_file, records, save_images)
    verdict = found.require(require, require_on) if require else None  # type: ignore[arg-type]
    if out is not None:
        found.save(out)
        explained = ExplainOptions(seed, batch_size, model, evaluation=found) if explain else None
        write_page(out, network, images, largest_threat(threats), explained)
    gate.write_verdict(verdict, model, out, sarif, junit)
    gate.end_with(verdict)
