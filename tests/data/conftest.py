from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def picture(rng: np.random.Generator, size: tuple[int, int] = (12, 12), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; nothing of the user's is read or written."""
    monkeypatch.setenv("INOCULATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INOCULATE_DATA", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def folders(tmp_path: Path, cache: Path) -> Callable[..., Path]:
    """Make a folder of PNGs: {"train/cat": 5, ...}."""

    def make(counts: dict[str, int], name: str = "pets", size: tuple[int, int] = (12, 12)) -> Path:
        rng = np.random.default_rng(0)
        for place, n in counts.items():
            (tmp_path / name / place).mkdir(parents=True)
            for i in range(n):
                picture(rng, size).save(tmp_path / name / place / f"{i:04d}.png")
        return tmp_path / name

    return make


@pytest.fixture
def parquet(tmp_path: Path, cache: Path) -> Callable[..., Path]:
    """Write one shard; `names` stores ClassLabel features as the hub does."""

    def write(
        labels: list[Any], file: str = "train-00000-of-00001.parquet", names: list[str] | None = None, **columns: str
    ) -> Path:
        rng = np.random.default_rng(len(labels))
        image, label = columns.get("image", "image"), columns.get("label", "label")
        cells = [{"bytes": png(picture(rng, mode="L")), "path": None} for _ in labels]
        table = pa.table({image: cells, label: labels})
        if names is not None:
            features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        path = tmp_path / "shards" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return tmp_path / "shards"

    return write


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the hub hold one dataset: `hub(splits, revision)`."""
    import datasets
    import huggingface_hub

    def hold(splits: dict[str, datasets.Dataset], revision: str = "abc") -> None:
        info = SimpleNamespace(sha=revision)
        monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, revision: splits)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, hub_id, timeout: info)

    return hold
