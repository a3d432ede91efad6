"""Options of what may change in an image, beyond small norms."""

from __future__ import annotations

from typing import Annotated

from inoculate.cli.options import ATTACK, topic_option

Mask = Annotated[
    str | None,
    topic_option(
        "--mask", ATTACK, "Pixels that may change: a picture (white may change, black stays), center:0.5 or border:2."
    ),
]
Corruptions = Annotated[
    str | None,
    topic_option(
        "--corruptions", ATTACK, "Common corruptions too: all, noise, blur, weather, digital, gaussian_noise …"
    ),
]
Severities = Annotated[str, topic_option("--severity", ATTACK, "Severities of the corruptions: 3, 1,5 or 1-5.")]
Spatial = Annotated[
    str | None,
    topic_option("--spatial", ATTACK, "Rotations and shifts too: 30,3 for ±30° and ±3 pixels, 30,10% for a share."),
]
