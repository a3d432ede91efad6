"""An answer as HTML for the page: a sentence, pictures and probabilities for each network. All text is escaped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inoculate.core.threat import Threat
from inoculate.playground.session import Answer, Outcome
from inoculate.report.formatting import attack_name, norm_name
from inoculate.report.html.environment import html_environment
from inoculate.report.html.images import attribution_map, data_uri, grad_cam_map

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).with_name("templates")
_ENLARGEMENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LISTED = 3  # classes before and after the attack
_VERDICTS = {"fooled": "fooled", "holds": "holds", "wrong before": "wrong without attack"}


@dataclass(frozen=True)
class Shown:
    """A picture of the page: what it shows, as caption and as alternative text, and a data URI; None while computed.

    key: how to read it and the one before it, in words.
    """

    caption: str
    alt: str
    uri: str | None
    key: str = ""


def render_answer(answer: Answer, attributions: bool = True) -> str:
    """The answer's HTML. Where `attributions` are wanted and not there yet, their places are kept free."""
    cards = [
        {
            "title": outcome.network,
            "kind": outcome.verdict.replace(" ", "-"),
            "verdict": _VERDICTS[outcome.verdict],
            "sentence": sentence(outcome),
            "pictures": _pictures(outcome, answer, attributions),
            "rows": _rows(outcome, answer.label is not None),
            "replayed": _replayed(outcome, answer),
            "notes": outcome.notes,
            "distance": f"{norm_name(answer.threat.norm)} distance {_size(answer.threat, outcome.distance)}",
        }
        for outcome in answer.outcomes
    ]
    about = answer.picture.name + (f", labelled {answer.label}" if answer.label is not None else ", without a label")
    attacked = f"{attack_name(answer.attack)}, {norm_name(answer.threat.norm)} eps {eps_words(answer.threat)}"
    template = _environment().get_template("answer.html")
    return template.render(about=about, attack=attacked, cards=cards, notes=answer.picture.notes)


def render_refusal(message: str) -> str:
    """One line that says what was refused and why."""
    return _environment().get_template("refusal.html").render(message=" ".join(message.split()))


def sentence(outcome: Outcome) -> str:
    """What the attack does to the prediction, in words."""
    before, after = (_guess(outcome, each) for each in (outcome.clean, outcome.attacked))
    if outcome.verdict == "wrong before":
        return f"Wrong without any attack: {before} instead of {outcome.classes[outcome.truth]}; attacked {after}."
    if outcome.verdict == "fooled":
        return f"{before} becomes {after}."
    return f"Still {after}, before the attack {_percent(float(outcome.clean[outcome.before]))}."


def eps_words(threat: Threat) -> str:
    """The threat's eps as people say it: 8/255 in L∞, else a number."""
    return _size(threat, threat.eps)


def enlargement(moved: NDArray[np.float32]) -> int:
    """The power of two by which the change of an image is drawn larger, so that it is seen and hardly clipped."""
    largest = float(np.abs(moved).max())
    return max((each for each in _ENLARGEMENTS if each * largest <= 0.55), default=1) if largest > 0 else 1


def _size(threat: Threat, value: float) -> str:
    return f"{255 * value:.3g}/255" if threat.norm == "linf" else f"{value:.3g}"


def _pictures(outcome: Outcome, answer: Answer, attributions: bool) -> list[Shown]:
    clean = answer.picture.pixels.permute(1, 2, 0).numpy()
    attacked = _bytes(255 * outcome.image)
    times = enlargement(outcome.moved)
    change = _bytes(127.5 + 255 * times * outcome.moved)
    before, after = outcome.classes[outcome.before], outcome.classes[outcome.after]
    shown = [
        Shown("original", f"the image before the attack, taken for {before}", data_uri(clean)),
        Shown("attacked", f"the image after the attack, taken for {after}", data_uri(attacked)),
        Shown(
            f"change ×{times}", f"what the attack changed, enlarged {times} times; grey is no change", data_uri(change)
        ),
    ]
    if not attributions or outcome.notes:
        return shown
    when = ("original", "attacked")
    paths: list[str | None] = [None, None]
    if outcome.attribution is not None:
        scaled = outcome.attribution / max(float(np.abs(outcome.attribution).max()), 1e-12)
        paths = [data_uri(each) for each in attribution_map((127 * scaled).round().astype(np.int8))]
    key = f"Blue pixels speak for {before}, orange ones against it (integrated gradients)."
    shown += [
        Shown(f"attribution, {each}", f"pixels for {before} in blue, against it in orange, {each} image", uri)
        for each, uri in zip(when, paths, strict=True)
    ]
    shown[-1] = replace(shown[-1], key=key)
    if outcome.grad_cam is not None:
        top = max(float(outcome.grad_cam.max()), 1e-12)
        for each, cam, image in zip(when, outcome.grad_cam, (clean, attacked), strict=True):
            uri = data_uri(grad_cam_map((255 * cam / top).round().astype(np.uint8), image))
            shown.append(Shown(f"Grad-CAM, {each}", f"where the network looks for {before}, {each} image", uri))
        shown[-1] = replace(shown[-1], key=f"Yellow is where the network looks for {before}.")
    return shown


def _rows(outcome: Outcome, labelled: bool) -> list[dict[str, Any]]:
    """The classes that matter, the likeliest first: probabilities before and after the attack."""
    best = {int(each) for p in (outcome.clean, outcome.attacked) for each in np.argsort(-p, kind="stable")[:_LISTED]}
    order = sorted(best | {outcome.truth}, key=lambda each: -max(outcome.clean[each], outcome.attacked[each]))
    return [
        {
            "name": outcome.classes[each],
            "truth": labelled and each == outcome.truth,
            "values": [(float(p[each]), _percent(float(p[each]))) for p in (outcome.clean, outcome.attacked)],
        }
        for each in order
    ]


def _replayed(outcome: Outcome, answer: Answer) -> str:
    if outcome.replayed is None:
        return ""
    return f"The image crafted {answer.outcomes[0].network.lower()} is taken for {_guess(outcome, outcome.replayed)}."


def _guess(outcome: Outcome, probabilities: NDArray[np.float32]) -> str:
    best = int(probabilities.argmax())
    return f"{outcome.classes[best]} ({_percent(float(probabilities[best]))})"


def _percent(value: float) -> str:
    """A probability in percent, with one decimal; 0 and 100 only where that is exact."""
    if 0 < value < 0.001:
        return "< 0.1 %"
    return f"{100 * value:.1f} %" if value < 0.9995 else "> 99.9 %" if value < 1 else "100 %"


def _bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = values.round().clip(0, 255).astype(np.uint8)
    return found


@cache
def _environment() -> jinja2.Environment:
    return html_environment(TEMPLATES)
