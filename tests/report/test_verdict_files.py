"""Verdicts as SARIF and JUnit: the properties and values that the standards allow, and every outcome in them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from inoculate.core.verdict import Outcome, Verdict
from inoculate.report.junit import to_junit, write_junit
from inoculate.report.sarif import to_sarif, write_sarif

VERDICT = Verdict(
    (
        Outcome("clean>=0.9", "clean-accuracy", True, "clean: accuracy 95.0%", {"value": 0.95, "hidden": None}),
        Outcome("pgd@8/255>=0.5", "robust-accuracy", False, 'pgd: <35.0%> & "more"\x00\x1b[31m', {"n": 20}),
        Outcome("certified@0.1>=0.5", "certified-accuracy", False, "not measured"),
        Outcome("checks", "checks", True, "checks: 2 of 2 passed"),
        Outcome("pgd linf eps 0.1", "no-regression", True, "-"),
    )
)
# Of sarif-schema-2.1.0 (OASIS): properties of the objects that are written, those that are required, and values.
ALLOWED = {
    "log": ({"$schema", "version", "runs"}, {"version", "runs"}),
    "run": ({"tool", "columnKind", "results"}, {"tool"}),
    "driver": ({"name", "version", "rules"}, {"name"}),
    "rule": ({"id", "name", "shortDescription", "fullDescription", "defaultConfiguration"}, {"id"}),
    "result": (
        {"ruleId", "ruleIndex", "kind", "level", "message", "locations", "partialFingerprints", "properties"},
        {"message"},
    ),
    "location": ({"physicalLocation", "logicalLocations"}, set()),
}
LEVELS, KINDS = (
    {"none", "note", "warning", "error"},
    {"notApplicable", "pass", "fail", "review", "open", "informational"},
)


def has_only(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    allowed, required = ALLOWED[kind]
    assert required <= set(value) <= allowed, kind
    return value


def test_sarif_holds_only_what_the_standard_allows() -> None:
    log = has_only("log", json.loads(json.dumps(to_sarif(VERDICT, "a b/model.onnx"))))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = has_only("driver", has_only("run", run)["tool"]["driver"])["rules"]
    for rule in rules:
        has_only("rule", rule)
    for result, outcome in zip(run["results"], VERDICT.outcomes, strict=True):
        has_only("result", result)
        assert result["level"] in LEVELS
        assert result["kind"] in KINDS
        assert result["level"] == "none" or result["kind"] == "fail", "only failures have a level"
        assert (result["kind"] == "pass") == outcome.met
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == outcome.rule
        assert result["message"]["text"] == outcome.sentence
        (place,) = result["locations"]
        physical = has_only("location", place)["physicalLocation"]
        assert physical == {"artifactLocation": {"uri": "a%20b/model.onnx"}, "region": {"startLine": 1}}


def test_sarif_validates_against_the_schema_of_oasis(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = os.environ.get("SARIF_SCHEMA")
    if not schema:
        pytest.skip("SARIF_SCHEMA does not name a copy of sarif-schema-2.1.0.json")
    for about in ("model", "a b/model.onnx", tmp_path / "x.json"):
        for verdict in (VERDICT, Verdict(())):
            log = json.loads(write_sarif(verdict, tmp_path / "gate.sarif", about).read_text())
            jsonschema.validate(log, json.loads(Path(schema).read_text(encoding="utf-8")))


def test_sarif_is_the_same_each_time_and_names_files_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = (write_sarif(VERDICT, tmp_path / name, tmp_path / "out" / "results.json") for name in ("a", "b"))
    assert one.read_bytes() == other.read_bytes()
    assert to_sarif(VERDICT, tmp_path / "out" / "results.json") == to_sarif(VERDICT, "out/results.json")


def test_junit_counts_and_escapes(tmp_path: Path) -> None:
    root = ElementTree.parse(write_junit(VERDICT, tmp_path / "gate.xml", "m on d\x07")).getroot()
    (suite,) = root
    assert (suite.tag, suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("testsuite", "5", "2", "0")
    assert [case.get("name") for case in suite] == [outcome.name for outcome in VERDICT.outcomes]
    failures = [case.find("failure") for case in suite]
    assert [failure is not None for failure in failures] == [not outcome.met for outcome in VERDICT.outcomes]
    assert failures[1] is not None
    assert failures[1].get("message") == 'pgd: <35.0%> & "more"��[31m'
    assert to_junit(VERDICT) == to_junit(VERDICT)
