"""What the wrappers of other libraries share: finding an attack by name, and calling it without leaving a trace."""

from __future__ import annotations

import difflib
import importlib
import inspect
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from inoculate.attacks.base import carry_out
from inoculate.core.errors import InputError
from inoculate.core.rng import drawn_seed
from inoculate.core.threat import Norm, Threat, project, refuse_mask
from inoculate.models.acceleration.fast import original

# Options that follow from the threat or from the call.
FROM_THREAT = {"eps", "max_epsilon", "norm", "distance", "constraint", "targeted", "model", "estimator", "classifier"}
# What the libraries raise for an attack that does not fit the model, the images or its options.
REFUSALS = (TypeError, ValueError, AssertionError, AttributeError, NotImplementedError, ImportError)


def import_module(library: str, module: str) -> ModuleType:
    """A module of an optional library; raises `InputError` that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"no {library} here ({first_line(error)}): pip install 'inoculate[{library}]'") from error


def first_line(error: Exception) -> str:
    """The first line of an error, or its kind."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@dataclass(frozen=True)
class Library:
    """A library of attacks: its name, the module that holds them, norms of attacks whose class names do not tell, and
    prefixes of class names by which it distinguishes norms."""

    name: str
    module: str
    norms: Mapping[str, str]
    prefixes: tuple[str, ...] = ()

    def classes(self, name: str) -> list[type]:
        """The classes that `name` stands for: one per norm where the library has several, the plain name last."""
        known = {n: c for n, c in vars(import_module(self.name, self.module)).items() if isinstance(c, type)}
        names = [prefix + name for prefix in (*self.prefixes, "") if prefix + name in known]
        if not names:
            raise InputError(f"{self.name} has no attack '{name}'" + _nearest(name, known))
        return [known[each] for each in names]

    def class_for(self, name: str, norm: Norm) -> type:
        """The class for this norm; raises `InputError` that names the norms which the attack is made for."""
        classes = self.classes(name)
        for each in classes:
            if norm in self._norms_of(each):
                return each
        fitting = " or ".join(n for n in get_args(Norm) if any(n in self._norms_of(c) for c in classes))
        raise InputError(
            f"{self.name}:{name} is not for norm {norm}, but for {fitting or 'none that a threat can have'}"
        )

    def check_options(self, name: str, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an unknown attack, an unknown option, or one that the threat decides."""
        known = parameters(self.classes(name)[-1])
        for option in options:
            if option in FROM_THREAT:
                raise InputError(f"{self.name}:{name} takes its {option} from the threat: leave the option out")
            if option not in known:
                raise InputError(f"{self.name}:{name} has no option '{option}'" + _nearest(option, known))

    def arguments(self, attack: type, options: Mapping[str, Any], **values: Any) -> dict[str, Any]:
        """Constructor arguments: those of `values` that it takes, steps in proportion to eps, then `options`."""
        known = parameters(attack)
        for step in {"alpha", "eps_step"} & known.keys():
            if "eps" in known:
                values[step] = known[step].default / known["eps"].default * values["eps"]
        return {name: value for name, value in {**values, **options}.items() if name in known}

    @contextmanager
    def refusals(self, name: str) -> Iterator[None]:
        """Inside, what the library refuses is raised as an `InputError` of one line."""
        try:
            yield
        except REFUSALS as error:
            raise InputError(f"{self.name}:{name} refuses: {first_line(error)}") from error

    def _norms_of(self, attack: type) -> list[str]:
        """The norms an attack is made for: by the table, its parameters or its name. `l0` may be among them."""
        known, name = parameters(attack), attack.__name__
        if name in self.norms:
            return self.norms[name].split()
        if {"norm", "distance"} & known.keys():
            return [norm for norm in get_args(Norm) if norm != "l0"]
        said = re.search(r"L(inf|\d)", name, re.IGNORECASE)
        if said:
            return ["l" + said[1].lower()]
        return ["linf"] if {"eps", "max_epsilon"} & known.keys() else []


# Runs an attack of a library: (model on [0, 1] images, images, labels, eps in [0, 1] units, seed) -> images.
Run = Callable[[nn.Module, Tensor, Tensor, float, int], Tensor]


def craft_with(
    run: Run, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator | None
) -> Tensor:
    """Adversarial examples (like `x`) by another library's attack on the original model, projected into the threat.

    The library sees float32 images that run from 0 to 1 over the threat's range. An image that comes back with a value
    that is not finite, or an eps of 0, gives the clean one. Raises `InputError` for a mask, to which no library keeps.
    """
    refuse_mask(threat, "an attack of another library")
    model, seed = original(model), drawn_seed(generator, 2**31)
    span = threat.high - threat.low

    def craft(x: Tensor, y: Tensor) -> Tensor:
        if not threat.eps:
            return x
        unit = UnitRange(model, threat, x.dtype, x.device).eval()
        with isolated_state(model, seed):
            images = ((x - threat.low) / span).clamp(0, 1).float().contiguous()
            found = run(unit, images, y, threat.eps if threat.norm == "l0" else threat.eps / span, seed).detach()
        x_adv = torch.where(found == images, x, threat.low + span * found.to(x))  # rounding is no change of a pixel
        return project(torch.where(x_adv.isfinite(), x_adv, x), x, threat)

    return carry_out(model, x, y, threat, craft)


class UnitRange(nn.Module):
    """The model on float32 images that run from 0 to 1 over the threat's range; float32 logits."""

    def __init__(self, model: nn.Module, threat: Threat, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.empty(0, device=device), requires_grad=False)  # libraries read a device from it
        self.model, self.threat, self.dtype = model, threat, dtype

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).view(x.shape)  # so that gradients come back contiguous: some libraries `view` them
        logits: Tensor = self.model(self.threat.low + (self.threat.high - self.threat.low) * x.to(self.dtype))
        return logits.float()


@contextmanager
def isolated_state(model: nn.Module, seed: int) -> Iterator[None]:
    """Inside, the global random states are seeded and parameters have no gradients; all is put back after."""
    grads = [(parameter, parameter.grad) for parameter in model.parameters()]
    numpy_state, python_state = np.random.get_state(), random.getstate()
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(gpus):
            torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed GPUs that nobody saved
            if gpus:
                torch.cuda.manual_seed_all(seed)
            np.random.seed(seed)
            random.seed(seed)
            for parameter, _ in grads:
                parameter.grad = None
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for parameter, grad in grads:
            parameter.grad = grad


def class_count(model: nn.Module, x: Tensor) -> int:
    """How many logits the model gives."""
    with torch.no_grad():
        return int(model(x[:1]).shape[1])


def parameters(attack: type) -> Mapping[str, inspect.Parameter]:
    """The constructor's parameters by name."""
    return inspect.signature(attack).parameters


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    def similarity(other: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    best = max(known, key=similarity, default="")
    return best and f": did you mean '{best}'?"
