"""How pages are made from templates: all text is escaped."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

NO_BREAK = "\N{NO-BREAK SPACE}"


def html_environment(folder: Path) -> jinja2.Environment:
    """The environment of the HTML templates in a folder, for the caller to add filters and tests to."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["unbroken"] = unbroken
    return environment


def unbroken(text: str) -> str:
    """Text in which no line ends between a number and its unit, nor inside an interval."""
    whole = re.sub(r"\[[-+\d., ]+\]", lambda found: found[0].replace(" ", NO_BREAK), text)
    return re.sub(r"(?<=\d) (?=%|points\b)|(?<=%) (?=\[)|(?<=\beps) (?=\d)", NO_BREAK, whole)
