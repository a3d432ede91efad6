"""The job `evaluate_variants`: what deployment makes of a network, each variant under attack."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.options import require_one_of
from inoculate.core.pixels import to_float
from inoculate.core.progress import Progress
from inoculate.core.rng import seeded
from inoculate.core.row import Row
from inoculate.core.threat import Threat, largest_threat, require_threats
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.evaluation.budget import NamedAttack, named_attacks
from inoculate.evaluation.calibration import calibration_images
from inoculate.evaluation.engine import Settings
from inoculate.evaluation.exchange import attack_own, exchange
from inoculate.evaluation.inputs import (
    Attacks,
    Matching,
    name_of_model,
    random_weights_warning,
    resolve_attacks,
    resolve_data,
    resolve_model,
    threat_warnings,
)
from inoculate.evaluation.journal import Journal
from inoculate.evaluation.passes import batch_within_memory, require_batch_size
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.targets import target_name
from inoculate.evaluation.variant_comparison import OWN_ATTACK, VariantComparison, variant_checks
from inoculate.evaluation.variant_models import Original, Variant, load_variant, prepare_variants
from inoculate.models.class_names import ClassNames
from inoculate.models.classes import Counted, match_classes
from inoculate.models.classifier import Precision, prepare
from inoculate.models.export.variants import by_name
from inoculate.models.loading.load import ModelLike

Measured = list[tuple[Row, PerSampleResult]]


@dataclass(frozen=True)
class VariantOptions:
    """Settings of `evaluate_variants` that are rarely changed.

    Args:
        precision: as in `EvaluationOptions`.
        name: of the model in the rows; by default its SPEC, else `model`.
        device: where a model SPEC is loaded. onnxruntime runs on the CPU.
        batch_size: images at a time, by default as in `evaluate`.
        calibration: images on which `int8` is calibrated: by default the training part of a data SPEC, else the
            measured images. At most 256 are used.
        folder: where the files of variants are kept; by default they are removed.
        store: as in `EvaluationOptions`.
        class_names: as in `EvaluationOptions`, of the model and of every file that is given.
        classes: as in `EvaluationOptions`.
    """

    precision: Precision = "fast"
    name: str | None = None
    device: str = "cpu"
    batch_size: int | None = None
    calibration: DataLike | None = None
    folder: str | os.PathLike[str] | None = None
    store: str | os.PathLike[str] | None = None
    class_names: ClassNames | None = None
    classes: Counted = "all"

    def __post_init__(self) -> None:
        require_one_of(("fast", "exact"), precision=self.precision)
        require_one_of(("all", "subset"), classes=self.classes)
        require_batch_size(self.batch_size)

    @property
    def matching(self) -> Matching:
        """How outputs are matched with the classes of the data."""
        return Matching(self.class_names, self.classes)

    @contextmanager
    def place(self) -> Iterator[Path]:
        """The folder for files of variants; without one that is given, one that is removed after."""
        if self.folder is not None:
            yield Path(self.folder)
            return
        with TemporaryDirectory() as folder:
            yield Path(folder)


def evaluate_variants(
    model: ModelLike,
    data: DataLike,
    variants: Sequence[str] | Mapping[str, ModelLike] = ("fp32", "bf16", "onnx", "int8"),
    attacks: Attacks = ("autoattack",),
    threats: Sequence[Threat] = (Threat(),),
    *,
    seed: int = 0,
    options: VariantOptions = VariantOptions(),
    progress: Progress | None = None,
) -> VariantComparison:
    """Measure what deployment makes of a network: each variant is attacked, and judged on the examples of all others.

    A variant with poor gradients withstands its own attack more often without being more robust. Its accuracy is
    therefore the worst over its own attack and the examples crafted on the others. Differences of a point or more fail
    a check.

    Args:
        model: as for `evaluate`.
        data: as for `evaluate`.
        variants: `fp32`, `bf16`, `onnx`, `int8`, `torchscript`, `pruned:0.5`, or model SPECs, such as an ONNX file that
            is deployed; a mapping names each, and may hold modules, such as one that torch quantised. onnxruntime runs
            `onnx`, `int8` and every ONNX file that is given. A variant that passes no gradients gets those of `model`
            (BPDA); where that has none, it is attacked by Square.
        attacks: as for `evaluate`.
        threats: as for `evaluate`.
        seed: of every random draw.
        options: everything else.
        progress: called as `("VARIANT: ATTACK", images done, all images)`.

    Raises `InputError` for what the model cannot take, for a variant that cannot be made or has other classes, and for
    an attack that leaves the threat model.
    """
    wanted, named, threats = by_name(variants), resolve_attacks(attacks), require_threats(threats)
    original, notes = _original(model, data, wanted, options, seed)
    warnings = [*threat_warnings(threats, original.data), *random_weights_warning(model)]
    with options.place() as folder:
        modules = {name: _loaded(name, each, original, folder) for name, each in wanted.items()}
        reference = prepare(original.network, original.data, precision="exact")
        size = batch_within_memory(reference, original.data, options.batch_size)
        settings = Settings(size, seed, journal=Journal.at(options.store))
        prepared = prepare_variants(modules, original, options.precision, settings)
        labels = {"model": options.name or name_of_model(model), "dataset": original.data.name, "seed": seed}
        cells = [_clean_cell(prepared, threats, labels)]
        for attack in named_attacks(named, threats):
            cells += _attacked_cells(attack, prepared, original.data, settings, progress, labels)
    measured = [pair for cell in cells for pair in cell]
    warnings += [each for variant in prepared.values() for each in variant.warnings]
    checked = largest_threat(threats) if threats else None
    return VariantComparison(
        [row for row, _ in measured], tuple(prepared), dict(measured), variant_checks(cells), warnings,
        (*original.data.notes, *notes), checked,
    )  # fmt: skip


def _original(
    model: ModelLike, data: DataLike, wanted: Mapping[str, ModelLike], options: VariantOptions, seed: int
) -> tuple[Original, list[str]]:
    """The network with its images, and notes on the calibration."""
    given, matching = resolve_data(data, model), options.matching
    network = resolve_model(model, given, options.device)
    network, images = match_classes(network, given, matching.class_names, matching.classes)
    calibration, notes = to_float(images.images[:3]), list[str]()
    if "int8" in wanted.values():
        calibration, notes = calibration_images(options.calibration, data, model, images, seed)
    return Original(network, images, given, calibration, matching, options.device), notes


def _loaded(name: str, variant: ModelLike, original: Original, folder: Path) -> nn.Module:
    try:
        return load_variant(variant, original, folder)
    except InputError as error:
        raise InputError(f"variant {name}: {error}") from error


def _clean_cell(variants: Mapping[str, Variant], threats: Sequence[Threat], labels: Mapping[str, Any]) -> Measured:
    norm = threats[0].norm if threats else "linf"
    return [
        (each.clean.row(**labels, arm=name, attack="none", norm=norm, protocol="white-box"), each.clean)
        for name, each in variants.items()
    ]


def _attacked_cells(
    attack: NamedAttack,
    variants: Mapping[str, Variant],
    data: Dataset,
    settings: Settings,
    progress: Progress | None,
    labels: Mapping[str, Any],
) -> list[Measured]:
    """For each threat the rows of every variant: with exchanged examples, then under its own attack alone."""
    pairs = {name: each.party(attack, data) for name, each in variants.items()}
    parties = {name: party for name, (party, _) in pairs.items()}
    if all(party.attack is None for party in parties.values()):
        raise InputError(
            f"no variant passes gradients, and nothing else attacks it in {attack.threats[0].norm}: give linf or l2"
        )
    own: dict[str, list[PerSampleResult]] = {}
    for name, party in parties.items():
        observed = replace(settings, progress=progress and partial(progress, f"{name}: {attack.name}"))
        with seeded(settings.seed, attack.name, 0):
            own[name] = attack_own(party, data, attack.threats, observed)
    cells = []
    for place, threat in enumerate(attack.threats):
        alone = {name: results[place] for name, results in own.items()}
        together = exchange(parties, alone, data, threat, settings)
        cell: Measured = []
        for protocol, results in (("white-box", together), (OWN_ATTACK, alone)):
            for name, result in results.items():
                named = {"arm": name, "attack": attack.name, "protocol": protocol, "gradients": pairs[name][1]}
                kept = replace(result, images=None)
                cell.append((kept.row_at(threat, **labels, **named, target=target_name(attack.attack)), kept))
        cells.append(cell)
    return cells
