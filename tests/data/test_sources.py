from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inoculate.core.errors import InputError
from inoculate.data.load import decode_source, load_data
from inoculate.data.sources import find_source

Make = Callable[..., Path]


def fails(told: str, call: Callable[[], object]) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_digits_come_with_the_package(cache: Path) -> None:
    parts = {part: load_data("digits", part) for part in ("train", "val", "test", "all")}
    assert {part: len(split) for part, split in parts.items()} == {"train": 1258, "val": 180, "test": 359, "all": 1797}
    assert parts["all"].images.shape == (1797, 1, 32, 32)
    assert int(parts["all"].images.max()) > 240, "0..16 is stretched to 0..255"
    assert parts["all"].classes == tuple("0123456789")
    assert load_data("digits", "test").digest == parts["test"].digest != load_data("digits", "test", seed=1).digest
    assert load_data("digits", image_size=8).image_size == (8, 8)


def test_class_folders_with_an_official_test_part(folders: Make) -> None:
    folder = folders({"train/cat": 8, "train/dog": 8, "test/cat": 2, "test/dog": 3, "val/cat": 2})
    (folder / "train" / "cat" / "Thumbs.db").write_bytes(b"x")
    (folder / "train" / ".hidden").mkdir()
    decoded = decode_source(find_source(folder))
    assert (len(decoded.data), decoded.data.classes, decoded.has_test) == (23, ("cat", "dog"), True)
    assert (decoded.data.channels, decoded.data.image_size) == (3, (12, 12))
    test = load_data(folder, "test")
    assert test.labels.tolist() == [0, 0, 1, 1, 1]
    first = np.asarray(Image.open(folder / "test" / "cat" / "0000.png")).transpose(2, 0, 1)
    assert np.array_equal(test.images[0].numpy(), first)
    assert len(load_data(folder, "train")) + len(load_data(folder, "val")) == 18


def test_equal_content_has_an_equal_digest_wherever_it_is(folders: Make) -> None:
    one, same = folders({"a": 3, "b": 3}, name="one"), folders({"a": 3, "b": 3}, name="same")
    digest = find_source(one).digest
    assert find_source(same).digest == digest == find_source(one).digest
    Image.new("RGB", (12, 12)).save(same / "a" / "0000.png")
    assert find_source(same).digest != digest
    (one / "a" / "0000.png").rename(one / "b" / "9.png")
    assert find_source(one).digest != digest


def test_parquet_with_stored_names_and_columns(parquet: Make) -> None:
    parquet([1, 0] * 10, names=["no", "yes"], image="img", label="labels")
    folder = parquet([0, 1, 1], "test-00000-of-00001.parquet", names=["no", "yes"], image="img", label="labels")
    decoded = decode_source(find_source(folder))
    assert (len(decoded.data), decoded.data.classes, decoded.data.channels) == (23, ("no", "yes"), 1)
    test = load_data(folder, "test")
    assert test.labels.tolist() == [0, 1, 1]


