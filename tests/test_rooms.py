"""The architecture: the order of the rooms, small functions and files, and who may print, import torch or run code."""

import ast
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "inoculate"
# From the ground up: a room may import from rooms before it, and from itself.
ROOMS = (
    *("core", "artifacts", "data", "models", "attacks", "certification", "training", "evaluation"),
    *("attribution", "hardening", "study", "report", "playground", "cli"),
)
# Names without code behind them, which any room may know.
CONSTANTS = {"inoculate.training.methods.names"}
# What reads results must start at once.
WITHOUT_TORCH = (
    *("inoculate", "inoculate.core.errors", "inoculate.core.stats", "inoculate.core.row", "inoculate.core.threat"),
    *("inoculate.core.options", "inoculate.core.results", "inoculate.core.duration", "inoculate.artifacts.files"),
    *("inoculate.artifacts.rows", "inoculate.artifacts.store", "inoculate.artifacts.output"),
    *("inoculate.attribution.explanation", "inoculate.study.config", "inoculate.study.plan"),
    *("inoculate.study.load", "inoculate.study.result", "inoculate.report.write", "inoculate.cli"),
    *("inoculate.report.evidence.pack", "inoculate.report.sarif", "inoculate.report.junit"),
)
MOST_LINES, MOST_PARAMETERS, MOST_CLI_LINES = 60, 8, 130
# What does not hold yet. An entry that holds must be removed.
NOT_YET: dict[str, set[str]] = {}


@lru_cache
def sources() -> dict[str, ast.Module]:
    """Every file of the package by its path below `inoculate/`."""
    return {path.relative_to(SRC).as_posix(): ast.parse(path.read_text()) for path in sorted(SRC.rglob("*.py"))}


def room_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def imports(tree: ast.Module) -> set[str]:
    """The modules of the package that a file imports anywhere."""
    nodes = list(ast.walk(tree))
    found = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    found |= {
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name for name in found if name.startswith("inoculate.")}


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def parameters(function: ast.FunctionDef) -> int:
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def lines(function: ast.FunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def is_command(path: str, function: ast.FunctionDef) -> bool:
    """A command takes every option of the command line: it is the public function that its file is named after."""
    return path.startswith("cli/") and function.name.split("_")[0] == Path(path).stem.split("_")[0]


def check(law: str, offenders: set[str]) -> None:
    """Compare what breaks a law with what is known to break it."""
    known = NOT_YET.get(law, set())
    assert not offenders - known, f"{law}: {sorted(offenders - known)}"
    assert not known - offenders, f"{law}: remove from NOT_YET, for it holds now: {sorted(known - offenders)}"


@pytest.mark.smoke
def test_imports_point_down() -> None:
    level = {room: number for number, room in enumerate(ROOMS)}
    offenders = set()
    for path, tree in sources().items():
        room = room_of(path)
        for name in imports(tree) - CONSTANTS if room in level else ():
            other = name.split(".")[1]
            if any(name.startswith(f"{constant}.") for constant in CONSTANTS) or other not in level:
                continue  # a public name of the package
            if level[other] > level[room]:
                offenders.add(f"{path}: {'.'.join(name.split('.')[:3])}")
    check("imports that point up", offenders)


def test_the_package_holds_rooms_and_nothing_loose() -> None:
    files = {path.name for path in SRC.iterdir() if path.is_file()}
    folders = {path.name for path in SRC.iterdir() if path.is_dir()} - {"__pycache__"}
    assert files == {"__init__.py", "__main__.py", "py.typed"}
    assert folders <= set(ROOMS)
    for room in folders - {"cli"}:
        assert not sources()[f"{room}/__init__.py"].body, f"{room}/__init__.py is empty, so that it is cheap to import"


@pytest.mark.smoke
def test_functions_can_be_seen_at_once() -> None:
    long = {
        f"{path}: {function.name}"
        for path, tree in sources().items()
        for function in functions(tree)
        if lines(function) > MOST_LINES and not is_command(path, function)
    }
    check("long functions", long)


@pytest.mark.smoke
def test_functions_have_few_parameters() -> None:
    many = {
        f"{path}: {function.name}"
        for path, tree in sources().items()
        for function in functions(tree)
        if parameters(function) > MOST_PARAMETERS and not is_command(path, function)
    }
    check("many parameters", many)


def test_command_line_files_are_thin() -> None:
    paths = [path for path in sources() if path.startswith("cli/")]
    check("long cli files", {path for path in paths if (SRC / path).read_text().count("\n") >= MOST_CLI_LINES})


def test_no_command_imports_another() -> None:
    shared = {
        f"inoculate.cli.{name}"
        for name in (
            *("errors", "evaluation_files", "gate", "loading", "options", "output", "parsers", "progress"),
            "reading_options",
            "screen",
            "threat_options",
            "training_options",
            "variant_options",
        )
    }
    commands = {path: tree for path, tree in sources().items() if path.startswith("cli/") and path != "cli/__init__.py"}
    names = {f"inoculate.cli.{Path(path).stem}" for path in commands} - shared
    found = {f"{path}: {name}" for path, tree in commands.items() for name in imports(tree) & names}
    check("commands that import commands", found)


def test_only_the_command_line_prints() -> None:
    for path, tree in sources().items():
        if room_of(path) != "cli":
            calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
            assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls), path
            assert not {name.split(".")[0] for name in third_parties(tree)} & {"typer", "rich"}, path


def third_parties(tree: ast.Module) -> set[str]:
    nodes = list(ast.walk(tree))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_what_reads_results_never_imports_torch() -> None:
    code = (
        f"import sys, importlib\nfor name in {WITHOUT_TORCH}:\n"
        "    importlib.import_module(name)\n    assert 'torch' not in sys.modules, name"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.splitlines()[-1]


def test_nothing_from_disk_is_executed() -> None:
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "torch.load"}
    for path, tree in sources().items():
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            name, options = ast.unparse(call.func), {each.arg: ast.unparse(each.value) for each in call.keywords}
            safe = name == "torch.load" and options.get("weights_only") == "True"
            assert name not in forbidden or safe, f"{path}:{call.lineno} {name}"
            assert options.get("allow_pickle", "False") == "False", f"{path}:{call.lineno} {name}"


@pytest.mark.smoke
def test_every_public_name_can_be_imported() -> None:
    import inoculate

    for name in inoculate.__all__:
        assert callable(getattr(inoculate, name))
    assert dir(inoculate) == inoculate.__all__
    with pytest.raises(AttributeError):
        inoculate.no_such_name  # noqa: B018


def test_function_evaluate_is_not_shadowed_by_its_module() -> None:
    code = "import inoculate.evaluation.evaluate; from inoculate import evaluate; assert callable(evaluate)"
    subprocess.run([sys.executable, "-c", code], check=True)
