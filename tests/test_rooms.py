"""Imports point down the list of rooms only, and the report never needs torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "inoculate"
# From the ground up: a room may import from rooms before it (and from itself).
ROOMS = [
    "core",
    "artifacts",
    "data",
    "models",
    "attacks",
    "certification",
    "training",
    "evaluation",
    "attribution",
    "hardening",
    "study",
    "report",
    "cli",
]
LEVEL = {room: level for level, room in enumerate(ROOMS)}
# Names without code behind them may be known to any room that reads a study file.
CONSTANTS = {"inoculate.training.methods.names"}


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in found if name.startswith("inoculate.")} - CONSTANTS


@pytest.mark.parametrize("path", sorted(SRC.rglob("*.py")), ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_down(path):
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    for name in imported(path):
        other = name.split(".")[1]
        assert other in LEVEL, f"{other} is not a known room"
        assert other == room or LEVEL[other] <= LEVEL[room], f"{room} imports {name}, which lies above it"


def test_every_public_name_can_be_imported():
    import inoculate

    for name in inoculate.__all__:
        assert callable(getattr(inoculate, name))
    with pytest.raises(AttributeError):
        inoculate.no_such_name  # noqa: B018


def test_function_evaluate_is_not_shadowed_by_its_module():
    code = "import inoculate.evaluation.evaluate; from inoculate import evaluate; assert callable(evaluate)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_report_does_not_import_torch():
    code = "import sys, inoculate.report.write; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_the_command_line_prints():
    for path in SRC.rglob("*.py"):
        if room_of(path) != "cli":
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert not any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls), path


@pytest.mark.parametrize("word", ["pickle.load", "eval(", "exec(", "torch.load(path)", "allow_pickle=True"])
def test_nothing_from_disk_is_executed(word):
    for path in SRC.rglob("*.py"):
        for line in path.read_text().splitlines():
            harmless = ".eval(" in line or "_eval(" in line or word == "line"
            assert word not in line or harmless, f"{path}: {line.strip()}"