def test_the_data_root_comes_first(parquet: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parquet(["b", "a", "b", "a"])
    folder.rename(folder.with_name("mnist"))
    source = find_source("mnist", folder.parent)
    assert (source.name, source.kind, source.image_size) == ("mnist", "parquet", 28)
    assert decode_source(source).data.image_size == (28, 28)
    monkeypatch.setenv("INOCULATE_DATA", str(folder.parent))
    assert find_source("someone/mnist").digest == source.digest
    assert load_data("mnist", "all").classes == ("a", "b")


def test_labels_without_names(parquet: Make) -> None:
    folder = parquet([7, 3, 7, 12] * 2)
    split = decode_source(find_source(folder)).data
    assert (split.classes, split.labels[:4].tolist()) == (("3", "7", "12"), [1, 0, 1, 2])


def test_a_split_without_labels_is_left_out(parquet: Make, caplog: pytest.LogCaptureFixture) -> None:
    parquet([0, 1] * 5, names=["a", "b"])
    folder = parquet([-1] * 4, "test-00000-of-00001.parquet", names=["a", "b"])
    decoded = decode_source(find_source(folder))
    assert (len(decoded.data), decoded.has_test) == (10, False)
    assert "split test have no labels" in caplog.text


@pytest.mark.parametrize("label", [-1, 2, None])
def test_a_bad_label_is_named_by_shard_and_row(parquet: Make, label: int | None) -> None:
    folder = parquet([0, 1, 0, label, 1], names=["a", "b"])
    fails("train-00000-of-00001.parquet, row 3", lambda: decode_source(find_source(folder)))


def test_damaged_and_missing_shards(parquet: Make) -> None:
    folder = parquet([0, 1] * 50)
    file = folder / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    fails(str(file), lambda: decode_source(find_source(folder)))
    file.rename(folder / "train-00000-of-00002.parquet")
    fails("train-00001-of-00002 is missing", lambda: find_source(folder))


def test_no_label_column(parquet: Make) -> None:
    fails("no label column among image, score", lambda: decode_source(find_source(parquet([0, 1], label="score"))))


def test_unreadable_images_are_listed_up_to_one_percent(folders: Make, caplog: pytest.LogCaptureFixture) -> None:
    folder = folders({"a": 100, "b": 100}, size=(8, 8))
    for i in (3, 4):
        file = folder / "a" / f"{i:04d}.png"
        file.write_bytes(file.read_bytes()[:60])
    split = decode_source(find_source(folder)).data
    assert (len(split), split.skipped) == (198, ("a/0003.png", "a/0004.png"))
    assert "2 of 200" in caplog.text
    assert torch.equal(split.labels, torch.tensor([0] * 98 + [1] * 100))
    survivor = np.asarray(Image.open(folder / "a" / "0005.png")).transpose(2, 0, 1)
    assert np.array_equal(split.images[3].numpy(), survivor), "pixels and labels stay in step"
    (folder / "b" / "0000.png").write_bytes(b"")
    fails("3 of 200 images cannot be read", lambda: decode_source(find_source(folder)))


def test_bad_places(folders: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    fails("did you mean 'cifar10'", lambda: find_source("cifar-10"))
    fails("known are mnist", lambda: find_source("zzzzzz"))
    fails("no folder", lambda: find_source(tmp_path / "nowhere"))
    fails("no folder", lambda: find_source("./nowhere"))
    fails("is empty", lambda: find_source(tmp_path / "empty"))
    fails("one class only", lambda: find_source(folders({"a": 2}, name="single")))
    fails("no images", lambda: find_source(folders({"a": 2, "b": 0}, name="hollow")))
    fails("lies beside", lambda: find_source(folders({"train/a": 2, "train/b": 2, "notes": 1}, name="mixed")))
    fails("is a file", lambda: find_source(Path(__file__)))
    fails("data root", lambda: find_source("mnist", tmp_path / "nowhere"))
    fails("did you mean 'val'", lambda: load_data("digits", "valid"))
    fails("image size", lambda: load_data("digits", image_size=0))
    fails("channels", lambda: load_data("digits", channels=2))
    two = folders({"a": 2, "b": 9}, name="two")
    fails("class 'a' has 2 images", lambda: load_data(two))
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("INOCULATE_CACHE", str(tmp_path / "file" / "cache"))
    fails("INOCULATE_CACHE", lambda: load_data("digits"))


def test_a_hub_out_of_reach_is_one_clear_line(cache: Path) -> None:
    code = "from inoculate.data.sources import find_source; find_source('mnist')"
    env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert "InputError: cannot reach the hub for 'ylecun/mnist'" in done.stderr
    assert "--data-root" in done.stderr.splitlines()[-1]


def test_a_hub_dataset_is_read_like_any_other(hub: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    rng = np.random.default_rng(0)
    features = datasets.Features({"label": datasets.ClassLabel(names=["x", "y"]), "image": datasets.Image()})

    def rows(n: int) -> datasets.Dataset:
        pixels = [Image.fromarray(rng.integers(0, 256, (6, 6), dtype=np.uint8)) for _ in range(n)]
        return datasets.Dataset.from_dict({"label": [i % 2 for i in range(n)], "image": pixels}, features=features)

    splits = datasets.DatasetDict({"train": rows(20), "test": rows(4)})
    hub(splits)
    decoded = decode_source(find_source("owner/set"))
    assert (decoded.data.images.shape, decoded.data.classes) == ((24, 1, 6, 6), ("x", "y"))
    assert np.array_equal(decoded.data.images[0, 0].numpy(), np.asarray(splits["train"][0]["image"]))
    assert np.flatnonzero(decoded.official_test).tolist() == [20, 21, 22, 23]

    def unreachable(self: object, hub_id: str, timeout: float) -> None:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    monkeypatch.delattr(datasets, "load_dataset")
    assert decode_source(find_source("owner/set")).data.digest == decoded.data.digest, "offline: what was loaded once"


def test_finding_local_data_imports_nothing_heavy(folders: Make) -> None:
    folder = folders({"a": 2, "b": 2})
    code = (
        "import sys; from inoculate.data.sources import find_source; find_source(sys.argv[1]); find_source('digits'); "
        "print(sorted({'torch', 'datasets', 'pyarrow', 'sklearn', 'kornia'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
