"""Networks by name under attack: shapes, the ball, and the fast copy; the whole table takes minutes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))
from benchmarks.architectures import measure, names

QUICK = ("test_byobnet", "shufflenet_v2_x0_5", "trades_cnn", "preactresnet18")
CANNOT = "does not take 224"  # families whose networks need more than 224 pixels


@pytest.mark.parametrize("name", QUICK)
def test_some(name: str) -> None:
    outcome = measure(name)
    assert outcome.passed, outcome.note


@pytest.mark.slow
def test_all() -> None:
    outcomes = [measure(name) for _, name in names()]
    failed = [outcome for outcome in outcomes if not outcome.passed and CANNOT not in outcome.note]
    assert not failed, [(outcome.name, outcome.note) for outcome in failed]
    assert sum(outcome.passed for outcome in outcomes) >= 140
