import ctypes
import platform
import subprocess
import sys

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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_buffers_of_a_pass_are_kept_for_the_next():
    """Each pass makes and frees three buffers of 3 MiB, whose pages the kernel would give anew each time."""
    program = """
import resource, sys, torch
from inoculate.core.allocator import keep_small_buffers
if sys.argv[1] == "kept":
    keep_small_buffers()
def one_pass():
    buffers = [torch.ones(3 * 2**18) for _ in range(3)]
for _ in range(3):
    one_pass()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    one_pass()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    command = [sys.executable, "-c", program]
    kept, not_kept = (
        int(subprocess.run([*command, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "as it is")
    )
    assert 2 * kept < not_kept  # the system takes some pages back all the same
