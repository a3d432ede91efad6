"""Options that say how images are read, the same for every command that reads images."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

from inoculate.cli.options import DATA, topic_option
from inoculate.cli.parsers import parse_preprocessing

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


def reads_images(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `Preprocessing` in place of its parameter `preprocessing`."""
    own = inspect.signature(command, eval_str=True)
    others = [each for name, each in own.parameters.items() if name != "preprocessing"]
    added = [own.parameters["preprocessing"].replace(name=n, annotation=a, default=None) for n, a in READING.items()]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        preprocessing = parse_preprocessing(**{name: values.pop(name) for name in READING})
        command(**values, preprocessing=preprocessing)

    run.__signature__ = own.replace(parameters=[*others, *added])  # type: ignore[attr-defined]
    return run
