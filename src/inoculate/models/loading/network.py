"""A network that is trained, and how it is saved and rebuilt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from inoculate.artifacts.files import read_json
from inoculate.core.copying import copy_module
from inoculate.core.errors import InputError, one_line
from inoculate.models.loading.checkpoints import (
    DESCRIPTION,
    WEIGHTS,
    ModelSpec,
    load_folder,
    load_weights,
    read_description,
    save_factory_weights,
    save_model,
    save_module_weights,
)
from inoculate.models.loading.load import ModelLike, load_model
from inoculate.models.loading.outputs import Declared
from inoculate.models.loading.specs import identity
from inoculate.models.normalize import parse_normalize


@dataclass(frozen=True, eq=False)
class Network:
    """A classifier (float images in [0, 1] → logits), and how it is rebuilt.

    name: its name in rows. spec: how `build_model` makes it. factory: the SPEC of a function that makes it. A module
    that the user passed has neither. declared: `outputs` and `normalize`, with which `model` wraps what the factory or
    the user made.
    """

    model: nn.Module
    name: str
    spec: ModelSpec | None = None
    factory: str | None = None
    declared: Mapping[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["built", "factory", "module"]:
        """How it is rebuilt: by `build_model`, by a function of the user's, or by the user."""
        return "built" if self.spec is not None else "module" if self.factory is None else "factory"

    @property
    def architecture(self) -> str:
        """Its name on a card."""
        return self.name if self.spec is None else self.spec.name

    @property
    def inner(self) -> nn.Module:
        """The network without the declared wrappers."""
        return parse_declared(self.declared).unwrap(self.model)

    def save(self, folder: Path, **facts: Any) -> None:
        """Write weights, those of `inner`, and how to rebuild the network; `facts` (JSON values) are kept beside."""
        if self.spec is not None:
            save_model(folder, self.model, replace(self.spec, pretrained=False), **facts)
        elif self.factory is not None:
            save_factory_weights(folder, self.inner, self.factory, self.declared, **facts)
        else:
            save_module_weights(folder, self.inner, self.name, self.declared, **facts)


def model_identity(model: ModelLike) -> str:
    """What tells this model from others: a SPEC and the content behind it, or a module's layers and weights."""
    if not isinstance(model, nn.Module):
        return identity(str(model))
    digest = hashlib.sha256(repr(model).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"{type(model).__name__} {digest.hexdigest()}"


def wrap_copy(module: nn.Module, declared: Mapping[str, str]) -> nn.Module:
    """A copy of a module of the user's in eval mode, as a classifier of images in [0, 1] that returns logits."""
    try:
        network = copy_module(module)
    except Exception as error:  # a lock, an open file
        raise InputError(
            f"the network cannot be copied ({one_line(error)}), which training needs: keep only layers, "
            "weights and plain values in it"
        ) from error
    return parse_declared(declared).wrap(network).eval()


def reload_network(folder: Path, name: str | None = None, module: nn.Module | None = None) -> Network:
    """The network that `Network.save` wrote into `folder`.

    name: in rows; by default that of its architecture. module: for weights of a module of the user's, that module,
    built as before; it is copied.
    """
    description = read_json(folder / DESCRIPTION) if (folder / DESCRIPTION).is_file() else {}
    declared = dict(description.get("declared", {}))
    if "module" in description:
        if module is None:
            raise InputError(
                f"{folder} holds weights of your own module {description['module']}: build it as before and give it as "
                "the second argument of load"
            )
        network = Network(wrap_copy(module, declared), name or str(description["module"]), declared=declared)
        load_weights(folder / WEIGHTS, network.inner, description["sha256"])
        return network
    if "factory" in description:
        factory = str(description["factory"])
        model = load_model(factory, weights=folder / WEIGHTS, **declared)
        return Network(model, name or factory, factory=factory, declared=declared)
    spec = read_description(folder).spec
    return Network(load_folder(folder), name or spec.name, spec)


def parse_declared(declared: Mapping[str, str]) -> Declared:
    """What was declared by option (`outputs`, `normalize`) as a `Declared`."""
    normalize = declared.get("normalize")
    mean_std = None if normalize is None else parse_normalize(normalize)
    return Declared(declared.get("outputs", "logits"), mean_std)
