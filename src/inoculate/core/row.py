"""The `Row`: one measured accuracy with everything needed to interpret it."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from inoculate.core.stats import wilson

CERTIFIED = "certified"  # the attack of a row that counts the images proven right for all of its threat
UNION = "union"  # the norm of a row that counts the worst over several norms
AUDIT_FIELDS = ("audited", "audited_broken", "hidden")


@dataclass(frozen=True)
class Row:
    """One accuracy, over every test image.

    Fields:
        dataset, model, arm, seed: labels of what was measured.
        attack: its name, `none` for clean accuracy, `certified` for a lower bound that no attack can break.
        norm, eps: the threat; eps in pixel units of [0, 1], 0 for clean. Norm `union`, with eps 1: the worst of several
            norms for each image. Beyond norms `corruption` and `spatial`.
        protocol: `white-box` (crafted on the evaluated model) or `transfer:<model>/<arm>`. Of variants of a model
            `white-box` also counts the examples crafted on the other variants, and `own-attack` does not.
        accuracy: `correct / n`, in [0, 1]. An image that is misclassified without an attack counts as wrong.
        correct, n: images classified correctly, and all.
        ci_low, ci_high: 95 % Wilson interval of the accuracy.
        seconds: that the measurement took.
        severity: of a common corruption, 1 to 5; 0 for everything else.
        movements: the rotations and translations that were tried, in words, under norm `spatial`.
        mask: the name of the mask of the pixels that the attack may change; empty where it may change all.
        threats: of a union, each norm with its eps, such as `linf 0.1, l2 1.5`.
        audited, audited_broken: of the images that stand although the attack may have ended runs on them early, how
            many it attacked again with its full budget, and how many of these it then broke. None where no run can
            have been ended early.
        hidden: the most accuracy, in [0, 1], that early termination can have hidden (95 %, one-sided Clopper–Pearson):
            the accuracy under the full budget is at least `accuracy - hidden`.
        queries: of the attack for an image on average, where the model is a black box (labels only, or an endpoint).
        target: of a targeted attack the class or the rule, else None.
        tried, reached: of a targeted attack the images of other classes that were driven to the target, and those of
            them that are taken for it; else None.
        gradients: what the attack on a variant used in place of its own gradients; empty for these.
    """

    dataset: str
    model: str
    arm: str
    attack: str
    norm: str
    eps: float
    protocol: str
    accuracy: float
    correct: int
    n: int
    ci_low: float
    ci_high: float
    seed: int
    seconds: float
    severity: int = 0
    mask: str = ""
    movements: str = ""
    threats: str = ""
    audited: int | None = None
    audited_broken: int | None = None
    hidden: float | None = None
    queries: float | None = None
    target: str | None = None
    tried: int | None = None
    reached: int | None = None
    gradients: str = ""

    @property
    def key(self) -> str:
        """The name of this row's per-image record: the fields that identify it, joined by `|`."""
        eps = self.threats or f"{self.eps:g}"
        return "|".join(
            [self.dataset, str(self.seed), self.model, self.arm, self.attack, self.norm, eps, self.protocol]
            + ([f"severity {self.severity}"] if self.severity else [])
            + ([f"mask {self.mask}"] if self.mask else [])
            + ([self.movements] if self.movements else [])
        )

    @property
    def has_eps(self) -> bool:
        """Whether the row is clean or under an attack of a size in a norm: not under corruptions or movements."""
        return self.attack == "none" or self.norm not in ("corruption", "spatial")

    @property
    def space(self) -> str:
        """The norm and the mask: rows that differ in it do not belong into one table."""
        return f"{self.norm} in {self.mask}" if self.mask else self.norm

    @classmethod
    def measured(cls, *, correct: int, n: int, seconds: float, **labels: Any) -> Row:
        """A row from a count: fills in the accuracy and its Wilson interval."""
        low, high = wilson(correct, n)
        return cls(
            accuracy=correct / n, correct=correct, n=n, ci_low=low, ci_high=high, seconds=round(seconds, 3), **labels
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, as `results.json` holds them; one that has a default only where it differs from it."""
        optional = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        return {name: value for name, value in asdict(self).items() if name not in optional or value != optional[name]}
