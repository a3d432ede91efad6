"""Artefacts are named by the code that makes them: a change of it makes them anew, other edits do not."""

import ast
import importlib.util
import shutil
from pathlib import Path

import pytest
from study_samples import TINY

from inoculate.artifacts.store import Store
from inoculate.study.builder import MAKERS
from inoculate.study.code import CODE, code_of
from inoculate.study.load import load_study
from inoculate.study.plan import plan
from inoculate.study.specs import Specs

PACKAGE = Path(__file__).parents[2] / "src" / "inoculate"
# What these decide is named in the specs by its values; where artefacts lie does not change what they hold.
NAMED_BY_VALUE = ("artifacts", "study.cell", "study.config", "study.inputs", "study.sections", "study.validation")


def module_of(maker):
    return maker.__module__.removeprefix("inoculate.")


def imports(module):
    """Modules of the package that a module imports, directly or not."""
    found, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in found or covered(name, NAMED_BY_VALUE):
            continue
        found.add(name)
        for node in ast.walk(ast.parse(path_of(name).read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("inoculate."):
                name = node.module.removeprefix("inoculate.")
                todo += [name] if path_of(name).is_file() else [f"{name}.{each.name}" for each in node.names]
    return found


def path_of(module):
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def covered(module, names):
    return any(module == name or module.startswith(f"{name}.") for name in names)


@pytest.mark.parametrize("kind", MAKERS)
def test_every_module_that_makes_an_artefact_is_in_its_spec(kind):
    needed = imports(module_of(MAKERS[kind]))
    assert [name for name in sorted(needed) if not covered(name, (*CODE[kind], "study.steps.split"))] == []


def test_the_split_is_covered():
    assert all(covered(name, CODE["split"]) for name in imports("study.steps.split"))


def test_every_spec_holds_the_code_of_its_kind(tmp_path):
    assert set(CODE) == {*MAKERS, "split"}
    study = load_study(TINY | {"surrogate": "small_cnn"})
    specs = Specs(study, Store(tmp_path))
    assert specs.split("digits", 0)["code"] == code_of("split")
    for cell in plan(study):
        assert specs.of(cell)["code"] == code_of(cell.kind), cell


def digests(package):
    """The digests that the code of a copy of the package gives to each kind of artefact."""
    description = importlib.util.spec_from_file_location("copied_specs", package / "artifacts" / "specs.py")
    copied = importlib.util.module_from_spec(description)
    description.loader.exec_module(copied)
    return {kind: tuple(copied.code_digest(f"inoculate.{name}") for name in names) for kind, names in CODE.items()}


def test_code_makes_artefacts_anew_and_comments_do_not(tmp_path):
    package = shutil.copytree(PACKAGE, tmp_path / "inoculate", ignore=shutil.ignore_patterns("__pycache__"))
    before = digests(package)
    assert before == {kind: tuple(code_of(kind).values()) for kind in CODE}

    def changed(module, text):
        path = package / module
        path.write_text(path.read_text() + text)
        after = digests(package)
        return {kind for kind in CODE if after[kind] != before[kind]}

    docstring = package / "evaluation" / "engine.py"
    docstring.write_text(docstring.read_text().replace('"""', '"""More words. ', 1))
    assert changed("attacks/losses.py", "\n# a comment\n") == set()
    assert changed("report/claims.py", "\nNEW = 1\n") == set()
    assert changed("attribution/maps.py", "\nNEW = 1\n") == {"explain"}
    assert changed("evaluation/engine.py", "\nNEW = 1\n") == {"evaluate", "surrogate", "explain"}
    assert changed("data/decode.py", "\nNEW = 1\n") == set(CODE)
