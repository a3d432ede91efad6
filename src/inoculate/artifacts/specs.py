"""Specs: JSON values that say what an artefact is made from, and their fingerprints."""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).resolve().parents[2]  # the folder that holds the package
_SOURCE_PACKAGE = __name__.partition(".")[0]


def canonical(spec: Mapping[str, Any]) -> str:
    """The canonical JSON text of a spec: sorted keys, no spaces, no NaN."""
    return json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(spec: Mapping[str, Any]) -> str:
    """20 hex digits that name whatever is made from `spec`; equal specs have equal fingerprints."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:20]


def described(
    value: Any,
    opaque: Callable[[Any], Any] = lambda value: str(getattr(value, "__qualname__", type(value).__name__)),
    class_name: Callable[[type], str] = lambda kind: kind.__name__,
) -> Any:
    """An object, such as an attack, as JSON values: a dataclass with all its fields, infinity as text.

    opaque: what stands for a value that JSON does not know; by default its name, which tells no two functions of one
    name apart. class_name: what a dataclass is called.
    """
    if is_dataclass(value) and not isinstance(value, type):
        options = {each.name: described(getattr(value, each.name), opaque, class_name) for each in fields(value)}
        return {"class": class_name(type(value)), **options}
    if isinstance(value, Mapping):
        return {str(name): described(each, opaque, class_name) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [described(each, opaque, class_name) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float | bool) else opaque(value)


@lru_cache
def code_digest(*modules: str) -> str:
    """12 hex digits that change whenever the code of these modules does; put it into specs of what the code makes.

    modules: full names of modules or packages of this distribution, such as `inoculate.data.decode` or
    `inoculate.attacks`; of a package every module in it counts. They are read, never imported. Comments, docstrings and
    formatting do not count, nor does the version of Python. Raises `ValueError` for a name that has no source file.
    """
    total = hashlib.sha256()
    for name in sorted(set(modules)):
        for path in _source_files(name):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            total.update(f"{path.relative_to(_SOURCE).as_posix()}\n".encode())
            total.update("".join(_tokens(tree)).encode())
    return total.hexdigest()[:12]


@lru_cache
def package_digest() -> str:
    """12 hex digits that change with every change of this package's files: quicker than `code_digest`, and stricter."""
    total = hashlib.sha256()
    for path in _source_files(_SOURCE_PACKAGE):
        total.update(f"{path.relative_to(_SOURCE).as_posix()}\n".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def _source_files(module: str) -> list[Path]:
    place = _SOURCE.joinpath(*module.split("."))
    if place.is_dir():
        return sorted(place.rglob("*.py"))
    if place.with_suffix(".py").is_file():
        return [place.with_suffix(".py")]
    raise ValueError(f"module {module!r} has no source file under {_SOURCE}")


def _tokens(node: ast.AST) -> Iterator[str]:
    """A syntax tree as text. Empty fields are left out, because newer versions of Python add fields that are empty."""
    yield f"({type(node).__name__}"
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [] if value is None else [value]
        if isinstance(node, ast.Constant):
            children = [value]  # `None` is a value here
        if name == "body" and isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            children = children[1:] if ast.get_docstring(node, clean=False) is not None else children
        for child in children:
            if isinstance(child, ast.AST):
                yield f" {name}"
                yield from _tokens(child)
            else:
                yield f" {name}={child!r}"
    yield ")"
