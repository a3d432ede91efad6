from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from inoculate.data import pool as pool_module
from inoculate.data.sources import find_source, load_data, load_pool

Make = Callable[..., Path]


def test_a_second_load_decodes_nothing(folders: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_source(folders({"a": 5, "b": 5}))
    calls: list[tuple[int, int]] = []
    first = load_pool(source, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (10, 10)
    monkeypatch.setattr(pool_module, "decode", None)
    second = load_pool(source)
    assert torch.equal(second.split.images, first.split.images)
    assert second.split.digest == first.split.digest
    assert load_pool(source, image_size=12, channels=3).split.digest == first.split.digest


def test_the_digest_is_that_of_the_same_tensors(folders: Make) -> None:
    from inoculate.data.dataset import Dataset

    split = load_pool(find_source(folders({"a": 5, "b": 5}))).split
    assert Dataset.from_tensors(split.images.clone(), split.labels, split.classes).digest == split.digest


def test_writing_into_images_does_not_reach_the_cache(folders: Make) -> None:
    source = find_source(folders({"a": 5, "b": 5}))
    images = load_pool(source).split.images
    before = images.clone()
    images.zero_()
    assert torch.equal(load_pool(source).split.images, before)


@pytest.mark.parametrize("damage", ["manifest", "truncate"])
def test_a_damaged_folder_is_made_anew(folders: Make, cache: Path, damage: str) -> None:
    source = find_source(folders({"a": 5, "b": 5}))
    digest = load_pool(source).split.digest
    (made,) = (p.parent for p in cache.glob("images/*/images.npy"))
    if damage == "manifest":
        (made / "manifest.json").unlink()
    (made / "images.npy").write_bytes(b"half")
    assert load_pool(source).split.digest == digest
    assert len(load_pool(source).split.images) == 10


def test_a_failed_decode_leaves_nothing_behind(folders: Make, cache: Path) -> None:
    folder = folders({"a": 5, "b": 5})
    (folder / "a" / "0000.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot be read"):
        load_pool(find_source(folder))
    assert not [p for p in (cache / "images").rglob("*") if p.suffix == ".npy"]


def test_a_killed_writer_leaves_nothing_that_is_read(folders: Make, cache: Path) -> None:
    folder = folders({"a": 300, "b": 300})
    code = (
        "import sys, time; from inoculate.data.sources import *\n"
        "load_pool(find_source(sys.argv[1]), progress=lambda d, t: (print(d, flush=True), time.sleep(60)))"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, env={**os.environ})
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == b"256"
    writer.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    writer.wait(10)
    writer.stdout.close()
    assert list(cache.glob("images/*.partial/images.npy"))
    split = load_pool(find_source(folder)).split
    assert len(split) == 600
    assert int(split.images[-1].sum()) > 0
    assert not list(cache.glob("images/*.partial"))


def test_old_leftovers_are_swept(folders: Make, cache: Path) -> None:
    old, new = cache / "images" / "old.partial", cache / "images" / "new.partial"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"x")
    week_ago = time.time() - 7 * 86400
    os.utime(old / "images.npy", (week_ago, week_ago))
    os.utime(old, (week_ago, week_ago))
    load_pool(find_source(folders({"a": 3, "b": 3})))
    assert new.exists()
    assert not old.exists()


def test_large_files_are_decoded_by_threads_in_order(folders: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_source(folders({"a": 80, "b": 80}))
    small = load_pool(source, image_size=10).split
    monkeypatch.setattr(pool_module, "_THREADS_PAY", 0)
    large = load_pool(source, image_size=10, cache=Path(os.environ["INOCULATE_CACHE"]) / "other").split
    assert small.digest == large.digest


def test_arrays_are_read_without_pickle(folders: Make, cache: Path) -> None:
    source = find_source(folders({"a": 3, "b": 3}))
    load_pool(source)
    (labels,) = cache.glob("images/*/labels.npy")
    size = labels.stat().st_size
    np.save(labels, np.array([{"x": 1}], dtype=object), allow_pickle=True)
    labels.write_bytes(labels.read_bytes().ljust(size, b"\0")[:size])
    with pytest.raises(ValueError, match="allow_pickle"):
        load_pool(source)


REAL = pytest.mark.skipif("INOCULATE_DATA" not in os.environ, reason="set INOCULATE_DATA to a folder of real datasets")


@REAL
@pytest.mark.parametrize(
    ("name", "shape", "tests"),
    [
        ("mnist", (70000, 1, 28, 28), 10000),
        ("cifar10", (60000, 3, 32, 32), 10000),
        ("cats_vs_dogs", (24998, 3, 96, 96), 0),
    ],
)
def test_real_data_load_at_once_the_second_time(name: str, shape: tuple[int, ...], tests: int) -> None:
    if not (Path(os.environ["INOCULATE_DATA"]) / name).is_dir():
        pytest.skip(f"INOCULATE_DATA holds no {name}")
    load_data(name, "all")
    start = time.monotonic()
    pool = load_pool(find_source(name))
    assert time.monotonic() - start < 1
    assert pool.split.images.shape == shape
    assert int(pool.official_test.sum()) == tests
    assert len(load_data(name, "train")) + len(load_data(name, "val")) + len(load_data(name, "test")) == shape[0]


@REAL
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
def test_decoding_photos_takes_little_memory(tmp_path: Path) -> None:
    if not (Path(os.environ["INOCULATE_DATA"]) / "cats_vs_dogs").is_dir():
        pytest.skip("INOCULATE_DATA holds no cats_vs_dogs")
    code = (
        "from inoculate.data.sources import *; load_pool(find_source('cats_vs_dogs'), image_size=96)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    env = {**os.environ, "INOCULATE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1024 * 1024  # KiB; getrusage would count the parent's peak as well
