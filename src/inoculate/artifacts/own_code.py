"""The code of a user's classes and functions, with all of the user's code that it calls, as a digest."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from inoculate.artifacts.versions import library_version

_OURS = ("inoculate", "builtins")
_LIBRARY_FOLDERS = {"site-packages", "dist-packages", Path(inspect.__file__).parent.name}
_SIMPLE = (bool, int, float, complex, str, bytes, type(None))


def code_of_class(kind: type) -> str:
    """What stands for the code of a class: the version of its library, or a digest of its source.

    To the source belong its bases and the functions, classes and modules of the user that it refers to, and theirs.
    Empty for a class of this package, whose code `code_digest` tells.
    """
    package = kind.__module__.partition(".")[0]
    if package in _OURS:
        return ""
    if _is_library(kind.__module__):
        return library_version(package)
    return digest_of(kind)


def name_of_class(kind: type) -> str:
    """The full name of a class, which for one in a script is the same in the processes that the script starts."""
    return f"{kind.__module__.replace('__mp_main__', '__main__')}.{kind.__qualname__}"


def digest_of(*values: Any) -> str:
    """12 hex digits that change with the code of functions and classes, whatever of the user's it refers to included.

    Of what else they refer to, numbers and texts count, and the source of assignments to variables of modules.
    """
    walk = _Walk()
    for value in values:
        walk.add("", value)
    named = [getattr(value, "__qualname__", type(value).__qualname__) for value in values]
    return hashlib.sha256("\n".join([*named, *sorted(walk.lines)]).encode()).hexdigest()[:12]


class _Walk:
    """Lines that say what code does, found from reference to reference.

    The source may have been edited since it was loaded: what runs counts, and what is written.
    """

    def __init__(self) -> None:
        self.lines: set[str] = set()
        self._seen: dict[Any, Any] = {}

    def add(self, name: str, value: Any) -> None:
        """Add what `value`, which other code calls `name`, does."""
        if isinstance(value, _SIMPLE):
            self.lines.add(f"{name} = {value!r}")
        elif id(value) not in self._seen:
            self._seen[id(value)] = value
            for own, each in _parts(value):
                self.add(own or name, each)
            if isinstance(value, FunctionType | type):
                self._add_code(value)
            elif not isinstance(value, ModuleType):
                self.add(name, type(value))

    def _add_code(self, value: FunctionType | type) -> None:
        module = str(value.__module__)  # a function may have none
        package = module.partition(".")[0]
        if package in _OURS:
            return
        if _is_library(module):
            self.lines.add(library_version(package))
        elif isinstance(value, type):
            self.lines.add(_source(value))
            for own, each in [*_numbered(value.__mro__[1:]), *vars(value).items()]:
                if not (own.startswith("__") and isinstance(each, _SIMPLE)):  # such as the module's name
                    self.add(own, each)
        elif value.__code__.co_filename != "<string>":  # made by a library, such as a dataclass's
            self.lines.update((_source(value), _compiled(value.__code__)))
            self._add_variables(value.__globals__, _names(value.__code__))
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                with contextlib.suppress(ValueError):  # not assigned yet
                    self.add(name, cell.cell_contents)

    def _add_variables(self, namespace: dict[str, Any], names: frozenset[str]) -> None:
        """Add those of a module's variables that have one of the names, and of the modules among them likewise."""
        if (id(namespace), names) in self._seen:
            return
        self._seen[id(namespace), names] = namespace
        definitions = _definitions(namespace.get("__file__"))
        for name in names & namespace.keys():
            value = namespace[name]
            self.lines.add(definitions.get(name, ""))
            if not isinstance(value, ModuleType):
                self.add(name, value)
            elif _is_library(value.__name__):
                self.lines.add(library_version(value.__name__.partition(".")[0]))
            elif value.__name__.partition(".")[0] not in _OURS:
                self._add_variables(vars(value), names)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a decorator, a bound method or a container of few values is made of."""
    if isinstance(value, staticmethod | classmethod):
        yield "", value.__func__
    elif isinstance(value, property):
        yield from (("", each) for each in (value.fget, value.fset) if each is not None)
    elif isinstance(value, functools.partial):
        yield from (("", value.func), *_numbered(value.args), *value.keywords.items())
    elif inspect.ismethod(value):
        yield "", value.__func__
    elif isinstance(value, tuple):
        yield from _numbered(value)
    elif isinstance(value, FunctionType):
        yield from _numbered(value.__defaults__ or ())
        yield from (value.__kwdefaults__ or {}).items()
        yield "", getattr(value, "__wrapped__", None)


def _numbered(values: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """The values with their numbers as names."""
    return ((str(number), each) for number, each in enumerate(values))


def _names(code: CodeType) -> frozenset[str]:
    """The names that code refers to, and the functions in it."""
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return frozenset(name for name in code.co_names if name.isidentifier()).union(*map(_names, inner))


def _source(value: FunctionType | type) -> str:
    """The source of a function or class; empty where it was typed in."""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return ""


def _compiled(code: CodeType) -> str:
    """What code does, without the places where it stands."""
    constants = [sorted(map(repr, each)) if isinstance(each, frozenset) else each for each in code.co_consts]
    shown = [_compiled(each) if isinstance(each, CodeType) else repr(each) for each in constants]
    return f"{code.co_code.hex()} {code.co_names} {shown}"


def _definitions(file: str | None) -> dict[str, str]:
    """The source of the assignments to each variable of the module in a file."""
    try:
        path = Path(file or "")
        return _assignments(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, SyntaxError):
        return {}


@lru_cache(maxsize=64)
def _assignments(path: Path, changed: int) -> dict[str, str]:
    text, found = path.read_text(encoding="utf-8"), dict[str, str]()
    for statement in ast.parse(text).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        for name in (
            each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name)
        ):
            found[name] = found.get(name, "") + (ast.get_source_segment(text, statement) or "")
    return found


def _is_library(module: str) -> bool:
    """Whether a module is Python's own or was installed."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if loaded is None or file is None:
        return loaded is not None and module not in ("__main__", "__mp_main__")
    return not _LIBRARY_FOLDERS.isdisjoint(each.name for each in Path(file).parents)
