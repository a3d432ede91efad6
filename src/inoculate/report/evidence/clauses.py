"""Clauses of laws and standards, the measurements that speak to each, and the command for one that is missing.

The titles are ours, in short. What a clause asks beyond measurements of a classifier is listed as outside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inoculate.core.row import Row
from inoculate.report.evidence.source import BY_CLASS, Source
from inoculate.report.evidence.taxonomy import (
    is_attacked,
    is_black_box,
    is_certified,
    is_clean,
    is_natural,
    is_transferred,
    is_white_box,
)

NATURAL_ARMS = ("standard", "augmented", "duplicates", "noise")  # of a study, which train without adversarial examples
ACT, ISO, AISVS, NIST = "Regulation (EU) 2024/1689 (AI Act)", "ISO/IEC 24029", "OWASP AISVS v1.0", "NIST AI 100-2 E2025"


@dataclass(frozen=True)
class Item:
    """Something that can be measured.

    Fields:
        name: what it is.
        command: measures it; `{threat}` stands for the norm and eps of the run.
        rows: which rows measure it, if rows do.
        fact: the part of the evidence that holds it, and whether the folder has it; without it nothing is measured.
        by: what the images are grouped by, if their groups' accuracies measure it.
    """

    name: str
    command: str
    rows: Callable[[Row], bool] | None = None
    fact: tuple[str, Callable[[Source], bool]] | None = None
    by: Callable[[Source], Sequence[str]] | None = None


@dataclass(frozen=True)
class Clause:
    """A clause, the items that speak to it, and what of it lies outside of what is measured here."""

    standard: str
    name: str
    subject: str
    items: tuple[Item, ...]
    outside: tuple[str, ...] = ()


_EVALUATE = "inoculate evaluate --model MODEL --data DATA --out RUN"
CLEAN = Item("Accuracy on unchanged images", f"{_EVALUATE} --attack pgd {{threat}}", is_clean)
ATTACKED = Item("Accuracy under adversarial attack", f"{_EVALUATE} --attack autoattack {{threat}}", is_attacked)
WHITE_BOX = Item("Accuracy under white-box evasion", f"{_EVALUATE} --attack autoattack {{threat}}", is_white_box)
BLACK_BOX = Item("Accuracy under black-box evasion", f"{_EVALUATE} --attack square {{threat}}", is_black_box)
TRANSFERRED = Item(
    "Accuracy under examples crafted on another model",
    "inoculate transfer --model MODEL --model OTHER --data DATA {threat} --out RUN",
    is_transferred,
)
NATURAL = Item("Accuracy under common corruptions", f"{_EVALUATE} --corruptions all", is_natural)
MOVED = Item("Accuracy under rotations and shifts", f"{_EVALUATE} --spatial 30,10%", lambda row: row.norm == "spatial")
CERTIFIED = Item(
    "Certified accuracy, a proven lower bound",
    "inoculate certify --model MODEL --data DATA {threat} --out RUN",
    is_certified,
)
CHECKED = Item(
    "Adaptive and trust checks of the numbers",
    f"{_EVALUATE} --attack autoattack {{threat}} --checks",
    fact=("checks", lambda source: source.checks is not None),
)
SUBGROUPS = Item(
    "Accuracy by class, and the worst class",
    f"{_EVALUATE} --attack autoattack {{threat}}",
    by=lambda source: [by for by in source.groups if by == BY_CLASS],
)
GROUPS = Item(
    "Accuracy by group of images, and the worst group",
    f"{_EVALUATE} --attack autoattack {{threat}} --by COLUMN",
    by=lambda source: [by for by in source.groups if by != BY_CLASS],
)
DECLARED = Item(
    "Required accuracies and whether they were reached",
    f"{_EVALUATE} --attack autoattack {{threat}} --require 'clean>=0.9'",
    fact=("verdict", lambda source: source.verdict is not None),
)
REGRESSION = Item(
    "Comparison with an earlier release on the same images",
    "inoculate compare OLD RUN --json RUN/comparison.json",
    fact=("comparison", lambda source: source.comparison is not None),
)
HARDENED = Item(
    "Accuracy before and after adversarial training",
    "inoculate harden --model MODEL --data DATA {threat} --out RUN",
    rows=lambda row: is_clean(row) or is_attacked(row),
    fact=("training", lambda source: _is_hardened(source)),
)
DATA = Item(
    "Digest of the test images",
    f"{_EVALUATE} --attack autoattack {{threat}}",
    fact=("subject", lambda source: any(facts.get("digest") for facts in source.data.values())),
)

CLAUSES: Sequence[Clause] = (
    Clause(ACT, "Article 15(1)", "accuracy, robustness and cybersecurity, consistently over the life cycle",
           (CLEAN, ATTACKED, DECLARED, REGRESSION),
           ("which level is appropriate for the purpose", "monitoring of the system in use")),
    Clause(ACT, "Article 15(3)", "levels of accuracy and metrics that the instructions for use declare",
           (CLEAN, ATTACKED, SUBGROUPS, GROUPS, DATA), ("the instructions for use themselves",)),
    Clause(ACT, "Article 15(4)", "resilience against errors, faults and inconsistencies; feedback loops",
           (NATURAL, MOVED), ("technical redundancy", "feedback loops of systems that go on learning")),
    Clause(ACT, "Article 15(5)", "resilience against attempts to alter use, outputs or performance",
           (WHITE_BOX, BLACK_BOX, CHECKED, CERTIFIED, HARDENED),
           ("data poisoning", "model poisoning", "confidentiality attacks", "detection of and response to attacks")),
    Clause(ISO, "ISO/IEC TR 24029-1:2021", "overview: statistical, formal and empirical methods",
           (CLEAN, ATTACKED, NATURAL, CERTIFIED), ("field trials",)),
    Clause(ISO, "ISO/IEC 24029-2:2023", "methodology for the use of formal methods",
           (CERTIFIED,), ("reachability and other properties than local stability",)),
    Clause(ISO, "ISO/IEC 24029-3", "methodology for the use of statistical methods",
           (CLEAN, ATTACKED, NATURAL, SUBGROUPS, GROUPS, DATA, CHECKED),
           ("whether the images represent the intended use",)),
    Clause(AISVS, "AISVS C11.1.3", "evaluation against known adversarial attack techniques",
           (WHITE_BOX, BLACK_BOX, TRANSFERRED, CHECKED), ("techniques for other modalities than images",)),
    Clause(AISVS, "AISVS C11.1.4", "hardening against adversarial inputs", (HARDENED,)),
    Clause(NIST, "NIST 2.2.1 White-box evasion", "NISTAML.022", (WHITE_BOX, CHECKED)),
    Clause(NIST, "NIST 2.2.2 Black-box evasion", "NISTAML.025", (BLACK_BOX,)),
    Clause(NIST, "NIST 2.2.3 Transferability", "examples crafted on another model", (TRANSFERRED,)),
    Clause(NIST, "NIST 2.2.5 Mitigations of evasion", "adversarial training, smoothing, formal verification",
           (HARDENED, CERTIFIED), ("poisoning (2.3)", "privacy attacks (2.4)")),
)  # fmt: skip


def threat_options(rows: Sequence[Row]) -> str:
    """The options of the largest eps that was measured, else the usual one."""
    attacked = [row for row in rows if is_attacked(row) and row.has_eps and row.norm in ("linf", "l2", "l1", "l0")]
    largest = max(attacked, key=lambda row: (row.norm == "linf", row.eps), default=None)
    return f"--norm {largest.norm} --eps {largest.eps:.6g}" if largest else "--norm linf --eps 8/255"


def _is_hardened(source: Source) -> bool:
    """Whether the folder holds measurements before and after a training on adversarial examples."""
    if source.kind == "hardening":
        return not source.training.get("kept_original")
    arms = {row.arm for row in source.rows if is_attacked(row)}
    return source.kind == "study" and bool(arms & set(NATURAL_ARMS)) and bool(arms - set(NATURAL_ARMS))
