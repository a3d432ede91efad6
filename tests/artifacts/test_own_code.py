"""Digests of a user's code."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import nn

import inoculate as ino
from inoculate.artifacts.own_code import code_of_class, digest_of
from inoculate.artifacts.versions import library_version


def module(text: str) -> dict[str, Any]:
    """The names of a module that was typed in."""
    names: dict[str, Any] = {"__name__": "typed_in"}
    exec(compile(text, "typed in", "exec"), names)
    return names


USUAL = (
    "def b(x): return x + 1\ndef a(x): return b(x)\nclass Base:\n    def go(self): return a(1)\nclass Own(Base): pass"
)
CHANGES = {
    "a called function": ("x + 1", "x - 1"),
    "a constant": ("x + 1", "x + 2"),
    "a base class": ("a(1)", "a(2)"),
    "a called name": ("return b(x)", "return abs(x)"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_is_called_changes_the_digest(change: str) -> None:
    usual, other = module(USUAL), module(USUAL.replace(*CHANGES[change]))
    assert code_of_class(usual["Own"]) == code_of_class(module(USUAL)["Own"])
    assert digest_of(usual["a"]) == digest_of(module(USUAL)["a"])
    assert code_of_class(usual["Own"]) != code_of_class(other["Own"])
    assert (digest_of(usual["a"]) == digest_of(other["a"])) == (change == "a base class")


def scaled(by: float) -> Callable[[float], float]:
    return lambda x: by * x


def plus(x: float, by: float) -> float:
    return x + by


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


def test_what_a_function_holds_counts() -> None:
    assert digest_of(scaled(2.0)) == digest_of(scaled(2.0)) != digest_of(scaled(3.0))
    halves = [digest_of(functools.partial(plus, by=by)) for by in (0.5, 0.5, 0.6)]
    assert halves[0] == halves[1] != halves[2]
    plain = FunctionType(plus.__code__, {})
    assert digest_of(plain) == digest_of(FunctionType(plus.__code__, {})), "a function of no module"
    assert digest_of(even) == digest_of(even) != digest_of(odd), "functions that call each other"


class Mine(nn.Linear):
    """A layer of the user's own, of a library's."""


def test_a_library_counts_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert code_of_class(nn.Linear) == library_version("torch")
    assert torch.__version__.partition("+")[0] in code_of_class(nn.Linear)
    assert code_of_class(ino.PGD) == code_of_class(dict) == ""
    assert code_of_class(collections.OrderedDict)
    before = code_of_class(Mine)
    monkeypatch.setattr("inoculate.artifacts.own_code.library_version", lambda name: f"{name} 99")
    assert code_of_class(Mine) != before
