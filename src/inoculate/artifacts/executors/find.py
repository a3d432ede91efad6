"""Executors by name."""

from __future__ import annotations

from inoculate.artifacts.executors.base import Executor, Local
from inoculate.artifacts.executors.processes import Processes
from inoculate.core.errors import InputError

FORMS = "local, processes, processes:4, ray or ray:ADDRESS"


def find_executor(executor: str | Executor) -> Executor:
    """The executor of a name: `local`, `processes:N`, `ray` or `ray:ADDRESS`; an executor is returned as it is.

    Raises `InputError` for another name, and where Ray is asked for and not installed.
    """
    if not isinstance(executor, str):
        if not callable(getattr(executor, "open", None)):
            raise InputError(f"executor {executor!r} is none: give {FORMS}")
        return executor
    name, colon, rest = executor.partition(":")
    if executor == "local":
        return Local()
    if name == "processes" and (not colon or (rest.isdecimal() and int(rest) > 0)):
        return Processes(int(rest) if colon else None)
    if name == "ray" and (not colon or rest):
        from inoculate.artifacts.executors.ray import Ray

        return Ray(rest or None)
    raise InputError(f"executor '{executor}' is not understood: give {FORMS}")
