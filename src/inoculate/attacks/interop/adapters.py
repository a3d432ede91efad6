"""Attacks of foolbox, torchattacks and ART as attacks of ours. Each library is an optional extra."""

from __future__ import annotations

import difflib
import inspect
import random
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from inoculate.attacks.base import Attack, carry_out
from inoculate.attacks.interop.lending import imported, line, to_art, to_foolbox
from inoculate.core.errors import InputError
from inoculate.core.rng import drawn_seed
from inoculate.core.threat import Norm, Threat, project
from inoculate.models.acceleration.fast import original

HOMES = {"foolbox": "foolbox.attacks", "torchattacks": "torchattacks", "art": "art.attacks.evasion"}
# The norms of the attacks whose class names do not tell.
NORMS = {
    "foolbox": {
        "BoundaryAttack": "l2", "DDNAttack": "l2", "EADAttack": "l1", "HopSkipJumpAttack": "linf l2",
        "NewtonFoolAttack": "l2", "SaltAndPepperNoiseAttack": "l2", "VirtualAdversarialAttack": "l2",
    },
    "torchattacks": {
        "APGD": "linf l2", "APGDT": "linf l2", "AutoAttack": "linf l2", "CW": "l2", "DeepFool": "l2", "EADEN": "l1",
        "FAB": "linf l2", "Square": "linf l2",
    },
    "art": {
        "BoundaryAttack": "l2", "DeepFool": "l2", "ElasticNet": "l1", "HopSkipJump": "linf l2", "NewtonFool": "l2",
        "SignOPTAttack": "l2", "SimBA": "l2", "VirtualAdversarialMethod": "l2", "ZooAttack": "l2",
    },
}  # fmt: skip
PREFIXES = {"linf": ("Linf", "LInf", "Linfinity"), "l2": ("L2",), "l1": ("L1",)}  # foolbox has a class per norm
SPELLINGS = {"linf": ("Linf", np.inf), "l2": ("L2", 2), "l1": ("L1", 1)}  # torchattacks, ART
OURS = {"eps", "max_epsilon", "norm", "distance", "constraint", "targeted", "model", "estimator", "classifier"}


@dataclass(frozen=True)
class Foreign:
    """The attack `name` of another `library` (foolbox, torchattacks or art), untargeted, called like our own.

    The library sees float32 images that run from 0 to 1 over the threat's range. Eps and norm are the threat's; a step
    in pixels (`alpha`, `eps_step`) that `options` do not name keeps the proportion to eps that it has in the library's
    defaults. Other options have the library's names and units. In foolbox, which has a class per norm, a name without
    its prefix (`PGD`) stands for the one that fits. What comes back is projected; an image that is not finite, or an
    eps of 0, gives the clean one.

    The library's random numbers are decided by `generator` (none: always the same) and belong to the batch: unlike our
    own attacks', they depend on its size and order. ART's BoundaryAttack and HopSkipJump seed themselves: no two runs
    agree.

    It is the model itself that the library sees, where a `fast` copy is given: many of these attacks stop at the very
    boundary, and that of a copy lies elsewhere.

    Raises `InputError` if the library is not installed, for unknown names and options, for a norm that the attack is
    not made for, and for whatever else the library refuses.
    """

    library: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        parameters = _parameters(_found(self.library, self.name)[-1])
        for option in self.options:
            if option in OURS:
                raise InputError(f"{self.library}:{self.name} takes its {option} from the threat: leave the option out")
            if option not in parameters:
                raise InputError(f"{self.library}:{self.name} has no option '{option}'" + _nearest(option, parameters))

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        model, seed = original(model), drawn_seed(generator, 2**31)
        make = self._fitting(threat.norm)
        span = threat.high - threat.low

        def craft(x: Tensor, y: Tensor) -> Tensor:
            if not threat.eps:
                return x
            unit = _Unit(model, threat, x.dtype, x.device).eval()
            with _own_state(model, seed):
                images = ((x - threat.low) / span).clamp(0, 1).float().contiguous()
                found = self._run(make, unit, images, y, threat.norm, threat.eps / span, seed)
            x_adv = threat.low + span * found.detach().to(x)
            return project(torch.where(x_adv.isfinite(), x_adv, x), x, threat)

        return carry_out(model, x, y, threat, craft)

    def _fitting(self, norm: Norm) -> type:
        """The class for this norm."""
        classes = _found(self.library, self.name)
        for candidate in classes:
            if norm in _norms(self.library, candidate):
                return candidate
        fitting = " or ".join(n for n in get_args(Norm) if any(n in _norms(self.library, c) for c in classes))
        raise InputError(
            f"{self.library}:{self.name} is not for norm {norm}, but for {fitting or 'none that a threat can have'}"
        )

    def _run(self, make: type, unit: nn.Module, x: Tensor, y: Tensor, norm: Norm, eps: float, seed: int) -> Tensor:
        """Make the attack and let it loose on images in [0, 1]."""
        parameters = _parameters(make)
        with torch.no_grad():
            classes = unit(x[:1]).shape[1]
        values = {
            "eps": eps, "max_epsilon": eps, "constraint": norm, "targeted": False, "verbose": False, "seed": seed,
            "n_classes": classes, "batch_size": len(x), "norm": SPELLINGS[norm][self.library == "art"],
        }  # fmt: skip
        for step in {"alpha", "eps_step"} & parameters.keys():
            if "eps" in parameters:
                values[step] = parameters[step].default / parameters["eps"].default * eps
        if self.library == "foolbox":
            values["distance"] = getattr(imported("foolbox", "foolbox.distances"), norm)
        values = {name: value for name, value in {**values, **self.options}.items() if name in parameters}

        try:
            if self.library == "foolbox":
                found = make(**values)(to_foolbox(unit, Threat()), x, y, epsilons=eps)[0]
            elif self.library == "torchattacks":
                found = make(unit, **values)(x, y)
            else:
                attack = make(to_art(unit, Threat(), tuple(x.shape[1:]), classes), **values)
                found = torch.from_numpy(attack.generate(x.cpu().numpy(), y=y.cpu().numpy()))
        except (TypeError, ValueError, AssertionError, AttributeError, NotImplementedError, ImportError) as error:
            raise InputError(f"{self.library}:{self.name} refuses: {line(error)}") from error
        return torch.as_tensor(found)


