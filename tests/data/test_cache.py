from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from inoculate.data import decoded as decoded_module
from inoculate.data.load import decode_source, load_data
from inoculate.data.sources import find_source

Make = Callable[..., Path]


def test_a_second_load_decodes_nothing(folders: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_source(folders({"a": 5, "b": 5}))
    calls: list[tuple[str, int, int]] = []
    first = decode_source(source, progress=lambda *step: calls.append(step))
    assert calls[-1] == ("decode pets", 10, 10)
    monkeypatch.setattr(decoded_module, "decode_image", None)
    second = decode_source(source)
    assert torch.equal(second.data.images, first.data.images)
    assert second.data.digest == first.data.digest
    assert decode_source(source, image_size=12, channels=3).data.digest == first.data.digest


def test_the_digest_is_that_of_the_same_tensors(folders: Make) -> None:
    from inoculate.data.dataset import Dataset

    split = decode_source(find_source(folders({"a": 5, "b": 5}))).data
    assert Dataset.from_tensors(split.images.clone(), split.labels, split.classes).digest == split.digest


def test_writing_into_images_does_not_reach_the_cache(folders: Make) -> None:
    source = find_source(folders({"a": 5, "b": 5}))
    images = decode_source(source).data.images
    before = images.clone()
    images.zero_()
    assert torch.equal(decode_source(source).data.images, before)


@pytest.mark.parametrize("damage", ["manifest", "truncate"])
def test_a_damaged_folder_is_made_anew(folders: Make, cache: Path, damage: str) -> None:
    source = find_source(folders({"a": 5, "b": 5}))
    digest = decode_source(source).data.digest
    (made,) = (p.parent for p in cache.glob("images/*/images.npy"))
    if damage == "manifest":
        (made / "manifest.json").unlink()
    (made / "images.npy").write_bytes(b"half")
    assert decode_source(source).data.digest == digest
    assert len(decode_source(source).data.images) == 10


def test_a_failed_decode_leaves_nothing_behind(folders: Make, cache: Path) -> None:
    folder = folders({"a": 5, "b": 5})
    (folder / "a" / "0000.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="cannot be read"):
        decode_source(find_source(folder))
    assert not [p for p in (cache / "images").rglob("*") if p.suffix == ".npy"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process")
def test_a_killed_writer_leaves_nothing_that_is_read(folders: Make, cache: Path) -> None:
    source = find_source(folders({"a": 150, "b": 150}))
    child = os.fork()
    if child == 0:  # ends without any cleaning up, as a killed process does
        decode_source(source, progress=lambda *_: os._exit(9))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert list(cache.glob("images/*.partial/images.npy"))
    data = decode_source(source).data
    assert len(data) == 300
    assert int(data.images[-1].sum()) > 0
    assert not list(cache.glob("images/*.partial"))


def test_old_partial_folders_are_removed(folders: Make, cache: Path) -> None:
    old, new = cache / "images" / "old.partial", cache / "images" / "new.partial"
    for folder in (old, new):
        folder.mkdir(parents=True)
        (folder / "images.npy").write_bytes(b"x")
    week_ago = time.time() - 7 * 86400
    os.utime(old / "images.npy", (week_ago, week_ago))
    os.utime(old, (week_ago, week_ago))
    decode_source(find_source(folders({"a": 3, "b": 3})))
    assert new.exists()
    assert not old.exists()


def test_large_files_are_decoded_by_threads_in_order(folders: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_source(folders({"a": 80, "b": 80}))
    small = decode_source(source, image_size=10).data
    monkeypatch.setattr(decoded_module, "_MIN_BYTES_FOR_THREADS", 0)
    large = decode_source(source, image_size=10, cache=Path(os.environ["INOCULATE_CACHE"]) / "other").data
    assert small.digest == large.digest


def test_arrays_are_read_without_pickle(folders: Make, cache: Path) -> None:
    source = find_source(folders({"a": 3, "b": 3}))
    decode_source(source)
    (labels,) = cache.glob("images/*/labels.npy")
    size = labels.stat().st_size
    np.save(labels, np.array([{"x": 1}], dtype=object), allow_pickle=True)
    labels.write_bytes(labels.read_bytes().ljust(size, b"\0")[:size])
    with pytest.raises(ValueError, match="allow_pickle"):
        decode_source(source)


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
def test_real_data_are_decoded_once(
    name: str, shape: tuple[int, ...], tests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (Path(os.environ["INOCULATE_DATA"]) / name).is_dir():
        pytest.skip(f"INOCULATE_DATA holds no {name}")
    load_data(name, "all")
    monkeypatch.setattr(decoded_module, "decode_image", None)  # the second time nothing is decoded
    decoded = decode_source(find_source(name))
    assert decoded.data.images.shape == shape
    assert int(decoded.official_test.sum()) == tests
    assert len(load_data(name, "train")) + len(load_data(name, "val")) + len(load_data(name, "test")) == shape[0]


@REAL
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from Linux's /proc")
def test_decoding_photos_takes_little_memory(tmp_path: Path) -> None:
    if not (Path(os.environ["INOCULATE_DATA"]) / "cats_vs_dogs").is_dir():
        pytest.skip("INOCULATE_DATA holds no cats_vs_dogs")
    code = (
        "from inoculate.data.load import *; decode_source(find_source('cats_vs_dogs'), image_size=96)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    env = {**os.environ, "INOCULATE_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1024 * 1024  # KiB; getrusage would count the parent's peak as well
