"""Variants of a network made ready to be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.rng import seeded
from inoculate.data.dataset import Dataset
from inoculate.evaluation.budget import NamedAttack, check_attacks
from inoculate.evaluation.engine import Settings, measure_clean
from inoculate.evaluation.exchange import Party
from inoculate.evaluation.inputs import Matching, clean_warnings, nonfinite_warning, resolve_model
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.models.checks import model_warnings
from inoculate.models.classes import match_classes
from inoculate.models.classifier import Classifier, Precision, prepare
from inoculate.models.export.variants import build_variant, is_known, with_gradients
from inoculate.models.loading.load import ModelLike
from inoculate.models.loading.onnx import OnnxModel
from inoculate.models.loading.specs import kind_of

PROBED = 8  # images on which it is tried whether a gradient reaches the pixels
BY_SQUARE, BY_OTHERS = "none: Square and the examples of the others", "none: the examples of the others alone"


@dataclass(frozen=True, eq=False)
class Original:
    """The network that variants are made of.

    Fields:
        network: its outputs are the classes of `data`.
        data: the measured images.
        given: the images with the classes that they came with.
        calibration: N×C×H×W floats in [0, 1].
        matching: how outputs are matched with classes.
        device: where model SPECs are loaded.
    """

    network: nn.Module
    data: Dataset
    given: Dataset
    calibration: Tensor
    matching: Matching
    device: str


@dataclass(frozen=True, eq=False)
class Variant:
    """A variant ready to be measured: its clean result, whose `gradients` it has ("" for its own), and warnings."""

    classifier: Classifier
    clean: PerSampleResult
    gradients: str
    warnings: list[str]

    def party(self, attack: NamedAttack, data: Dataset) -> tuple[Party, str]:
        """The variant with the attack on it, and whose gradients that uses.

        Without any gradients it is Square if the attack needs some, and no attack in norms that Square is not made for.
        """
        if self.gradients != "none":
            return Party(self.classifier, self.clean, attack.attack), self.gradients
        for candidate, words in ((attack.attack, ""), (Square(), BY_SQUARE)):
            try:
                check_attacks(self.classifier, data, [replace(attack, attack=candidate)])
            except InputError:
                continue
            return Party(self.classifier, self.clean, candidate), words
        return Party(self.classifier, self.clean, None), BY_OTHERS


def load_variant(variant: ModelLike, original: Original, folder: Path) -> nn.Module:
    """A known variant of the original, or a model that is given, whose outputs are the same classes.

    Raises `InputError` where there is no such variant, and for a model of other classes.
    """
    if is_known(variant):
        return build_variant(str(variant), original.network, original.calibration, folder)
    if isinstance(variant, str | Path) and kind_of(str(variant)) == "onnx" and Path(variant).is_file():
        module: nn.Module = OnnxModel(Path(variant), len(original.given.classes), convert=False)
    else:
        module = resolve_model(variant, original.given, original.device)
    matching = original.matching
    module, data = match_classes(module, original.given, matching.class_names, matching.classes)
    if data.classes != original.data.classes:
        raise InputError(
            f"it has {len(data.classes)} classes and the original {len(original.data.classes)}, or others: give a "
            "variant of the same network"
        )
    return module


def prepare_variants(
    modules: Mapping[str, nn.Module], original: Original, precision: Precision, settings: Settings
) -> dict[str, Variant]:
    """The variants, measured on clean images. What looks wrong with all of them is said of the first."""
    data, found = original.data, dict[str, Variant]()
    x, said = to_float(data.images[:PROBED]), set[str]()
    for name, module in modules.items():
        model, gradients = with_gradients(module, original.network, x)
        own = [each.removeprefix(f"{name}: ") for each in model_warnings(model, data, seed=settings.seed, name=name)]
        with seeded(settings.seed, "prepare"):
            classifier = prepare(model, data, precision=precision)
        with seeded(settings.seed, "clean"):
            clean = measure_clean(classifier, data, settings)
        own += [*nonfinite_warning(clean), *clean_warnings(clean, data)]
        warnings = [f"{name}: {each}" for each in own if each not in said]
        found[name], said = Variant(classifier, clean, gradients, warnings), said | set(own)
    return found
