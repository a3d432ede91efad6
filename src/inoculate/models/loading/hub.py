"""Trained networks of timm (`hf-hub:owner/name`) and of transformers (`hf:folder`, `hf:owner/name`).

Only safetensors are read, and no code that comes with a model is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from inoculate.core.errors import InputError, one_line
from inoculate.models.normalize import MeanStd, normalized
from inoculate.models.pretrained import TIMM_HUB, TRANSFORMERS, input_config, read_hub_json


class TransformersModel(nn.Module):
    """An image classifier of transformers that returns its logits: B×C×H×W → B×K."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(pixel_values=x).logits
        return logits


def load_hub(spec: str, normalize: MeanStd | None = None) -> nn.Sequential:
    """The trained classifier that a SPEC `hf-hub:…` or `hf:…` names: images in [0, 1], B×C×H×W → logits B×K.

    normalize: (mean, std) in front of it; by default those of the checkpoint. Raises `InputError` for what cannot be
    found, downloaded or loaded.
    """
    network = _from_timm(spec) if spec.startswith(TIMM_HUB) else _from_transformers(spec)
    if normalize is None:
        config = input_config(spec)
        assert config is not None  # each of them has one
        normalize = config.normalize
    return normalized(network, *normalize)


def hub_identity(spec: str) -> Path | None:
    """The file that tells one local model from another, if there is one."""
    place = Path(spec.split(":", 1)[1])
    return next((file for file in (place / "model.safetensors", place / "config.json") if file.is_file()), None)


def _from_timm(spec: str) -> nn.Module:
    import timm

    read_hub_json(spec, "config.json")  # its own message if there is no network
    try:
        network: nn.Module = timm.create_model(spec, pretrained=True)
    except Exception as error:  # of the hub, of the network, or of weights that do not fit
        raise InputError(
            f"model '{spec}' cannot be loaded ({one_line(error)}): check that it is one of timm"
        ) from error
    return network


def _from_transformers(spec: str) -> nn.Module:
    try:
        from transformers import AutoModelForImageClassification
    except ImportError as error:
        raise InputError(f"model '{spec}' needs transformers: pip install 'inoculate[transformers]'") from error
    config = read_hub_json(spec, "config.json")
    place, found = spec.removeprefix(TRANSFORMERS), dict[str, Any]()
    try:
        network, found = AutoModelForImageClassification.from_pretrained(
            place, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # of the hub, of an unknown kind of network, or of weights that do not fit
        raise InputError(
            f"model '{spec}' ({config.get('model_type', 'of no known type')}) cannot be loaded as an image classifier "
            f"({one_line(error)}): give one with safetensors that transformers knows, or a factory"
        ) from error
    random = sorted({*found["missing_keys"], *(str(key[0]) for key in found["mismatched_keys"])})
    if random:
        raise InputError(
            f"model '{spec}' holds no weights for {len(random)} of its tensors ({', '.join(random[:5])}), which would "
            "be random: give one that was trained as a classifier"
        )
    return TransformersModel(network)
