"""Small figures for the page, as SVG in the page's colours and font; each may be kept as a PNG as well."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inoculate.artifacts.files import write_file
from inoculate.report.plots.style import INK, PAGE_COLORS, PAGE_RC, RULE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (3.7, 2.75)  # inches; on the page 355 × 264 pixels, so that it can be read on a telephone


@dataclass(frozen=True)
class Caption:
    """A figure in words: its file name without ending, its title, and the text for readers who cannot see it."""

    name: str
    title: str
    alt: str


@dataclass(frozen=True)
class SvgFigure:
    """A figure of the page."""

    caption: Caption
    svg: str


def draw(
    caption: Caption,
    plot: Callable[[Axes], object],
    folder: Path | None = None,
    *,
    size: tuple[float, float] = SIZE,
    left: float = 0.74,
) -> SvgFigure:
    """Draw with `plot(axes)`; with a `folder`, write `<name>.png` there too. `size` and the margin `left` in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(PAGE_RC):
        figure = Figure(figsize=size)
        width, height = size  # fixed margins: fitting them to the labels would take as long as drawing
        plot(figure.add_axes((left / width, 0.55 / height, 1 - (left + 0.2) / width, 1 - 0.65 / height)))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        if folder is not None:
            path = folder / f"{caption.name}.png"
            write_file(path, lambda stream: figure.savefig(stream, format="png", dpi=150))
    return SvgFigure(caption, page_svg(text.getvalue(), caption.name, caption.alt))


def page_svg(svg: str, name: str, alt: str) -> str:
    """Matplotlib's SVG for the inside of a page: the page's colours and font, ids that start with `name`."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r"font: (bold )?([\d.]+)px [^;\"]+", r"font: \1\2px var(--sans)", body)
    for color, variable in {INK: "currentColor", RULE: "var(--rule)", **PAGE_COLORS}.items():
        body = re.sub(re.escape(color), variable, body, flags=re.IGNORECASE)
    for found in sorted(set(re.findall(r'id="([^"]+)"', body)), key=len, reverse=True):
        body = body.replace(f'id="{found}"', f'id="{name}-{found}"')
        body = body.replace(f"#{found})", f"#{name}-{found})").replace(f'"#{found}"', f'"#{name}-{found}"')
    size = re.search(r'viewBox="([^"]+)"', body)
    head = f'<svg role="img" aria-label="{_quoted(alt)}" viewBox="{size[1] if size else "0 0 266 198"}">'
    return head + re.sub(r"\s*\n\s*", " ", body[body.index(">") + 1 :])


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
