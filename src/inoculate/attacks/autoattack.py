"""AutoAttack: four attacks that fail in different ways, one after the other on the images not yet broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from inoculate.attacks._survivors import attack_survivors
from inoculate.attacks.apgd import APGD
from inoculate.attacks.base import Attack, carry_out, refuse_l0
from inoculate.attacks.fab import FAB
from inoculate.attacks.losses import logits_fp32
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.attacks.targets import Target, check_target, choose_targets
from inoculate.attacks.termination import check_termination_ratio
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.options import require_count
from inoculate.core.threat import Norm, Threat
from inoculate.models.acceleration.fast import original

Version = Literal["standard", "binary", "rand", "quick"]


@dataclass(frozen=True)
class AutoAttack:
    """The parameter-free ensemble: each member attacks the images that no earlier one has broken.

    For images B×C×H×W in the threat's range. Two things make it quicker than the paper's: a short PGD comes first and
    breaks the easy images, and a member gives up an image whose missing margin exceeds `termination_ratio` times what
    its run has gained.

    Options:
        version: `standard` (four classes or more): APGD on cross-entropy, APGD-T on the targeted DLR loss, FAB-T and
            Square. `binary` (two or three classes), for which that loss is not defined: with three, APGD-T takes the
            margin; with two, APGD on the margin, from two starts, replaces both. `rand`, for randomised models (three
            classes): APGD on cross-entropy and on DLR, each step over 20 gradients. `quick`: as `standard` or
            `binary`, whichever fits, without FAB-T; `autoattack_quick` also has fewer targets and ends runs sooner.
        steps: steps of APGD and FAB.
        targets: target classes of APGD-T and FAB-T. In L1, APGD-T takes at most 5, and untargeted APGD 5 restarts.
        queries: passes of Square.
        termination_ratio: of the APGD members; FAB-T, whose measure is a distance, uses a quarter, and Square, which
            slows down sooner, 0.9 times this. Infinity spends every budget (`autoattack_thorough`).
        target: as in `OneStepTarget`: every member goes towards that class, and only it counts; the targeted DLR loss
            (the margin below four classes) replaces APGD-T's runs. None for any error.

    Raises `InputError` for a version that does not fit the number of classes, an option out of its range, images
    outside theirs, or a model that is not differentiable.
    Source: Croce and Hein 2020, section 5. L1: Croce and Hein 2021, section 5.
    """

    version: Version = "standard"
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    termination_ratio: float = 1.0
    target: Target = None

    def __post_init__(self) -> None:
        require_count(steps=self.steps, targets=self.targets, queries=self.queries)
        check_termination_ratio(self.termination_ratio)
        check_target(self.target)
        if self.version not in get_args(Version):
            raise InputError(f"AutoAttack has no version '{self.version}': use {', '.join(get_args(Version))}")

    def members(self, classes: int, norm: Norm = "linf") -> Mapping[str, Attack]:
        """The members by name, in their order; raises `InputError` if the version does not fit `classes`."""
        ratio, restarts, targets = self.termination_ratio, 1, min(self.targets, classes - 1)
        if norm == "l1":
            restarts, targets = 5, min(targets, 5)
        if self.version == "rand":
            if classes < 3:
                raise InputError("AutoAttack's version rand needs three classes (DLR loss): use apgd_ce with eot=20")
            loss = "dlr" if classes > 3 or self.target is None else "margin"
            return {
                "apgd_ce": APGD(self.steps, eot=20, target=self.target),
                "apgd_dlr": APGD(self.steps, loss, eot=20, target=self.target),
            }
        if self.version == "binary" and classes > 3:
            raise InputError(f"autoattack_binary is for two or three classes, not {classes}: use autoattack")
        if self.version == "standard" and classes < 4:
            raise InputError(f"autoattack needs four classes (DLR loss), not {classes}: use autoattack_binary")
        if self.target is not None:
            return self._members_towards("dlr" if classes > 3 else "margin", restarts)
        members: dict[str, Attack] = {"pgd": PGD(steps=10, early_stop=True)}
        if classes == 2:  # cross-entropy rises along the margin, and vanishes where outputs saturate
            members["apgd_margin"] = APGD(self.steps, "margin", restarts=max(restarts, 2), termination_ratio=ratio)
        else:
            loss = "margin" if self.version == "binary" or classes == 3 else "dlr"
            members["apgd_ce"] = APGD(self.steps, restarts=restarts, termination_ratio=ratio)
            members["apgd_t"] = APGD(self.steps, loss, targets, termination_ratio=ratio)
        if self.version != "quick":
            members["fab_t"] = FAB(self.steps, self.targets, termination_ratio=ratio / 4)
        return {**members, "square": Square(self.queries, termination_ratio=0.9 * ratio)}

    def _members_towards(self, loss: str, restarts: int) -> Mapping[str, Attack]:
        """The members with a target; `loss` beside cross-entropy."""
        ratio, target = self.termination_ratio, self.target
        members: dict[str, Attack] = {
            "pgd": PGD(steps=10, early_stop=True, target=target),
            "apgd_ce": APGD(self.steps, restarts=restarts, termination_ratio=ratio, target=target),
            "apgd_t": APGD(self.steps, loss, restarts=restarts, termination_ratio=ratio, target=target),
        }
        if self.version != "quick":
            members["fab_t"] = FAB(self.steps, termination_ratio=ratio / 4, target=target)
        return {**members, "square": Square(self.queries, termination_ratio=0.9 * ratio, target=target)}

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        refuse_l0("AutoAttack", threat)

        def craft(x: Tensor, y: Tensor) -> Tensor:
            judge = original(model)
            with frozen(judge), torch.no_grad():
                logits = logits_fp32(judge, x)
            target = None if self.target is None else choose_targets(logits, x, y, self.target, generator)
            members = self.members(logits.shape[1], threat.norm).values()
            return attack_survivors(members, model, x, y, threat, generator, target)

        return carry_out(model, x, y, threat, craft)

    def shortened(self) -> AutoAttack:
        """The same ensemble with two steps or queries a member."""
        return replace(self, steps=2, targets=1, queries=2)
