"""What pretrained weights expect of their images: normalisation, size, crop and interpolation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from inoculate.core.errors import InputError, one_line
from inoculate.models.normalize import MeanStd

TORCHVISION, TIMM_HUB, TRANSFORMERS = "torchvision:", "hf-hub:", "hf:"
_PILLOW = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # the numbers of Pillow's filters


@dataclass(frozen=True)
class InputConfig:
    """How images were prepared when pretrained weights were evaluated.

    mean, std: per channel, of pixels in [0, 1]. image_size: height and width that the network is given, in pixels.
    crop_fraction: the image is resized so that its central part of this fraction has `image_size`. crop_mode: `center`
    keeps the sides' ratio and resizes the shorter one, `squash` gives the resized image the ratio of `image_size`,
    `border` shows all of it on a border. interpolation: `nearest`, `bilinear`, `bicubic` or `lanczos`.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: tuple[int, int]
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    crop_mode: Literal["center", "squash", "border"] = "center"

    @property
    def normalize(self) -> MeanStd:
        """(mean, std), as `build_model` takes it."""
        return self.mean, self.std


def input_config(name: str) -> InputConfig | None:
    """What the pretrained weights of a model SPEC expect, or None where it has none.

    name: a timm name, a torchvision name, `torchvision:NAME`, `hf-hub:owner/name` or `hf:folder`. Raises `InputError`
    for one on the hub that cannot be reached.
    """
    import timm

    if name.startswith(TRANSFORMERS):
        return _from_transformers(name)
    if name.startswith(TIMM_HUB):
        return _from_timm(_hub_config(name))
    if not name.startswith(TORCHVISION) and timm.is_model(name.split(".")[0]):
        config = timm.get_pretrained_cfg(name)
        return None if config is None else _from_timm(asdict(config))
    return _from_torchvision(name.removeprefix(TORCHVISION))


def read_hub_json(name: str, file: str) -> Mapping[str, Any]:
    """A JSON file of a model given as `hf-hub:owner/name`, `hf:owner/name` or `hf:folder`.

    Raises `InputError` if it is missing or the hub cannot be reached.
    """
    place = name.split(":", 1)[1]
    path = Path(place) / file
    if not Path(place).is_dir():
        from huggingface_hub import hf_hub_download

        try:
            path = Path(hf_hub_download(place, file))
        except Exception as error:  # of the hub, of the network, or of a name that is none
            raise InputError(
                f"model '{name}' has no folder here and cannot be downloaded ({one_line(error)}): check its name and "
                "the network, or give a folder"
            ) from error
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"model '{name}' has no {file}: give a folder that save_pretrained wrote") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({one_line(error)}): download it again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a description of a model: download it again")
    return found


def _from_timm(config: Mapping[str, Any]) -> InputConfig:
    import timm.data

    found = timm.data.resolve_data_config({}, pretrained_cfg=dict(config))  # type: ignore[attr-defined,no-untyped-call]
    return InputConfig(
        tuple(found["mean"]), tuple(found["std"]), tuple(found["input_size"][1:]), found["crop_pct"],
        found["interpolation"], found["crop_mode"],
    )  # fmt: skip


def _hub_config(name: str) -> Mapping[str, Any]:
    config = read_hub_json(name, "config.json")
    return dict(config.get("pretrained_cfg", config))


def _from_torchvision(name: str) -> InputConfig | None:
    try:
        from torchvision import models
    except ImportError:
        return None
    try:
        weights = models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):  # unknown, or not pretrained
        return None
    found = weights.transforms()
    side = found.crop_size[0]
    return InputConfig(
        tuple(found.mean), tuple(found.std), (side, side), side / found.resize_size[0], found.interpolation.value
    )


def _from_transformers(name: str) -> InputConfig:
    """As transformers' image processors read `preprocessor_config.json`."""
    found = read_hub_json(name, "preprocessor_config.json")
    if abs(float(found.get("rescale_factor", 1 / 255)) - 1 / 255) > 1e-6 and found.get("do_rescale", True):
        raise InputError(f"model '{name}' rescales pixels by {found['rescale_factor']}, not 1/255: give a factory")
    plain = found.get("do_normalize", True) is False
    mean, std = ((0.0,), (1.0,)) if plain else (found.get("image_mean"), found.get("image_std"))
    if not mean or not std:
        raise InputError(f"model '{name}' does not say its image_mean and image_std: declare them (--normalize)")
    resized, crop_mode = _sides(found.get("size", 224))
    side, _ = _sides(found["crop_size"]) if found.get("do_center_crop") and "crop_size" in found else (resized, "")
    fraction = side[0] / resized[0] if side != resized else float(found.get("crop_pct") or 1.0)
    interpolation = _PILLOW.get(found.get("resample", 2), "bilinear")
    return InputConfig(tuple(mean), tuple(std), side, fraction, interpolation, crop_mode)


def _sides(size: Any) -> tuple[tuple[int, int], Literal["center", "squash"]]:
    """Height and width in transformers' `size`, and whether it keeps the ratio of the sides."""
    if isinstance(size, dict) and "shortest_edge" in size:
        return (size["shortest_edge"],) * 2, "center"
    if isinstance(size, dict):
        return (size["height"], size["width"]), "squash"
    return (int(size),) * 2, "squash"
