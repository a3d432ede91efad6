"""The threat model: which perturbations count. The only file that branches on the norm."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from inoculate.core import _l0 as l0
from inoculate.core.errors import InputError
from inoculate.core.mask import Mask
from inoculate.core.options import is_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from inoculate.core.rng import Draws

Norm = Literal["linf", "l2", "l1", "l0"]


@dataclass(frozen=True)
class Threat:
    """The threat model: all images within distance `eps` of the original in `norm`, inside the valid range.

    Options:
        norm: `linf`, `l2` or `l1`, over all values of an image; `l0` counts its pixels that change, in any channel.
        eps: the largest distance, in pixel units of [0, 1] images: 8/255, not 8. In L0 a whole number of pixels.
        low: the lowest valid pixel value.
        high: the highest valid pixel value.
        mask: the pixels that may change: a `Mask`, or what `Mask.of` takes (H×W, C×H×W, or N×C×H×W with one for each
            of N images); None for all.

    Raises `InputError` for an unknown norm, an empty range, an eps that is negative, not finite, (L∞) larger than
    the whole range or (L0) not whole, and what is no mask.
    """

    norm: Norm = "linf"
    eps: float = 8 / 255
    low: float = 0.0
    high: float = 1.0
    mask: Mask | None = None

    def __post_init__(self) -> None:
        if self.mask is not None and not isinstance(self.mask, Mask):
            object.__setattr__(self, "mask", Mask.of(self.mask))
        if self.norm not in get_args(Norm):
            raise InputError(f"norm '{self.norm}' is unknown: use one of {', '.join(get_args(Norm))}")
        if not self.low < self.high:
            raise InputError(f"valid range [{self.low}, {self.high}] is empty: low must be below high")
        if not (is_number(self.eps) and math.isfinite(self.eps) and self.eps >= 0):
            raise InputError(f"eps {self.eps!r} is not a distance: give a number of at least 0, such as 8/255")
        if self.norm == "linf" and self.eps > self.high - self.low:
            raise InputError(
                f"eps {self.eps:g} is larger than the whole pixel range [{self.low:g}, {self.high:g}]: "
                f"eps is in units of [0, 1] images, did you mean {self.eps:g}/255?"
            )
        if self.norm == "l0" and self.eps != int(self.eps):
            raise InputError(f"eps {self.eps:g} in l0 is not a number of pixels: give a whole number such as 10")

    def select(self, rows: Sequence[int] | Tensor) -> Threat:
        """The threat for some of the images: where each has a mask of its own, with the masks of these."""
        return self if self.mask is None else replace(self, mask=self.mask.select(rows))

    def changeable(self, x: Tensor) -> Tensor | None:
        """Where each of the images `x` (B×C×H×W) may change: bool, B×1×H×W or B×C×H×W; None for everywhere.

        Raises `InputError` where the mask does not fit the images.
        """
        return None if self.mask is None else self.mask.on(x)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, from which `from_dict` makes it again; no mask is left out."""
        fields = asdict(replace(self, mask=None))
        fields.pop("mask")
        return fields if self.mask is None else fields | {"mask": self.mask.as_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Threat:
        """The threat that `as_dict` described."""
        mask = values.get("mask")
        return cls(**{**values, "mask": None if mask is None else Mask.from_dict(mask)})


def require_threats(threats: object) -> tuple[Threat, ...]:
    """`threats` as a tuple; raises `InputError` for anything but a sequence of `Threat`."""
    if isinstance(threats, Threat):
        raise InputError("threats is a single Threat: give a list, [threat]")
    if isinstance(threats, list | tuple) and all(isinstance(each, Threat) for each in threats):
        return tuple(threats)
    raise InputError(f"threats {threats!r} are no threats: give a list such as [Threat('linf', 8 / 255)]")


def require_threat(threat: object) -> Threat:
    """`threat`; raises `InputError` for anything else than a `Threat`."""
    if isinstance(threat, Threat):
        return threat
    raise InputError(f"threat {threat!r} is none: give one such as Threat('linf', 8 / 255)")


def require_training_threat(threat: object) -> Threat:
    """`threat`; raises `InputError` for what a network cannot be trained against: eps 0, and L0."""
    known = require_threat(threat)
    if known.eps == 0:
        raise InputError("eps 0 is no attack: give a size such as 8/255")
    if known.norm == "l0":
        raise InputError("no training method knows l0: train against linf, l2 or l1, and measure in l0 with evaluate")
    return known


def refuse_mask(threat: Threat, what: str) -> None:
    """Raise `InputError` where `threat` has a mask, for `what` knows none."""
    if threat.mask is not None:
        raise InputError(f"{what} knows no mask of pixels that may change: leave it out, or evaluate under it")


def largest_threat(threats: Sequence[Threat]) -> Threat:
    """The threat of largest eps among those in the norm of the first: eps of two norms cannot be compared."""
    return max((threat for threat in threats if threat.norm == threats[0].norm), key=lambda threat: threat.eps)


def large_eps_warning(threat: Threat, shape: tuple[int, ...]) -> str | None:
    """A warning for an eps in L2, L1 or L0 that is suspiciously large for images of `shape` (C, H, W), else None."""
    widest = range_diameter(threat, shape)
    if threat.norm == "linf" or threat.eps <= 0.15 * widest:
        return None
    size = "×".join(map(str, shape))
    if threat.norm == "l0":
        return (
            f"eps {threat.eps:g} in l0 is {threat.eps / widest:.0%} of the pixels of a {size} image: were fewer meant?"
        )
    return (
        f"eps {threat.eps:g} in {threat.norm} is {threat.eps / widest:.0%} of the way from an all-black to an "
        f"all-white {size} image: eps is in units of [0, 1], was {threat.eps:g}/255 meant?"
    )


def parse_eps(text: str) -> float:
    """`"0.03"` or `"8/255"` as a number; raises `InputError` for anything else (nothing is ever evaluated)."""
    match = re.fullmatch(r"\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*(?:/\s*([\d.]+)\s*)?", text, re.IGNORECASE)
    try:
        if not match:
            raise ValueError
        return float(match[1]) / float(match[2] or 1)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"eps '{text}' is not a number: write it like 0.03 or 8/255") from None


