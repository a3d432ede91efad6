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
    """A buffer of 30 MiB is not mapped by the kernel, and passes of 54 MiB get their pages once."""
    program = """
import ctypes, resource, sys, torch
from inoculate.core.allocator import keep_small_buffers
class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks hblkhd usm fsm uord ford keep".split()]
libc = ctypes.CDLL(None)
libc.mallinfo.restype = Mallinfo
if sys.argv[1] == "kept":
    keep_small_buffers()
mapped = libc.mallinfo().hblks
buffer = torch.ones(30 * 2**18)
mapped = libc.mallinfo().hblks - mapped
del buffer
def page_faults(passes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(passes):
        buffers = [torch.ones(18 * 2**18) for _ in range(3)]
        del buffers
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
page_faults(10)
print(mapped, page_faults(10))
"""
    command = [sys.executable, "-c", program]
    (mapped, faults), (mapped_before, _) = (
        map(int, subprocess.run([*command, how], capture_output=True, text=True, check=True).stdout.split())
        for how in ("kept", "as it is")
    )
    assert (mapped, mapped_before) == (0, 1)
    assert faults < 18 * 2**8  # the pages of one buffer of thirty
