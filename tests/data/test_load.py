from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, SubsetRandomSampler, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.data.load import as_dataset, load_data, load_parts

PIXELS = torch.randint(0, 256, (100, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(100) % 4
EXPECTED = Dataset.from_tensors(PIXELS, LABELS)


class Items(TorchDataset[Any]):
    """(transform(image), label) of the samples above."""

    def __init__(self, transform: Callable[[torch.Tensor], Any], label: Callable[[int], Any] = int) -> None:
        self.transform, self.label = transform, label

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, i: int) -> Any:
        return self.transform(PIXELS[i]), self.label(i % 4)


class NamedItems(Items):
    classes = ("a", "b", "c", "d")


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return zip(PIXELS, LABELS, strict=True)


def to_float(image: torch.Tensor) -> torch.Tensor:
    return image / 255


def to_array(image: torch.Tensor) -> Any:
    return image.permute(1, 2, 0).numpy()


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(to_array(image))


FORMS: dict[str, Any] = {
    "dataset": EXPECTED,
    "pair": (PIXELS, LABELS),
    "pair of arrays": (PIXELS.numpy(), LABELS.numpy()),
    "pair of floats, list of labels": (PIXELS / 255, LABELS.tolist()),
    "TensorDataset": TensorDataset(PIXELS / 255, LABELS),
    "tensors": Items(lambda image: image),
    "floats": Items(to_float),
    "tensors with one-hot labels": Items(to_float, lambda label: torch.eye(4)[label]),
    "PIL images": Items(to_pil),
    "arrays H×W×C": Items(to_array, np.int64),
    "arrays C×H×W": Items(lambda image: image.numpy()),
    "stream": Stream(),
    "loader": DataLoader(Items(to_float), 32),
    "shuffling loader that drops the last batch": DataLoader(Items(to_float), 32, shuffle=True, drop_last=True),
    "loader with workers": DataLoader(TensorDataset(PIXELS, LABELS), 64, num_workers=1),
    "loader with its own collate function": DataLoader(
        Items(to_float), 32, collate_fn=lambda batch: (torch.stack([x for x, _ in batch]), [y for _, y in batch])
    ),
    "loader over a stream": DataLoader(Stream(), 32),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_dataset(form: str) -> None:
    state = torch.get_rng_state()
    data = as_dataset(FORMS[form])
    assert torch.equal(data.images, PIXELS)
    assert data.digest == EXPECTED.digest
    assert load_data(FORMS[form], "val").digest == EXPECTED.digest, "given data are taken whole"
    assert torch.equal(torch.get_rng_state(), state)


def test_names_classes_and_notes_say_what_was_made() -> None:
    data = as_dataset(Subset(NamedItems(to_float), range(0, 100, 2)))
    assert (data.name, data.classes, len(data)) == ("nameditems", ("a", "b", "c", "d"), 50)
    assert as_dataset(EXPECTED, name="mine").name == "mine"
    assert "read at 6×6 pixels" in as_dataset(FORMS["PIL images"]).summary()
    shuffled = as_dataset(FORMS["shuffling loader that drops the last batch"])
    assert "in its dataset's own order" in shuffled.summary()


def test_labels_of_items_may_be_names_of_classes() -> None:
    names = NamedItems(to_float, lambda label: "abcd"[label])
    for form in (names, DataLoader(names, 8), DataLoader(names, 8, sampler=range(100))):
        assert as_dataset(form).labels.tolist() == LABELS.tolist()


def test_the_numbers_of_the_classes_decide_over_their_order() -> None:
    numbered = NamedItems(to_float)
    numbered.class_to_idx = {"a": 3, "b": 2, "c": 1, "d": 0}  # type: ignore[attr-defined]
    assert as_dataset(numbered).classes == ("d", "c", "b", "a")


def test_a_loader_with_its_own_sampler_is_read_as_it_is() -> None:
    data = as_dataset(DataLoader(Items(to_float), 8, sampler=SubsetRandomSampler([0, 1, 2, 3, 4, 5])))
    assert len(data) == 6


def test_random_transforms_are_seeded() -> None:
    noisy = Items(lambda image: torch.randint(0, 256, (1, 4, 4), dtype=torch.uint8))
    assert as_dataset(noisy).digest == as_dataset(noisy).digest != as_dataset(noisy, seed=1).digest


REFUSED: dict[str, tuple[Any, str]] = {
    "normalised": (Items(lambda image: (image / 255 - 0.5) / 0.25), "remove the normalisation from the data"),
    "shapes": (Items(lambda image: image[:, : 1 + int(image[0, 0, 0]) % 4]), "earlier ones"),
    "three values": (TensorDataset(PIXELS, LABELS, LABELS), "every item must be (image, label), got 3 values"),
    "images only": (Items(to_float).transform, "data of type function cannot be read"),
    "text": (Items(to_float, lambda label: "cat"), "labels must be numbers"),
    "negative": (Items(to_float, lambda label: label - 1), "label -1 of image 0 must be 0 or more"),
    "outside": (NamedItems(to_float, lambda label: label + 100), "label 100 of image 0 must be in 0..3"),
    "names, unknown": (NamedItems(to_float, lambda label: "abxd"[label]), "label 'x' of image 2 is not one of the 4"),
    "soft": (Items(to_float, lambda label: torch.full((4,), 0.25)), "the label of image 0 is a row of 4 values"),
    "not one a batch": (
        DataLoader(Items(to_float), 10, collate_fn=lambda b: (torch.zeros(10, 3, 6, 6), [0, 1])),
        "10 images and 2 labels",
    ),
    "no images": (Subset(Items(to_float), []), "there are no images"),
    "files": (Items(lambda image: "cat.png"), "images must be tensors, arrays or PIL images, got str"),
    "PIL floats": (Items(lambda image: to_pil(image).convert("F")), "floating-point pixels"),
    "images": (PIXELS, "data of type Tensor cannot be read"),
}


def test_what_cannot_be_read_is_refused_in_one_line() -> None:
    for case, (data, expected) in REFUSED.items():
        with pytest.raises(InputError) as caught:
            as_dataset(data)
        assert expected in str(caught.value), case
        assert "\n" not in str(caught.value), case


def test_pil_images_of_several_sizes_are_read_as_files_are() -> None:
    sizes = Items(lambda image: to_pil(image).resize((6 + int(image[0, 0, 0]) % 2, 6)))
    assert as_dataset(sizes, image_size=6).image_size == (6, 6)
    assert as_dataset(Items(lambda image: to_pil(image).convert("L"))).channels == 1


def test_image_size_and_channels_of_given_data() -> None:
    grey = as_dataset(EXPECTED, channels=1)
    assert np.array_equal(grey.images[0, 0].numpy(), np.asarray(to_pil(PIXELS[0]).convert("L")))
    assert torch.equal(as_dataset(grey, channels=3).images, grey.images.expand(-1, 3, -1, -1))
    small = as_dataset((PIXELS, LABELS), image_size=3)
    assert (small.image_size, small.digest != EXPECTED.digest) == ((3, 3), True)
    assert "resized from 6×6 to 3×3" in small.summary()
    assert as_dataset(EXPECTED, image_size=6, channels=3) is EXPECTED
    with pytest.raises(InputError, match="channels"):
        as_dataset(EXPECTED, channels=2)


def test_parts_of_a_spec_are_those_of_load_data() -> None:
    for part, name in zip(load_parts("digits"), ("train", "val", "test"), strict=True):
        assert part.digest == load_data("digits", name).digest


@pytest.mark.smoke
def test_parts_of_given_data_are_stratified_and_seeded() -> None:
    train, val, test = load_parts((PIXELS, LABELS), name="mine")
    assert [len(part) for part in (train, val, test)] == [70, 10, 20]
    assert {part.name for part in (train, val, test)} == {"mine"}
    assert set(val.labels.tolist()) == {0, 1, 2, 3}
    again, other = load_parts(EXPECTED), load_parts(EXPECTED, seed=1)
    assert again[2].digest == test.digest != other[2].digest


def test_parts_that_are_given_are_kept() -> None:
    test = (PIXELS[:20], LABELS[:20])
    train, val, kept = load_parts({"train": EXPECTED, "test": test})
    assert (len(train), len(val), kept.digest) == (87, 13, Dataset.from_tensors(*test).digest)
    assert load_parts({"train": EXPECTED, "val": test, "test": test})[0] is EXPECTED
    with pytest.raises(InputError, match="need 'train' and 'test', got train"):
        load_parts({"train": EXPECTED})
    with pytest.raises(InputError, match=r"the classes of 'test' \(2\) are not those of 'train' \(4\)"):
        load_parts({"train": EXPECTED, "test": (PIXELS[:2], LABELS[:2])})
    with pytest.raises(InputError, match="part 'tset' is unknown: did you mean 'test'"):
        load_parts({"train": EXPECTED, "tset": test})
    with pytest.raises(InputError, match="the part 'test' is given as 'pictures', and that has parts"):
        load_parts({"train": EXPECTED, "test": "pictures"})


def test_linked_folders_are_followed_and_counted_once(tmp_path: Path, folders: Callable[..., Path]) -> None:
    folder, more = folders({"a": 3, "b": 3}), folders({"x": 4}, name="more")
    (folder / "a" / "linked").symlink_to(more / "x")
    (folder / "a" / "twice").symlink_to(more / "x")
    (folder / "a" / "loop").symlink_to(folder / "a")
    data = load_data(folder, "all")
    assert torch.bincount(data.labels).tolist() == [7, 3]