def project(x_adv: Tensor, x: Tensor, threat: Threat, radius: Tensor | None = None) -> Tensor:
    """The nearest allowed image: into the ball around `x`, then into the valid range. All B×C×H×W.

    The second step never leaves the ball, because `x` itself lies in the range. For L∞ and L1 the result is the nearest
    point of both together. In L0 those pixels keep their change whose undoing would cost most within the range. A pixel
    that is that of `x` stays as it is, so that a step inside a mask ends inside. `radius` (B) gives each image an eps
    of its own.
    """
    import torch

    if threat.norm == "l0":
        return l0.project(x_adv, x, threat, threat.eps if radius is None else radius.floor())
    eps = threat.eps if radius is None else per_sample(radius, x)
    if threat.norm == "linf":
        inside = x_adv.clamp(x - eps, x + eps)
    elif threat.norm == "l2":
        delta = x_adv - x
        # summed in fp32, large images leave the ball; Apple's GPUs have nothing finer
        finest = torch.float32 if x.device.type == "mps" else torch.float64
        length = per_sample(delta.flatten(1).norm(dim=1, dtype=finest), x)
        inside = x + delta * (eps / length.clamp_min(1e-12)).clamp_max(1).to(x.dtype)
    else:
        room = torch.where(x_adv > x, threat.high - x, x - threat.low).flatten(1)
        delta = _onto_l1_ball((x_adv - x).flatten(1), room, threat.eps if radius is None else radius[:, None]).view_as(
            x
        )
        inside = x + delta
        further = (inside.double() - x.double()).abs() > delta.double().abs()  # thousands of pixels add up
        inside = torch.where(further, torch.nextafter(inside, x), inside)
    return inside.clamp(threat.low, threat.high)


