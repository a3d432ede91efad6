"""What was done to the images of a source, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inoculate.data.pixels import CONVERTED, DEEP, FLOAT, FRAMES, TRANSPARENT, TURNED
from inoculate.data.preprocessing import Preprocessing

_SENTENCES = {
    TRANSPARENT: "{} with transparency laid on white",
    TURNED: "{} turned upright, as EXIF says",
    FRAMES: "{} of several frames, of which the first was read",
    CONVERTED: "{} of CMYK or Lab colours converted to RGB",
}


def reading_notes(
    done: Mapping[str, int], skipped: Sequence[tuple[str, str]], total: int, top: int | None, reading: Preprocessing
) -> list[str]:
    """Sentences on what was done to how many images.

    done: number of images by the words of `inoculate.data.pixels`. skipped: (name, reason) of the unreadable ones among
    `total`. top: the value that became white in integers of more than 8 bits, where the images decided it.
    """
    notes = []
    if skipped:
        notes.append(f"{len(skipped)} of {total} images cannot be read and were left out: {first_of(skipped)}")
    low, high = reading.value_range or (0, top or 0)
    span = f"{low:g}..{high:g} became 0..255"
    if done.get(DEEP):
        why = "as declared" if reading.value_range else f"for they use {(top or 0).bit_length()} bits"
        notes.append(f"{_counted(done[DEEP])} of more than 8 bits: {span}, {why}")
    if done.get(FLOAT):
        notes.append(f"{_counted(done[FLOAT])} of floating point: {span}, as declared")
    if reading.value_range and not (done.get(DEEP) or done.get(FLOAT)):
        notes.append("the value range was not used: every image has 8 bits")
    return notes + [text.format(_counted(done[word])) for word, text in _SENTENCES.items() if done.get(word)]


def first_of(skipped: Sequence[tuple[str, str]]) -> str:
    """The first three names, each with its reason."""
    return ", ".join(f"{item} ({reason})" for item, reason in skipped[:3]) + (", …" if len(skipped) > 3 else "")


def _counted(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"
