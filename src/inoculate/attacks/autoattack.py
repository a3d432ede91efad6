"""AutoAttack: four attacks that fail in different ways, one after the other on what is still standing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from inoculate.attacks.apgd import APGD
from inoculate.attacks.base import Attack, carry_out
from inoculate.attacks.fab import FAB
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.attacks.termination import check_termination_ratio
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.options import require_count
from inoculate.core.threat import Threat
from inoculate.models.acceleration.fast import original

Version = Literal["standard", "binary", "rand"]


@dataclass(frozen=True)
class AutoAttack:
    """The parameter-free ensemble of Croce and Hein (2020), for L∞ and L2.

    `standard`: APGD on cross-entropy, APGD-T on the targeted DLR loss, FAB-T and Square, with the paper's budgets: 100
    steps, 9 target classes, 5000 queries. It needs four classes. `binary`, for two or three, has APGD on the margin in
    place of APGD-T, because DLR is not defined there. `rand`, for randomised models: APGD on cross-entropy and on DLR,
    each step over 20 gradients.

    Two things make it quicker than the paper's. A short PGD goes first, so that what is easy costs little. And a run
    ends early on an image that it cannot break any more: where after a fifth to a third of the budget the way to the
    boundary is longer than `termination_ratio` times the way made so far (a quarter of that for FAB, which is nearly there by
    then). `termination_ratio=math.inf` spends every budget to the end (`autoattack_thorough`).
    Raises `InputError` for a version that does not fit the number of classes.
    """

    version: Version = "standard"
    steps: int = 100
    targets: int = 9
    queries: int = 5000
    termination_ratio: float = 1.0

    def __post_init__(self) -> None:
        require_count(steps=self.steps, targets=self.targets, queries=self.queries)
        check_termination_ratio(self.termination_ratio)
        if self.version not in get_args(Version):
            raise InputError(f"AutoAttack has no version '{self.version}': use {', '.join(get_args(Version))}")

    def members(self, classes: int) -> Mapping[str, Attack]:
        if self.version == "rand":
            if classes < 3:
                raise InputError("AutoAttack's version rand needs three classes (DLR loss): use apgd_ce with eot=20")
            return {"apgd_ce": APGD(self.steps, eot=20), "apgd_dlr": APGD(self.steps, "dlr", eot=20)}
        if self.version == "binary":
            if classes > 3:
                raise InputError(f"autoattack_binary is for two or three classes, not {classes}: use autoattack")
            second: dict[str, Attack] = {
                "apgd_margin": APGD(self.steps, "margin", termination_ratio=self.termination_ratio)
            }
        else:
            if classes < 4:
                raise InputError(f"autoattack needs four classes (DLR loss), not {classes}: use autoattack_binary")
            second = {"apgd_t": APGD(self.steps, "dlr", self.targets, termination_ratio=self.termination_ratio)}
        opening: dict[str, Attack] = {"pgd": PGD(steps=10, early_stop=True), "apgd_ce": APGD(self.steps)}
        fab = FAB(
            self.steps, self.targets, termination_ratio=self.termination_ratio / 4
        )  # it has all but arrived after a third
        return {
            **opening,
            **second,
            "fab_t": fab,
            "square": Square(self.queries, termination_ratio=self.termination_ratio),
        }

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        def craft(x: Tensor, y: Tensor) -> Tensor:
            judge = original(model)
            with frozen(judge), torch.no_grad():
                logits = judge(x)
            result, rows = x.clone(), torch.arange(len(x), device=x.device)
            for member in self.members(logits.shape[1]).values():
                result[rows] = member(model, x[rows], y[rows], threat, generator=generator)
                with frozen(judge), torch.no_grad():
                    rows = rows[judge(result[rows]).argmax(dim=1) == y[rows]]
                if not len(rows):
                    break
            return result

        return carry_out(model, x, y, threat, craft)

    def shortened(self) -> AutoAttack:
        """The same ensemble with two steps or queries a member."""
        return replace(self, steps=2, targets=1, queries=2)
