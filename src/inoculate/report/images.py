"""Pictures inside the page: pixels and maps as data URIs, small enough that the whole page is."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.attribution.explanation import Explained
from inoculate.report.panels import by_model

BUDGET = 4_500_000  # bytes of data URIs in one page
ENLARGED = 10  # times that the perturbation is drawn
_SMALL = 64  # pixels on a side up to which nothing is lost by compression
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """One image under one network and arm: data URIs by what they show, what was said of it, and how it ended."""

    arm: str
    pictures: Mapping[str, tuple[str, str]]  # kind -> (alt text, data URI)
    said: Mapping[str, str]
    outcome: str  # stands, fooled, or wrong before the attack
    drift: float | None


@dataclass(frozen=True)
class Shown:
    """One image under one network: the clean image, what the network before hardening said, and a case per arm."""

    model: str
    label: str
    clean: str
    cases: list[Case]


def shown(explained: Sequence[Explained], budget: int = BUDGET) -> list[Shown]:
    """The images of one dataset, network by network; as many of each network as fit the budget (in bytes)."""
    groups = [_network(model, arms) for model, arms in by_model(explained).items()]
    most = max((len(group) for group in groups), default=0)
    while most > 1 and sum(_weight(each) for group in groups for each in group[:most]) > budget:
        most -= 1
    return [each for group in groups for each in group[:most]]


def _network(model: str, arms: Mapping[str, Explained]) -> list[Shown]:
    first = next(iter(arms.values()))
    found = []
    for place, image in enumerate(first.facts["images"]):
        label = first.facts["classes"][image["label"]]
        cases = [
            _case(arm, each, place)
            for arm, each in arms.items()
            if place < len(each.facts["images"]) and each.facts["images"][place]["row"] == image["row"]
        ]
        found.append(Shown(model, label, uri(first.arrays["clean"][place]), cases))
    return found


def _case(arm: str, explained: Explained, place: int) -> Case:
    facts, arrays = explained.facts, explained.arrays
    image, classes = facts["images"][place], facts["classes"]
    clean = arrays["clean"][place].astype(np.float64)
    moved = arrays["perturbation"][place] / 127 * image["scale"] * 255
    adversarial = (clean + moved).round().clip(0, 255).astype(np.uint8)
    named = f"{facts['attack']} image of {classes[image['label']]}, {arm}"
    pictures = {
        f"perturbation ×{ENLARGED}": (
            f"what the attack changed, {ENLARGED} times enlarged",
            uri((127.5 + ENLARGED * moved).clip(0, 255).astype(np.uint8)),
        ),
        "adversarial": (named, uri(adversarial)),
        "evidence, clean": ("evidence in the clean image", uri(evidence(arrays["gradients"][place])[0])),
        "evidence, adversarial": (f"evidence in the {named}", uri(evidence(arrays["gradients"][place])[1])),
    }
    if "focus" in arrays:
        seen = [focus(arrays["focus"][place][i], picture) for i, picture in enumerate((clean, adversarial))]
        pictures["focus, clean"] = ("focus in the clean image", uri(seen[0]))
        pictures["focus, adversarial"] = (f"focus in the {named}", uri(seen[1]))
    said = {name: verdict(image[name], classes) for name in ("clean", "adversarial", "replayed") if name in image}
    right = {name: image[name]["predicted"] == image["label"] for name in ("clean", "adversarial")}
    outcome = "wrong before the attack" if not right["clean"] else "stands" if right["adversarial"] else "fooled"
    return Case(arm, pictures, said, outcome, image["drift"])


def verdict(said: Mapping[str, Any], classes: Sequence[str]) -> str:
    """A prediction and its confidence, for people."""
    sure = said["confidence"]
    return str(classes[said["predicted"]]) + ("" if sure is None else f" ({100 * sure:.0f} %)")


def evidence(maps: NDArray[np.int8]) -> Pixels:
    """Signed evidence (2×H×W) as colours: blue for, orange against, white for none; both maps on one scale."""
    values = maps.astype(np.float64)
    top = max(float(np.quantile(np.abs(values), 0.98)), 1.0)
    share = (values / top).clip(-1, 1)[..., None]
    white, blue, orange = np.array([255, 255, 255]), np.array([0, 79, 145]), np.array([192, 73, 0])
    color = np.where(share > 0, blue, orange)
    mixed = white + (color - white) * np.sqrt(np.abs(share))
    pixels: Pixels = mixed.round().astype(np.uint8)
    return pixels


def focus(values: NDArray[np.uint8], picture: NDArray[Any]) -> Pixels:
    """A focus map (H×W) laid over its image in grey: the brighter and yellower, the more it counts."""
    from matplotlib import colormaps

    grey = picture.mean(axis=-1, keepdims=True)
    color = colormaps["viridis"](values / 255)[..., :3] * 255
    pixels: Pixels = (0.35 * grey + 0.65 * color).round().clip(0, 255).astype(np.uint8)
    return pixels


def uri(pixels: Pixels) -> str:
    """Pixels (H×W×C, 1 or 3 channels) as a data URI: PNG while small, WebP above."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    stream, small = io.BytesIO(), max(pixels.shape[:2]) <= _SMALL
    image.save(stream, "PNG", optimize=True) if small else image.save(stream, "WEBP", quality=85)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _weight(each: Shown) -> int:
    return len(each.clean) + sum(len(uri) for case in each.cases for _, uri in case.pictures.values())
