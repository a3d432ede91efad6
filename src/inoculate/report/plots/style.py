"""Colours, markers and labels of arms, the same in every figure and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

INK, RULE, GREY = "#1c1c1e", "#e4e4e4", "#8F8F8F"
# The colours of Okabe and Ito, which colour-blind readers can tell apart; every arm has its own marker as well.
_STYLES: dict[str, dict[str, Any]] = {
    "standard": {"color": "#D55E00", "marker": "o", "lw": 2.0},
    "augmented": {"color": "#0072B2", "marker": "s", "lw": 2.0},
    "transferred": {"color": "#009E73", "marker": "^", "lw": 2.4},
    "duplicates": {"color": "#5F5F5F", "marker": "", "lw": 1.2, "ls": (0, (5, 2))},
    "noise": {"color": GREY, "marker": "", "lw": 1.2, "ls": (0, (2, 1.5))},
}
_OTHERS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
METHOD = _OTHERS[2]
# The page has its own shade of each colour, for light and for dark.
PAGE_COLORS = {str(style["color"]): f"var(--{arm})" for arm, style in _STYLES.items()} | {
    color: f"var(--spare-{number})" for number, color in enumerate(_OTHERS)
}
_STYLES["before"] = _STYLES["standard"]
_LABELS = {
    "before": "before hardening",
    "standard": "standard training",
    "augmented": "augmentation alone",
    "transferred": "transfer training",
    "duplicates": "control: clean copies",
    "noise": "control: random noise",
}
_BASE: dict[Any, Any] = {"svg.hashsalt": "inoculate", "axes.spines.top": False, "axes.spines.right": False}
FILE_RC: dict[Any, Any] = {**_BASE, "font.family": "DejaVu Sans", "font.size": 10}
PAGE_RC: dict[Any, Any] = {
    **_BASE,
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "axes.titlesize": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",  # text stays text: it can be read aloud and searched, and takes the page's font
}


def style_of(arms: Sequence[str], arm: str) -> dict[str, Any]:
    """The line style of an arm: fixed for the known ones, for others by their place among `arms`."""
    if arm in _STYLES:
        return _STYLES[arm]
    others = [name for name in arms if name not in _STYLES]
    return {"color": _OTHERS[others.index(arm) % len(_OTHERS)], "marker": "D", "lw": 1.6}


def drawing_order(arms: Sequence[str]) -> list[str]:
    """The arms from back to front: those of the paper's argument last, on top."""
    front = [arm for arm in ("standard", "augmented", "transferred") if arm in arms]
    return [arm for arm in arms if arm not in front] + front


def page_color(arms: Sequence[str], arm: str) -> str:
    """The colour of an arm on the page, as CSS."""
    return PAGE_COLORS[str(style_of(arms, arm)["color"])]


class LegendEntry(NamedTuple):
    """An arm with its label and its colour on the page."""

    arm: str
    label: str
    color: str


def legend(arms: Sequence[str]) -> list[LegendEntry]:
    """Every arm shown, in the paper's order."""
    order = dict.fromkeys(arm for arm in (*_LABELS, *arms) if arm in arms)
    return [LegendEntry(arm, _LABELS.get(arm, arm), page_color(arms, arm)) for arm in order]
