"""How pages are made from templates: all text is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2


def html_environment(folder: Path) -> jinja2.Environment:
    """The environment of the HTML templates in a folder, for the caller to add filters and tests to."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