def adapted(name: str, **options: Any) -> Attack:
    """The attack called `library:Name`, as in `foolbox:PGD`, `torchattacks:PGD`, `art:ProjectedGradientDescent`.

    Raises `InputError` as `Foreign` does.
    """
    library, _, attack = name.partition(":")
    return Foreign(library, attack, options)


class _Unit(nn.Module):
    """The model on float32 images that run from 0 to 1 over the threat's range."""

    def __init__(self, model: nn.Module, threat: Threat, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.empty(0, device=device), requires_grad=False)  # libraries ask parameters: where?
        self.model, self.threat, self.dtype = model, threat, dtype

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1).view(x.shape)  # so that gradients come back contiguous: some libraries `view` them
        logits: Tensor = self.model(self.threat.low + (self.threat.high - self.threat.low) * x.to(self.dtype))
        return logits.float()


@contextmanager
def _own_state(model: nn.Module, seed: int) -> Iterator[None]:
    """Seeded global random states of its own, and no gradients at the parameters; all is put back after."""
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


def _found(library: str, name: str) -> list[type]:
    """The classes that `name` stands for: one, or in foolbox one per norm and last the one called just so."""
    if library not in HOMES:
        raise InputError(f"library '{library}' is unknown: write foolbox:Name, torchattacks:Name or art:Name")
    known = {n: c for n, c in vars(imported(library, HOMES[library])).items() if isinstance(c, type)}
    prefixes = [p for each in PREFIXES.values() for p in each] if library == "foolbox" else []
    spellings = [spelling for prefix in [*prefixes, ""] if (spelling := prefix + name) in known]
    if not spellings:
        raise InputError(f"{library} has no attack '{name}'" + _nearest(name, known))
    return [known[spelling] for spelling in spellings]


def _norms(library: str, attack: type) -> list[str]:
    """The norms an attack is made for: by the table, its parameters or its name. `l0` may be among them."""
    parameters, name = _parameters(attack), attack.__name__
    if name in NORMS[library]:
        return NORMS[library][name].split()
    if {"norm", "distance"} & parameters.keys():
        return list(get_args(Norm))
    said = re.search(r"L(inf|\d)", name, re.IGNORECASE)
    if said:
        return ["l" + said[1].lower()]
    return ["linf"] if {"eps", "max_epsilon"} & parameters.keys() else []


def _parameters(attack: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(attack).parameters


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    best = max(known, key=likeness, default="")
    return best and f": did you mean '{best}'?"
