"""Small figures for the page, as SVG that takes the page's colours; each may be kept as a PNG as well."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inoculate.artifacts.files import write_file
from inoculate.report.figures import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, RULE = "#1c1c1e", "#e4e4e4"
SIZE = (3.7, 2.75)  # inches; on the page 355 × 264 pixels, so that it can be read on a telephone
_LOOK: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "axes.titlesize": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched, and takes the page's font
    "svg.hashsalt": "inoculate",
}


@dataclass(frozen=True)
class Picture:
    """One figure: what it shows in a few words, the same for those who cannot see it, and the drawing."""

    name: str
    title: str
    alt: str
    svg: str


def draw(
    name: str,
    title: str,
    alt: str,
    plot: Callable[[Axes], object],
    keep: Path | None = None,
    size: tuple[float, float] = SIZE,
    left: float = 0.74,
) -> Picture:
    """Draw with `plot(axes)`; with a folder `keep`, write `<name>.png` there too. `left`: the margin in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=size)
        width, height = size  # fixed margins: to fit them to the labels would take as long as to draw
        plot(figure.add_axes((left / width, 0.55 / height, 1 - (left + 0.2) / width, 1 - 0.65 / height)))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        if keep is not None:
            write_file(keep / f"{name}.png", lambda stream: figure.savefig(stream, format="png", dpi=150))
    return Picture(name, title, alt, themed(text.getvalue(), name, alt))


def themed(svg: str, name: str, alt: str) -> str:
    """Matplotlib's SVG for the inside of a page: its colours and fonts become the page's, its ids its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r"font: (bold )?([\d.]+)px [^;\"]+", r"font: \1\2px var(--sans)", body)
    for color, variable in {INK: "currentColor", RULE: "var(--rule)", **COLORS}.items():
        body = re.sub(re.escape(color), variable, body, flags=re.IGNORECASE)
    for found in sorted(set(re.findall(r'id="([^"]+)"', body)), key=len, reverse=True):
        body = body.replace(f'id="{found}"', f'id="{name}-{found}"')
        body = body.replace(f"#{found})", f"#{name}-{found})").replace(f'"#{found}"', f'"#{name}-{found}"')
    size = re.search(r'viewBox="([^"]+)"', body)
    head = f'<svg role="img" aria-label="{_quoted(alt)}" viewBox="{size[1] if size else "0 0 266 198"}">'
    return head + re.sub(r"\s*\n\s*", " ", body[body.index(">") + 1 :])


def box(axes: Axes, groups: Sequence[tuple[str, Sequence[float], str]]) -> None:
    """A horizontal box of quartiles per group (label, values, colour), whiskers from the 5th to the 95th percentile."""
    places = range(len(groups), 0, -1)
    drawn = axes.boxplot(
        [list(values) or [float("nan")] for _, values, _ in groups],
        positions=list(places), orientation="horizontal", widths=0.55, whis=(5, 95), showfliers=False,
        patch_artist=True, medianprops={"color": INK, "lw": 1.6},
    )  # fmt: skip
    for number, (_, _, color) in enumerate(groups):
        drawn["boxes"][number].set(facecolor=color, alpha=0.55, edgecolor=color)
        for line in (*drawn["whiskers"][2 * number : 2 * number + 2], *drawn["caps"][2 * number : 2 * number + 2]):
            line.set(color=color)
    axes.set_yticks(list(places), [label for label, _, _ in groups])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(left=0)
    axes.locator_params(axis="x", nbins=5)
    axes.grid(axis="x", color=RULE, lw=0.8, zorder=0)


def plainly_log(axes: Axes, which: str) -> None:
    """A logarithmic axis with plain numbers: 0.01, 0.02, 0.05."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
