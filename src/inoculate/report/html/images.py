"""Attacked images and their attributions as data URIs, few enough that the page stays small."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.attribution.explanation import Explanation
from inoculate.report.failures import adversarial_pixels
from inoculate.report.fragility import by_model
from inoculate.report.plots.style import page_color

BUDGET = 4_500_000  # bytes of data URIs in one page
ENLARGED = 10  # factor at which the perturbation is drawn
_SMALL = 64  # pixels on a side up to which images are stored without loss
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class AttackedImage:
    """One image attacked on one arm of a network; the arm is empty where there is one only.

    color: of the arm, as CSS. pictures: alt text and data URI by what they show. predictions: by image, in words.
    outcome: `correct`, `fooled` or `misclassified clean`. change: of the attributions, from 0 (none) on; None where it
    is not defined.
    """

    arm: str
    color: str
    pictures: Mapping[str, tuple[str, str]]
    predictions: Mapping[str, str]
    outcome: str
    change: float | None


@dataclass(frozen=True)
class ShownImage:
    """One test image under one network: its label, the clean image as a data URI, and the attacked one per arm."""

    model: str
    label: str
    clean: str
    arms: list[AttackedImage]


def shown_images(explanations: Sequence[Explanation], budget: int = BUDGET) -> list[ShownImage]:
    """The images of one dataset, network by network; as many of each network as fit the budget (in bytes)."""
    groups = [_network(model, arms) for model, arms in by_model(explanations).items()]
    most = max((len(group) for group in groups), default=0)
    while most > 1 and sum(_size(each) for group in groups for each in group[:most]) > budget:
        most -= 1
    return [each for group in groups for each in group[:most]]


def _network(model: str, arms: Mapping[str, Explanation]) -> list[ShownImage]:
    first = next(iter(arms.values()))
    found = []
    for place, image in enumerate(first.facts["images"]):
        attacked = [
            _attacked(arm if len(arms) > 1 else "", page_color(list(arms), arm), each, place)
            for arm, each in arms.items()
            if place < len(each.facts["images"]) and each.facts["images"][place]["row"] == image["row"]
        ]
        label = first.facts["classes"][image["label"]]
        found.append(ShownImage(model, label, data_uri(first.arrays["clean"][place]), attacked))
    return found


def _attacked(arm: str, color: str, explained: Explanation, place: int) -> AttackedImage:
    image, classes = explained.facts["images"][place], explained.facts["classes"]
    predictions = {
        name: prediction(image[name], classes) for name in ("clean", "adversarial", "replayed") if name in image
    }
    correct = {name: image[name]["predicted"] == image["label"] for name in ("clean", "adversarial")}
    outcome = "misclassified clean" if not correct["clean"] else "correct" if correct["adversarial"] else "fooled"
    return AttackedImage(arm, color, _pictures(arm, explained, place), predictions, outcome, image["change"])


def _pictures(arm: str, explained: Explanation, place: int) -> dict[str, tuple[str, str]]:
    facts, arrays = explained.facts, explained.arrays
    image = facts["images"][place]
    clean = arrays["clean"][place].astype(np.float64)
    moved = arrays["perturbation"][place] / 127 * image["scale"] * 255
    adversarial = adversarial_pixels(explained, place)
    name = f"{facts['attack']} image of {facts['classes'][image['label']]}" + (f", {arm}" if arm else "")
    attributions = attribution_map(arrays["attribution"][place])
    pictures = {
        f"perturbation ×{ENLARGED}": (
            f"perturbation of the attack, enlarged {ENLARGED} times",
            data_uri((127.5 + ENLARGED * moved).clip(0, 255).astype(np.uint8)),
        ),
        "adversarial": (name, data_uri(adversarial)),
        "attribution, clean": ("attribution of the clean image", data_uri(attributions[0])),
        "attribution, adversarial": (f"attribution of the {name}", data_uri(attributions[1])),
    }
    if "grad_cam" in arrays:
        maps = [grad_cam_map(arrays["grad_cam"][place][i], pixels) for i, pixels in enumerate((clean, adversarial))]
        pictures["Grad-CAM, clean"] = ("Grad-CAM of the clean image", data_uri(maps[0]))
        pictures["Grad-CAM, adversarial"] = (f"Grad-CAM of the {name}", data_uri(maps[1]))
    return pictures


def prediction(output: Mapping[str, Any], classes: Sequence[str]) -> str:
    """A predicted class and its confidence, in words."""
    confidence = output["confidence"]
    return str(classes[output["predicted"]]) + ("" if confidence is None else f" ({100 * confidence:.0f} %)")


def attribution_map(maps: NDArray[np.int8]) -> Pixels:
    """Signed attributions (2×H×W) as colours: blue for, orange against, white for none; both maps on one scale."""
    values = maps.astype(np.float64)
    top = max(float(np.quantile(np.abs(values), 0.98)), 1.0)
    share = (values / top).clip(-1, 1)[..., None]
    white, blue, orange = np.array([255, 255, 255]), np.array([0, 79, 145]), np.array([192, 73, 0])
    color = np.where(share > 0, blue, orange)
    mixed = white + (color - white) * np.sqrt(np.abs(share))
    pixels: Pixels = mixed.round().astype(np.uint8)
    return pixels


def grad_cam_map(values: NDArray[np.uint8], image: NDArray[Any]) -> Pixels:
    """A Grad-CAM map (H×W) over its image in grey: yellow where it is large."""
    from matplotlib import colormaps

    grey = image.mean(axis=-1, keepdims=True)
    color = colormaps["viridis"](values / 255)[..., :3] * 255
    pixels: Pixels = (0.35 * grey + 0.65 * color).round().clip(0, 255).astype(np.uint8)
    return pixels


def data_uri(pixels: Pixels) -> str:
    """Pixels (H×W×C, 1 or 3 channels) as a data URI: PNG while small, WebP above."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    stream, small = io.BytesIO(), max(pixels.shape[:2]) <= _SMALL
    image.save(stream, "PNG", optimize=True) if small else image.save(stream, "WEBP", quality=85)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _size(each: ShownImage) -> int:
    return len(each.clean) + sum(len(uri) for arm in each.arms for _, uri in arm.pictures.values())
