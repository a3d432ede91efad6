"""Trained models on disk: weights as safetensors, and a JSON description of the network. Nothing is unpickled."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from inoculate.artifacts.files import read_json, write_bytes, write_json
from inoculate.artifacts.output import FolderLayout
from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.data.preprocessing import Size, as_size
from inoculate.models.architectures.small_cnn import SMALL_CNN
from inoculate.models.build import Stem, build_model
from inoculate.models.normalize import MeanStd, check_channels

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.json"
FORMAT = 1  # of the description


@dataclass(frozen=True)
class ModelSpec:
    """How to build a network: the arguments of `build_model`, and the class names."""

    name: str
    class_names: tuple[str, ...]
    channels: int
    image_size: Size
    stem: Stem = "imagenet"
    pretrained: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @classmethod
    def fitting(
        cls,
        name: str,
        data: Dataset,
        stem: Stem = "imagenet",
        pretrained: bool = False,
        normalize: MeanStd | None = None,
    ) -> ModelSpec:
        """The network of this name for images like those of `data`.

        normalize: (mean, std) in front of it; by default the statistics of `data` (small_cnn: none). Raises
        `InputError` where it does not fit the channels.
        """
        if normalize is not None:
            check_channels(normalize, data.channels)
        elif name != SMALL_CNN:
            normalize = data.channel_statistics()
        mean, std = normalize or (None, None)
        return cls(name, data.classes, data.channels, as_size(*data.image_size), stem, pretrained, mean, std)

    def build(self, *, seed: int = 0, pretrained: bool | None = None) -> nn.Sequential:
        """A new classifier of this kind, with weights drawn from `seed`, or pretrained ones."""
        return build_model(
            self.name,
            classes=len(self.class_names),
            channels=self.channels,
            image_size=self.image_size,
            stem=self.stem,
            pretrained=self.pretrained if pretrained is None else pretrained,
            normalize=None if self.mean is None or self.std is None else (self.mean, self.std),
            seed=seed,
        )


@dataclass(frozen=True)
class Description:
    """What the description of a trained folder says: how to build the network, and the checksum of its weights."""

    spec: ModelSpec
    sha256: str


def save_model(folder: Path, model: nn.Module, spec: ModelSpec, **facts: Any) -> None:
    """Write weights and description into `folder`; `facts` (JSON values) are added to the description."""
    _save(folder, model, {"model": asdict(spec)}, facts)


def save_factory_weights(
    folder: Path, model: nn.Module, factory: str, declared: Mapping[str, str] | None = None, **facts: Any
) -> None:
    """Write weights and description of a network made by a user's function, which must make it again.

    `declared` holds what the user declared about it, by option: `{"normalize": "imagenet"}`.
    """
    _save(folder, model, {"factory": factory, "declared": dict(declared or {})}, facts)


def save_module_weights(
    folder: Path, model: nn.Module, name: str, declared: Mapping[str, str] | None = None, **facts: Any
) -> None:
    """Write weights and description of a module of this class that a user passed, who must build it again."""
    _save(folder, model, {"module": name, "declared": dict(declared or {})}, facts)


def _save(folder: Path, model: nn.Module, origin: dict[str, Any], facts: dict[str, Any]) -> None:
    save_weights(folder / WEIGHTS, model)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    write_json(folder / DESCRIPTION, {"format": FORMAT, **origin, "sha256": digest, **facts})


def load_folder(folder: Path) -> nn.Sequential:
    """The classifier in a folder written by a training, in eval mode.

    Raises `InputError` if it is missing or was altered, or if only the user can build the network.
    """
    description = read_description(folder)
    model = description.spec.build(pretrained=False)
    load_weights(folder / WEIGHTS, model, description.sha256)
    model.class_names = description.spec.class_names  # type: ignore[assignment]
    return model.eval()


def made_by_function(folder: Path) -> bool:
    """Whether a trained folder holds the weights of a network that only a user's function can build."""
    file = folder / DESCRIPTION
    return file.is_file() and "factory" in dict(read_json(file))


def is_description(value: Any) -> bool:
    """Whether a JSON value is a description written by a training, not another program's `model.json`."""
    return isinstance(value, dict) and "sha256" in value and not value.keys().isdisjoint(("model", "factory", "module"))


MODEL_FOLDER = FolderLayout(
    description=DESCRIPTION,
    content=WEIGHTS,
    derived=(
        "README.md",
        "results.json",
        "records.npz",
        "per_image.npz",
        "thumbnails.npz",
        "evaluation.json",
        "model.onnx",
    ),
    completion="history.json",
    recognises=is_description,
)


def read_description(folder: Path) -> Description:
    """What `save_model` wrote beside the weights.

    Raises `InputError` if it is missing or damaged, or if only the user can build the network.
    """
    if not (folder / DESCRIPTION).is_file():
        raise InputError(
            f"{folder} holds no trained model ({DESCRIPTION} is missing): give a folder written by a training"
        )
    description = read_json(folder / DESCRIPTION)
    if isinstance(description, dict) and "factory" in description:
        declared = "".join(f" --{name} {value}" for name, value in dict(description.get("declared", {})).items())
        raise InputError(
            f"{folder} holds weights of a network made by your own function: "
            f"give --model {description['factory']} --weights {folder / WEIGHTS}{declared}"
        )
    if isinstance(description, dict) and "module" in description:
        raise InputError(
            f"{folder} holds weights of your own module {description['module']}: build it as before and load it with "
            "Training.load or Hardened.load, to which you also give the module"
        )
    try:
        fields = dict(description["model"])
        for name in ("class_names", "mean", "std"):
            fields[name] = tuple(fields[name]) if fields[name] is not None else None
        if isinstance(fields["image_size"], list):
            fields["image_size"] = as_size(*fields["image_size"])
        if description["format"] != FORMAT:
            raise ValueError(f"its format is {description['format']!r}, not {FORMAT}")
        return Description(ModelSpec(**fields), str(description["sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder / DESCRIPTION} is not a model description ({error}): train the model again"
        ) from error


def save_weights(path: Path, model: nn.Module) -> None:
    """Parameters and buffers of `model` as one safetensors file."""
    # Cloned, because the format refuses shared tensors: those of a module that has two names.
    write_bytes(path, save({name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}))


def load_weights(path: Path, model: nn.Module, sha256: str | None = None) -> None:
    """Load a safetensors file into `model`; raises `InputError` if it is missing, damaged, or does not fit."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"weights {path} cannot be read ({error.strerror}): check the path") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"weights {path} are not those of the training (checksum differs): copy or train them again")
    try:
        state = load_file(path)
    except (SafetensorError, ValueError) as error:
        kind = "a pickle" if content[:2] in (b"\x80\x02", b"PK", b"\x80\x04", b"\x80\x05") else "damaged"
        raise InputError(
            f"weights {path} are {kind}, not safetensors, and nothing else is read: "
            "convert them with safetensors.torch.save_file"
        ) from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise InputError(
            f"weights {path} do not fit the network ({first}): give the network they were trained for"
        ) from error
