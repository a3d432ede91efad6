"""The figures printed in the paper, in percent. What the paper does not give is absent here."""

from __future__ import annotations

NETWORKS = ("resnet18", "resnet50", "resnet101")
_NAMES = {"mnist": "mnist", "cifar10": "cifar10", "catsvsdogs": "cats_vs_dogs", "catsdogs": "cats_vs_dogs"}
_TITLES = {"mnist": "MNIST", "cifar10": "CIFAR10", "cats_vs_dogs": "Cats-Dogs"}

# Table 1: clean accuracy of (ResNet-18, ResNet-50, ResNet-101) before and after transfer training.
_CLEAN_BEFORE = {
    "mnist": (97.43, 97.72, 98.65),
    "cifar10": (75.39, 83.69, 81.69),
    "cats_vs_dogs": (96.93, 95.05, 94.08),
}
_CLEAN_AFTER = {
    "mnist": (99.20, 99.22, 99.26),
    "cifar10": (76.63, 80.41, 78.48),
    "cats_vs_dogs": (97.16, 95.83, 94.34),
}
# Mean accuracy on FGSM images before; not given for CIFAR10.
_ADVERSARIAL_BEFORE = {"mnist": 39.46, "cats_vs_dogs": 31.08}
# Mean gain on FGSM images after transfer training, in points.
_GAIN = {"mnist": 41.54, "cifar10": 14.96, "cats_vs_dogs": 26.43}
# The largest single gain the paper reports.
BEST_SINGLE_GAIN = ("mnist", "resnet50", 52.25)


def paper_name(dataset: str) -> str | None:
    """Return the paper's dataset behind a name (`mnist`, `cifar10`, `cats_vs_dogs`), or None for any other."""
    return _NAMES.get("".join(letter for letter in dataset.lower() if letter.isalnum()))


def title(dataset: str) -> str:
    """Return the name to print for a dataset: the paper's own where it has one."""
    return _TITLES.get(paper_name(dataset) or "", dataset)


def clean(dataset: str, model: str) -> tuple[float, float] | None:
    """Return the published clean accuracy (before, after) of a network, or None where there is none."""
    name = paper_name(dataset)
    if name is None or model not in NETWORKS:
        return None
    place = NETWORKS.index(model)
    return _CLEAN_BEFORE[name][place], _CLEAN_AFTER[name][place]


def adversarial_before(dataset: str) -> float | None:
    """Return the published mean adversarial accuracy of the `standard` arm, or None where there is none."""
    return _ADVERSARIAL_BEFORE.get(paper_name(dataset) or "")


def gain(dataset: str) -> float | None:
    """Return the published mean gain of the `transferred` arm in points, or None where there is none."""
    return _GAIN.get(paper_name(dataset) or "")
