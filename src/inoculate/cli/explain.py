"""`inoculate explain`: attributions of a model on clean and on attacked images."""

from __future__ import annotations

from typing import Annotated, Any

from inoculate.cli import options, threat_options
from inoculate.cli.loading import Asked, load
from inoculate.cli.output import print_notes, print_report, print_warnings
from inoculate.cli.parsers import masked, pick_device
from inoculate.cli.reading_options import adapts_attacks, reads_images
from inoculate.data.preprocessing import Preprocessing

Before = Annotated[
    str | None,
    options.topic_option("--before", options.MODEL, "The model before its hardening: its examples are shown too."),
]
Images = Annotated[int, options.topic_option("--images", options.DATA, "Number of images that are shown.", min=1)]


@adapts_attacks
@reads_images
def explain(
    model: options.Model,
    data: options.Data,
    out: options.Out,
    preprocessing: Preprocessing,
    adaptation: dict[str, Any],
    weights: options.Weights = None,
    pretrained: options.Pretrained = False,
    outputs: options.Outputs = "logits",
    normalize: options.Normalize = None,
    class_names: options.ClassNames = None,
    classes: options.Classes = "all",
    before: Before = None,
    split: options.Split = "test",
    data_root: options.DataRoot = None,
    limit: options.Limit = None,
    images: Images = 6,
    attack: options.Attack = "pgd",
    norm: options.Norm = "linf",
    eps: options.Eps = "8/255",
    mask: threat_options.Mask = None,
    batch_size: options.AutoBatchSize = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
) -> None:
    """Show what a model looks at in clean and in attacked images, and how small a perturbation breaks each image.

    Example: inoculate explain --model my_model --data my_images --out explained
    """
    from inoculate.artifacts.output import require_writable
    from inoculate.attribution.explain import ExplainOptions
    from inoculate.attribution.explain import explain as run
    from inoculate.attribution.explanation import Amounts
    from inoculate.cli.progress import Steps
    from inoculate.core.threat import Threat, parse_eps
    from inoculate.evaluation.inputs import resolve_attack
    from inoculate.models.classes import match_classes
    from inoculate.report.write import write_report

    attack_name, chosen = resolve_attack(attack, adaptation)
    threat = Threat(norm, parse_eps(eps))  # type: ignore[arg-type]
    require_writable(out)
    network, dataset, _, warnings = load(
        Asked(model, data, weights, pretrained, outputs, normalize, split, data_root, limit, seed), preprocessing
    )
    print_notes(dataset.notes)
    print_warnings(warnings)
    place = pick_device(device)
    network, dataset = match_classes(network.to(place), dataset, class_names, classes)  # type: ignore[arg-type]
    (threat,) = masked([threat], mask, dataset)
    settings = ExplainOptions(seed=seed, batch_size=batch_size, name=model, device=place, attack_name=attack_name)
    with Steps() as steps:
        found = run(
            network, dataset, chosen, threat, amounts=Amounts(images=images), before=before,
            options=settings, progress=steps,
        )  # fmt: skip
    found.save(out)
    print_report(write_report(out))
