"""Values of options: text to devices, attacks, threats and options of training methods."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inoculate.core.errors import InputError
from inoculate.data.preprocessing import Preprocessing, parse_range, parse_size

if TYPE_CHECKING:
    from inoculate.core.threat import Threat
    from inoculate.data.dataset import Dataset
    from inoculate.evaluation.spatial import Movements


def pick_device(name: str) -> str:
    """The device called `name`, or for `auto` the fastest available. Raises `InputError` if it cannot be used."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device '{name}' cannot be used here: choose cpu or auto") from error
    return name


def parse_attacks(text: str) -> list[str]:
    """The attack names in a list separated by commas."""
    return [name.strip() for name in text.split(",")]


def parse_threats(norm: str, eps: str) -> list[Threat]:
    """A `Threat` for each eps in a list separated by commas, such as `0.01,8/255`; of several norms each has its own.

    Raises `InputError` for several norms and another number of eps.
    """
    from inoculate.core.threat import Threat, parse_eps

    norms, sizes = [name.strip() for name in norm.split(",")], eps.split(",")
    norms = norms * len(sizes) if len(norms) == 1 else norms
    if len(norms) != len(sizes):
        raise InputError(
            f"{len(norms)} norms and {len(sizes)} eps: give each norm its eps, --norm linf,l2 --eps 8/255,0.5"
        )
    return [Threat(*pair) for pair in zip(norms, map(parse_eps, sizes), strict=True)]  # type: ignore[arg-type]


def parse_corruptions(kinds: str | None, severities: str) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """The kinds and severities that `--corruptions` and `--severity` (such as `1-3,5`) name; None without kinds."""
    from inoculate.data.corruptions.corrupt import corruption_kinds, require_severities

    found: list[int] = []
    for part in severities.split(","):
        ends = re.fullmatch(r"\s*([0-9]+)(?:\s*-\s*([0-9]+))?\s*", part)
        if not ends:
            raise InputError(f"severity '{severities}' is not understood: write it like 3, 1,5 or 1-5")
        first, last = require_severities([int(ends[1])]), require_severities([int(ends[2] or ends[1])])
        found += range(first[0], last[0] + 1)
    chosen = require_severities(found)
    return None if kinds is None else (corruption_kinds([kind.strip() for kind in kinds.split(",")]), chosen)


def parse_movements(text: str | None) -> Movements | None:
    """The limits that `--spatial` names, degrees and pixels (`30,3`) or a share of the shorter side (`30,10%`)."""
    from inoculate.evaluation.spatial import Movements

    if text is None:
        return None
    limits = re.fullmatch(r"\s*([0-9]+\.?[0-9]*)\s*,\s*([0-9]+\.?[0-9]*%?)\s*", text)
    if not limits:
        raise InputError(f"movements '{text}' are not understood: write degrees and pixels, like 30,3")
    return Movements(float(limits[1]), limits[2])


def masked(threats: list[Threat], mask: str | None, images: Dataset) -> list[Threat]:
    """The threats under the mask that `--mask` names, which fits the images."""
    from inoculate.data.masks import read_mask

    found = None if mask is None else read_mask(mask, images)
    return threats if found is None else [replace(threat, mask=found) for threat in threats]


def parse_preprocessing(*, image_size: str | None, value_range: str | None, **others: Any) -> Preprocessing:
    """The options of the command line that say how images are read, as one value."""
    return Preprocessing(
        image_size=None if image_size is None else parse_size(image_size),
        value_range=None if value_range is None else parse_range(value_range),
        **others,
    )


def parse_adaptation(**options: Any) -> dict[str, Any]:
    """The options of attacks that were given; the number of a target class as a number."""
    if re.fullmatch(r"[0-9]+", str(options["target"])):
        options["target"] = int(options["target"])
    return {name: value for name, value in options.items() if value is not None}


def parse_method_options(texts: list[str] | None) -> dict[str, Any]:
    """Options such as `["steps=7", "own=false"]` as numbers and truth values; raises `InputError` for anything else."""
    found: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"option '{text}' is not understood: write it like steps=7")
        found[name.strip()] = _value(value.strip(), text)
    return found


def _value(value: str, text: str) -> bool | int | float:
    from inoculate.core.threat import parse_eps

    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    if re.fullmatch(r"[+-]?[0-9]+", value):
        return int(value)
    try:
        return parse_eps(value)
    except InputError:
        raise InputError(f"option '{text}': {value!r} is neither a number nor true or false") from None