def keep_outside(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """`x_adv` where the mask lets pixels change, `x` elsewhere; both B×C×H×W, with the masks of these images."""
    changeable = threat.changeable(x)
    return x_adv if changeable is None else x_adv.where(changeable, x)


def steepest_direction(gradient: Tensor, norm: Norm) -> Tensor:
    """Per sample, the direction in which `step_along` raises a linear function with this gradient most.

    L∞: the sign. L2: the normalised gradient. L1, L0: the gradient with a largest entry of 1. 0 for a gradient of 0.
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        length = gradient.flatten(1).norm(dim=1)
        return gradient / per_sample(length, gradient).clamp_min(1e-30)
    return gradient / per_sample(gradient.flatten(1).abs().amax(dim=1), gradient).clamp_min(1e-30)


def step_along(x_adv: Tensor, x: Tensor, direction: Tensor, length: float, threat: Threat) -> Tensor:
    """A step of this length from `x_adv` along a `direction` (all B×C×H×W), to be projected into the ball at `x`.

    L∞, L2: `length · direction`. L1: the pixel of the largest entry moves as far as the valid range allows,
    then the next one, until the length is used up. Where the ball has no space for more, only pixels move that gain
    more than one that was moved before. L0: see `_l0.step_along`; the `length`, rounded up, is a number of pixels.
    """
    import torch

    if threat.norm == "l0":
        return l0.step_along(x_adv, x, direction, math.ceil(length - 1e-9), threat)
    if threat.norm != "l1":
        return length * direction
    way, at, delta = direction.flatten(1), x_adv.flatten(1), (x_adv - x).flatten(1)
    gain = way.abs()
    room = torch.where(way > 0, threat.high - at, at - threat.low).clamp_min(0) * (gain > 0)
    worst = torch.where(delta != 0, way * delta.sign(), torch.inf).amin(dim=1, keepdim=True)
    space = (threat.eps - delta.abs().sum(dim=1, keepdim=True)).clamp(0, length)
    order = gain.argsort(dim=1, descending=True)
    ordered = room.gather(1, order)
    budget = torch.where(gain.gather(1, order) > worst, length, space)
    size = ordered.minimum((budget - (ordered.cumsum(dim=1) - ordered)).clamp_min(0))
    return (way.sign() * torch.zeros_like(room).scatter_(1, order, size)).view_as(x)


def dual_norm(gradient: Tensor, norm: Norm) -> Tensor:
    """The dual norm of the gradient, per sample (B): how far a unit step in `norm` raises a linear function.

    In L0, where the values of a pixel are free, a unit step moves those of one pixel by 1.
    """
    if norm == "l0":
        return l0.pixel_sums(gradient.abs()).amax(dim=1)
    order = {"linf": 1, "l2": 2, "l1": math.inf}[norm]
    lengths: Tensor = gradient.flatten(1).norm(p=order, dim=1)
    return lengths


def first_order_distance(rise: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
    """The distance in `norm` at which a linear function with this gradient has risen by `rise` (B), per sample (B).

    Negative for a negative rise. In L0 the fewest pixels, each of whose values moves by at most 1; infinity where all
    of them are not enough.
    """
    return l0.pixels_to_rise(rise, gradient) if norm == "l0" else rise / dual_norm(gradient, norm)


def sample(x: Tensor, threat: Threat, draws: Draws) -> Tensor:
    """A random allowed image: uniform in the ball around `x`, then projected into the valid range. B×C×H×W.

    In L0 random pixels, as many as eps allows, get uniform values of the range. Under a mask the ball is that of the
    pixels that may change.
    """
    shape, changeable = x.shape[1:], threat.changeable(x)
    if threat.norm == "l0":
        return keep_outside(l0.sample(x, threat, draws), x, threat)
    if threat.norm == "linf":
        delta = (draws.uniform(*shape) * 2 - 1) * threat.eps
    else:
        # A uniform direction on the unit sphere of the norm (Gaussian, or signed exponential), at radius u^(1/d).
        noise = draws.normal(*shape)
        if threat.norm == "l1":
            noise = -(1 - draws.uniform(*shape)).clamp_min(1e-12).log() * noise.sign()
        noise = noise if changeable is None else noise * changeable
        length = noise.flatten(1).norm(p=2 if threat.norm == "l2" else 1, dim=1).clamp_min(1e-12)
        count = shape.numel() if changeable is None else changeable.expand_as(x).flatten(1).sum(dim=1)
        radius = draws.uniform() ** (1 / count) * threat.eps
        delta = noise * per_sample(radius / length, x)
    return keep_outside(project(x + delta.to(x.dtype), x, threat), x, threat)


def step_to_hyperplane(x: Tensor, normal: Tensor, rise: Tensor, threat: Threat) -> Tensor:
    """The shortest step in the threat's norm (not L0), within the valid range, by which `normal` · x grows by `rise`.

    x, normal: B×C×H×W. rise: B, of either sign. Returns the step, B×C×H×W: onto the hyperplane
    {z: `normal` · (z − x) = `rise`}, or where the range does not reach it, into the corner of the range nearest to it
    (Croce and Hein 2020b, section 2.1).
    """
    import torch

    way = normal.flatten(1) * rise.sign()[:, None]
    weight, sign = way.abs(), way.sign()
    middle, half = (threat.high + threat.low) / 2, (threat.high - threat.low) / 2
    room = (half + sign * (middle - x.flatten(1))).clamp_min(0)  # to the end of the range that lies ahead
    if threat.norm == "l1":  # all the room of the steepest pixels, and a part of one more
        order = weight.argsort(dim=1, descending=True)
        gains = (weight * room).gather(1, order)
        missing = (rise.abs()[:, None] - (gains.cumsum(dim=1) - gains)).clamp_min(0)
        part = (missing / gains.clamp_min(1e-30)).clamp_max(1)
        size = room * torch.zeros_like(room).scatter_(1, order, part)
    else:
        pace = {"linf": torch.ones_like(weight), "l2": weight}[threat.norm]
        size = _scale_within_room(rise.abs(), weight, pace, room)
    return (sign * size).view_as(x)


def _scale_within_room(goal: Tensor, weight: Tensor, pace: Tensor, room: Tensor) -> Tensor:
    """min(λ · `pace`, `room`) per pixel (B×D), with λ such that Σ `weight` · size = `goal` per row (B).

    The sum is a concave, piecewise linear function of the multiplier λ: Newton's method reaches the goal from below in
    a few steps.
    """
    # In arithmetic, as torch is several times slower with masks on a processor.
    product = weight * pace * room.sign()
    scale = goal / product.sum(dim=1).clamp_min(1e-30)
    for _ in range(12):
        wanted = scale[:, None] * pace
        missing = goal - (weight * wanted.minimum(room)).sum(dim=1)
        short = missing > 1e-5 * goal  # a row that is there stays as it is, however long the others of its batch take
        if not goal.is_cuda and not bool(short.any()):  # to ask would stop a GPU
            break
        slope = (product * (room - wanted).clamp_min(0).sign()).sum(dim=1)
        scale = scale + missing / slope.clamp_min(1e-30) * (short & (slope > 0))
    return (scale[:, None] * pace).minimum(room)


def distance(x_adv: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """The distance between the images in `norm`, per sample (B), in pixel units; in L0 the number of pixels."""
    if norm == "l0":
        return l0.distance(x_adv, x)
    delta = (x_adv - x).flatten(1)
    if norm == "l1":
        return delta.abs().sum(dim=1)  # in pairs: `norm` adds up one by one, and thousands of pixels lose digits
    return delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)


def range_diameter(threat: Threat, shape: Sequence[int]) -> float:
    """The largest distance that two images of this shape (C, H, W) can have: from all `low` to all `high`."""
    values, width = math.prod(shape), threat.high - threat.low
    sizes = {"linf": width, "l2": width * math.sqrt(values), "l1": width * values, "l0": values // shape[0]}
    return float(sizes[threat.norm])


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Shape B into B×1×1×1, to multiply with images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _onto_l1_ball(delta: Tensor, room: Tensor, eps: float | Tensor) -> Tensor:
    """What, cut off at `room`, is the nearest point of the L1 ball within the valid range, per row (all B×D).

    Soft thresholding: sign(δ) · max(|δ| − t, 0) with the least t ≥ 0 at which min(max(|δ| − t, 0), room) adds up to at
    most `eps`, a number or B×1 (Croce and Hein 2021, section 2). An entry shrinks for t between |δ| − room and |δ|.
    """
    import torch

    finest = torch.float32 if delta.device.type == "mps" else torch.float64  # as in `project`
    size, room = delta.abs().to(finest), room.to(finest)
    knots, order = torch.cat([(size - room).clamp_min(0), size], dim=1).sort(dim=1)
    shrinking = torch.where(order < delta.shape[1], 1, -1).cumsum(dim=1)  # entries that do so from each knot on
    shrunk = (shrinking[:, :-1] * knots.diff(dim=1)).cumsum(dim=1)
    excess = size.minimum(room).sum(dim=1, keepdim=True) - eps
    excess = torch.cat([excess, excess - shrunk], dim=1)  # at each knot
    above = (excess > 0).sum(dim=1, keepdim=True)
    last = (above - 1).clamp_min(0)
    exact = knots.gather(1, last) + excess.gather(1, last) / shrinking.gather(1, last).clamp_min(1)
    exact = torch.where(above > 0, exact, 0)
    threshold = exact.to(delta.dtype)
    threshold = torch.where(threshold < exact, torch.nextafter(threshold, threshold + 1), threshold)
    return delta.sign() * (delta.abs() - threshold).clamp_min(0)
