"""Options that several commands share and that make up one value, such as how images are read."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

from inoculate.cli.options import ATTACK, DATA, topic_option
from inoculate.cli.parsers import parse_adaptation, parse_preprocessing

# The fields of `inoculate.data.preprocessing.Preprocessing`.
READING: dict[str, Any] = {
    "image_size": Annotated[
        str | None, topic_option("--image-size", DATA, "Pixels at which images are read: 224, or HEIGHTxWIDTH.")
    ],
    "channels": Annotated[int | None, topic_option("--channels", DATA, "1 reads images as grey, 3 as RGB.")],
    "resize": Annotated[
        int | None, topic_option("--resize", DATA, "Pixels of the shorter side before the centre is cropped: 256.")
    ],
    "crop": Annotated[
        float | None, topic_option("--crop", DATA, "Fraction of the shorter side that is cropped: 0.875.")
    ],
    "crop_mode": Annotated[
        str | None, topic_option("--crop-mode", DATA, "center, squash (change the shape) or border (show all).")
    ],
    "interpolation": Annotated[
        str | None, topic_option("--interpolation", DATA, "nearest, bilinear, bicubic, lanczos, box or hamming.")
    ],
    "value_range": Annotated[
        str | None, topic_option("--value-range", DATA, "Values of black and white, beyond 8 bits: 0,4095.")
    ],
}


# Options of the registry's attacks, for those that have them.
ADAPTING: dict[str, Any] = {
    "target": Annotated[
        str | None,
        topic_option("--target", ATTACK, "Attack towards a class: its number, least_likely, second or random."),
    ],
    "loss": Annotated[
        str | None,
        topic_option(
            "--loss", ATTACK, "What attacks maximise: cross_entropy, margin, dlr, or your own, file.py:function."
        ),
    ],
    "restarts": Annotated[int | None, topic_option("--restarts", ATTACK, "Starts of each attack.")],
    "eot": Annotated[int | None, topic_option("--eot", ATTACK, "Gradients averaged per step, for a random model: 20.")],
}


def reads_images(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `Preprocessing` in place of its parameter `preprocessing`."""
    return _with_options(command, "preprocessing", READING, parse_preprocessing)


def adapts_attacks(command: Callable[..., None]) -> Callable[..., None]:
    """The command with options of attacks in place of its parameter `adaptation`, a dictionary of those given."""
    return _with_options(command, "adaptation", ADAPTING, parse_adaptation)


def _with_options(
    command: Callable[..., None], parameter: str, options: dict[str, Any], parse: Callable[..., Any]
) -> Callable[..., None]:
    own = inspect.signature(command, eval_str=True)
    others = [each for name, each in own.parameters.items() if name != parameter]
    added = [own.parameters[parameter].replace(name=n, annotation=a, default=None) for n, a in options.items()]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        value = parse(**{name: values.pop(name) for name in options})
        command(**values, **{parameter: value})

    run.__signature__ = own.replace(parameters=[*others, *added])  # type: ignore[attr-defined]
    return run
