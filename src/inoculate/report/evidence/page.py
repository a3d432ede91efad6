"""The evidence as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inoculate.report.formatting import attack_name, norm_name
from inoculate.report.html.environment import html_environment

TEMPLATES = Path(__file__).with_name("templates")


def render(evidence: Mapping[str, Any]) -> str:
    """The page's HTML; the same evidence gives the same page."""
    environment = html_environment(TEMPLATES)
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    environment.filters["name"] = _name
    environment.filters["plain"] = _plain
    environment.filters["last_part"] = _last_part
    rows = {row["id"]: row for row in evidence["measurements"]}
    return environment.get_template("evidence.html").render(e=evidence, rows=rows)


def _name(row: Mapping[str, Any]) -> str:
    """What was done to the images."""
    if row["attack"] == "none":
        return "clean"
    if row["norm"] == "corruption":
        return (
            f"{row['attack'].replace('_', ' ')}, severity {row['severity']}"
            if row.get("severity")
            else "corruptions, mean"
        )
    if row["norm"] == "spatial":
        return "rotations and shifts"
    if row.get("threats"):
        return f"{attack_name(row['attack'])}, worst of {row['threats']}"
    return f"{attack_name(row['attack'])}, {norm_name(row['norm'])} {row['eps']:.4g}"


def _last_part(model: str) -> str:
    """The name of a model without the folders of its path."""
    return model.rstrip("/").rpartition("/")[2] or model


def _plain(value: Any) -> str:
    """Settings on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
