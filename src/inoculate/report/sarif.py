"""A verdict as SARIF 2.1.0, which code hosts show beside a change."""

from __future__ import annotations

from os import PathLike
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from inoculate import __version__
from inoculate.artifacts.files import write_json
from inoculate.core.verdict import Outcome, Verdict

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_RULES = {
    "clean-accuracy": ("Clean accuracy", "The accuracy on unchanged images reaches a required value."),
    "robust-accuracy": (
        "Robust accuracy",
        "The accuracy under an attack, or another change, reaches a required value.",
    ),
    "certified-accuracy": ("Certified accuracy", "The proven accuracy reaches a required value."),
    "checks": ("Trust checks", "No check of whether the numbers can be trusted failed."),
    "no-regression": ("No regression", "A model is not significantly less accurate than an earlier one."),
}


def write_sarif(verdict: Verdict, path: str | PathLike[str], about: str | PathLike[str] = "model") -> Path:
    """Write a verdict as SARIF 2.1.0 and return its path.

    Each requirement is a result: `fail` with level `error` where it is missed, else `pass`. `about` is the file that
    the results point at, such as the weights or the rows.
    """
    return write_json(Path(path), to_sarif(verdict, about))


def to_sarif(verdict: Verdict, about: str | PathLike[str] = "model") -> dict[str, Any]:
    """The SARIF log of a verdict, as JSON values."""
    used = list(dict.fromkeys(outcome.rule for outcome in verdict.outcomes))
    rules = [_rule(name) for name in used]
    results = [_result(outcome, used.index(outcome.rule), _uri(about)) for outcome in verdict.outcomes]
    driver = {"name": "inoculate", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(name: str) -> dict[str, Any]:
    title, text = _RULES[name]
    return {
        "id": name,
        "name": title.title().replace(" ", ""),
        "shortDescription": {"text": title},
        "fullDescription": {"text": text},
        "defaultConfiguration": {"level": "error"},
    }


def _result(outcome: Outcome, rule: int, uri: str) -> dict[str, Any]:
    location = {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}
    return {
        "ruleId": outcome.rule,
        "ruleIndex": rule,
        "kind": "pass" if outcome.met else "fail",
        "level": "none" if outcome.met else "error",
        "message": {"text": outcome.sentence},
        "locations": [{"physicalLocation": location, "logicalLocations": [{"fullyQualifiedName": outcome.name}]}],
        "partialFingerprints": {"requirement/v1": outcome.name},
        "properties": dict(outcome.facts),
    }


def _uri(about: str | PathLike[str]) -> str:
    """A relative URI where the file lies below the working directory."""
    path = PurePath(about)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())
