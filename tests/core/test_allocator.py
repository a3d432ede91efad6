import ctypes
import platform

import pytest

from inoculate.core.allocator import keep_freed_memory


def test_it_is_set_where_there_is_glibc():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_it_does_nothing_elsewhere(monkeypatch, error):
    def missing(_):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert keep_freed_memory() is False
