import pytest

from inoculate.core.duration import parse_duration
from inoculate.core.errors import InputError


def test_seconds_of_every_form():
    for duration, seconds in (
        ("90", 90), ("1.5", 1.5), (" 90s", 90), ("5m", 300), ("1h30m", 5400), ("1h5s", 3605), (90, 90), (0.5, 0.5),
    ):  # fmt: skip
        assert parse_duration(duration) == seconds, duration


def test_anything_else_is_refused():
    for duration in ("", "0", "soon", "-5m", "1h30", "30m1h", "5 m", "inf", "nan", "1e3", "9" * 400, 0, -1, True, None):
        with pytest.raises(InputError, match="write it like"):
            parse_duration(duration)
