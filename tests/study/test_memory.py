"""Ten times the images need no more memory: they are mapped from files, and so are large copies of them."""

import os
import subprocess
import sys
from pathlib import Path

import memory_worker
import pytest
import torch

from inoculate.data import scratch as scratch_module
from inoculate.data.dataset import Dataset
from inoculate.data.scratch import LARGE, rows_of, scratch

IMAGES = 5120  # whatever takes a fixed number of images, such as validation, takes all of it


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory from Linux's /proc")
@pytest.mark.parametrize("job", memory_worker.JOBS)
def test_ten_times_the_images_take_no_more_memory(job, tmp_path):
    def peak(images):
        command = [sys.executable, memory_worker.__file__, job, str(images), str(tmp_path)]
        environment = {**os.environ, "INOCULATE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    few, many = peak(IMAGES), peak(10 * IMAGES)
    print(job, few // 1024, many // 1024, "MiB")
    assert many <= 1.1 * few


def data(n):
    images = torch.randint(256, (n, 1, 3, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return Dataset.from_tensors(images, torch.arange(n) % 2)


def test_a_large_subset_lies_in_a_file_that_ends_with_it(monkeypatch, tmp_path):
    monkeypatch.setenv("INOCULATE_CACHE", str(tmp_path))
    monkeypatch.setattr(scratch_module, "LARGE", 100)
    monkeypatch.setattr(scratch_module, "_AT_ONCE", 90)
    whole, rows = data(50), torch.arange(49, -1, -2)
    mapped = Path("/proc/self/maps")
    part = whole.subset(rows)
    assert torch.equal(part.images, whole.images[rows])
    assert part.images.dtype == torch.uint8
    assert not list((tmp_path / "scratch").iterdir()), "the file has no name"
    if mapped.exists():
        assert str(tmp_path / "scratch") in mapped.read_text()
        del part
        assert str(tmp_path / "scratch") not in mapped.read_text()


def test_without_room_on_the_disk_it_is_in_memory(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file, no folder")
    monkeypatch.setenv("INOCULATE_CACHE", str(tmp_path / "cache"))
    found = scratch((LARGE, 1), torch.int8)
    assert (found.shape, found.dtype) == ((LARGE, 1), torch.int8)


def test_small_and_empty_selections_stay_in_memory(monkeypatch, tmp_path):
    monkeypatch.setenv("INOCULATE_CACHE", str(tmp_path))
    assert torch.equal(rows_of(torch.arange(6).view(3, 2), torch.tensor([2, 0])), torch.tensor([[4, 5], [0, 1]]))
    assert rows_of(torch.arange(6).view(3, 2), torch.tensor([], dtype=torch.int64)).shape == (0, 2)
    assert not list(tmp_path.iterdir())
