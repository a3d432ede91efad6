"""Rows in the terms of NIST AI 100-2 E2025: the attack, the attacker's goal, knowledge and capabilities."""

from __future__ import annotations

from typing import Any

from inoculate.core.row import Row

NATURAL, CERTIFIED = "corruption", "certified"
SCORE_BASED = ("square", "sparse_rs")  # the attacker sees outputs
DECISION_BASED = ("hopskipjump", "rays")  # the attacker sees labels
ENSEMBLES = ("autoattack", "autoattack_thorough", "autoattack_binary")  # one member of which is score-based


def is_clean(row: Row) -> bool:
    """Whether nothing was changed."""
    return row.attack == "none"


def is_natural(row: Row) -> bool:
    """Whether images were changed without an adversary."""
    return row.norm == NATURAL


def is_certified(row: Row) -> bool:
    """Whether the number is a proven lower bound."""
    return row.attack.split(" ")[0] == CERTIFIED


def is_attacked(row: Row) -> bool:
    """Whether an adversary changed the images."""
    return not (is_clean(row) or is_natural(row) or is_certified(row))


def is_transferred(row: Row) -> bool:
    """Whether the examples were crafted on another model."""
    return row.protocol.startswith("transfer:")


def is_black_box(row: Row) -> bool:
    """Whether the attacker only queries the model, or crafts on another one."""
    name = row.attack.split(" ")[0]
    return is_attacked(row) and (
        is_transferred(row) or name in SCORE_BASED + DECISION_BASED or row.norm == "spatial"
    )  # fmt: skip


def is_white_box(row: Row) -> bool:
    """Whether the attacker knows the model."""
    return is_attacked(row) and not is_black_box(row)


def taxonomy_of(row: Row) -> dict[str, Any]:
    """The row in the terms of the taxonomy; `attack` is None where there is no adversary."""
    if is_certified(row):
        return {"attack": "any within the threat model (NISTAML.022)", "mitigation": "formal verification or smoothing"}
    if not is_attacked(row):
        return {"attack": None}
    name = row.attack.split(" ")[0]
    if is_white_box(row):
        attack, knowledge, capability = (
            "evasion, white-box (NISTAML.022)",
            "white-box",
            "testing data control, model access",
        )
        if name in ENSEMBLES:
            attack = "evasion, white-box (NISTAML.022) and score-based black-box (NISTAML.025)"
    elif is_transferred(row):
        attack, knowledge = "evasion, transferred (NISTAML.025)", "black-box"
        capability = f"testing data control, access to another model ({row.protocol.removeprefix('transfer:')})"
    else:
        seen = "labels" if name in DECISION_BASED else "outputs"
        attack, knowledge = "evasion, black-box (NISTAML.025)", "black-box"
        capability = f"testing data control, query access to {seen}"
    goal = "integrity violation (NISTAML.02)" + (f", targeted: {row.target}" if row.target else "")
    return {"attack": attack, "goal": goal, "knowledge": knowledge, "capabilities": capability, "stage": "deployment"}
