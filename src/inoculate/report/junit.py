"""A verdict as JUnit XML, which build servers show as tests."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from inoculate.artifacts.files import write_bytes
from inoculate.core.verdict import Verdict

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(verdict: Verdict, path: str | PathLike[str], suite: str = "inoculate") -> Path:
    """Write a verdict as JUnit XML, one test case for each requirement, and return its path."""
    return write_bytes(Path(path), to_junit(verdict, suite))


def to_junit(verdict: Verdict, suite: str = "inoculate") -> bytes:
    """The JUnit XML of a verdict."""
    counts: dict[str, Any] = {
        "tests": str(len(verdict.outcomes)),
        "failures": str(len(verdict.missed)),
        "errors": "0",
        "skipped": "0",
    }
    root = ElementTree.Element("testsuites", name=_text(suite), **counts)
    group = ElementTree.SubElement(root, "testsuite", name=_text(suite), **counts)
    for outcome in verdict.outcomes:
        case = ElementTree.SubElement(
            group, "testcase", classname=f"inoculate.{outcome.rule}", name=_text(outcome.name), time="0"
        )
        if not outcome.met:
            failure = ElementTree.SubElement(case, "failure", message=_text(outcome.sentence), type=outcome.rule)
            failure.text = _text(outcome.sentence)
        ElementTree.SubElement(case, "system-out").text = _text(outcome.sentence)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _text(text: str) -> str:
    """Text without the characters that XML cannot hold."""
    return _NOT_XML.sub("�", text)
