from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset


def small(n: int = 20, classes: int = 2) -> Dataset:
    images = torch.arange(n * 4, dtype=torch.uint8).reshape(n, 1, 2, 2)
    return Dataset.from_tensors(images, torch.arange(n) % classes)


def test_from_tensors_keeps_what_it_is_given() -> None:
    split = Dataset.from_tensors(torch.zeros(3, 3, 4, 5, dtype=torch.uint8), torch.tensor([0, 1, 0]), ("cat", "dog"))
    assert (len(split), split.channels, split.image_size, split.classes) == (3, 3, (4, 5), ("cat", "dog"))
    assert split.labels.dtype == torch.int64


IMAGES = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 0, 1])
HALF = torch.full((4, 1, 2, 2), 0.5)
REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "not 8-bit": (HALF, LABELS, None, "image 0 is not made of 8-bit values (floats from 0.5 to 0.5)"),
    "normalised": (HALF * 6 - 5, LABELS, None, "got values from -2 to -2: they look normalised"),
    "floats to 255": (HALF * 510, LABELS, None, "got values from 255 to 255: for 8-bit values use images.round()"),
    "NaN": (IMAGES.float() * torch.nan, LABELS, None, "NaN"),
    "int images": (IMAGES.int() + 300, LABELS, None, "torch.int32 with values from 300 to 300"),
    "list": ([[1]], LABELS, None, "must be a tensor or an array, got list"),
    "3 dimensions": (IMAGES[:, 0], LABELS, None, "unsqueeze(1)"),
    "length": (IMAGES, LABELS[:3], None, "4 labels"),
    "empty": (IMAGES[:0], LABELS[:0], None, "no images"),
    "channels": (torch.zeros(4, 2, 2, 3, dtype=torch.uint8), LABELS, None, "permute"),
    "negative": (IMAGES, LABELS - 1, None, "label -1 of image 0 must be 0 or more"),
    "too large": (IMAGES, LABELS + 1, ("a", "b"), "label 2 of image 1 must be in 0..1, the 2 classes"),
    "shifted": (IMAGES, LABELS + 100, None, "label 100 of image 0 looks shifted"),
    "shifted, named": (IMAGES, LABELS + 100, "ab", "label 100 of image 0 must be in 0..1"),
    "fractions": (IMAGES, LABELS / 2, None, "label 0.5 of image 1 must be a whole number"),
    "soft labels": (IMAGES, torch.full((4, 2), 0.5), None, "the label of image 0 is a row of 2 values"),
    "columns": (IMAGES, torch.eye(4), "ab", "2 classes are named, but the one-hot labels have 4 columns"),
    "text": (IMAGES, ["cat"] * 4, None, "labels must be integers"),
    "bool": (IMAGES, LABELS.bool(), None, "use labels.long()"),
    "infinite": (IMAGES, torch.tensor([0, 1, torch.inf, 0]), None, "label inf of image 2 must be a whole number"),
    "NaN label": (IMAGES, torch.tensor([0, torch.nan, 1, 0]), None, "label nan of image 1 must be a whole number"),
    "huge": (IMAGES, [0, 1, 2**40, 0], None, "label 1.09951e+12 of image 2 must be below 1000000"),
    "beyond int64": (IMAGES, [0, 1, 2**70, 0], None, "labels must be integers"),
    "from 1, named": (IMAGES, LABELS + 1, "ab", "the 2 classes; they are numbered from 1 to 2: subtract 1"),
    "text, unnamed": (IMAGES, ["a", "b"] * 2, None, "label 'a' of image 0 is text: use class numbers 0..K-1, or name"),
    "text, unknown": (IMAGES, ["a", "b", "c", "a"], "ab", "label 'c' of image 2 is not one of the 2 classes"),
    "text and numbers": (IMAGES, ["a", 1, "b", 0], "ab", "labels must be integers"),
    "digits as text": (IMAGES, ["0", "1"] * 2, None, "is text: use class numbers"),
    "nothing": (IMAGES, None, None, "labels must be integers"),
    "one number": (IMAGES, 1, None, "4 images need 4 labels in one row, got shape ()"),
    "ragged": (IMAGES, [[0], [1, 0], [1], [0]], None, "labels must be integers"),
    "transposed": (IMAGES, torch.eye(2)[[0, 1, 0]], None, "4 images need 4 labels in one row, got shape (3, 2)"),
    "two hot": (IMAGES, torch.ones(4, 2), None, "the label of image 0 is a row of 2 values that is not one-hot"),
    "complex": (IMAGES, LABELS * 1j, None, "got torch.complex64"),
    "one class": (IMAGES, LABELS * 0, None, "2 classes"),
}


def test_what_cannot_be_converted_is_refused_in_one_line() -> None:
    for case, (images, labels, classes, expected) in REFUSED.items():
        with pytest.raises(InputError) as caught:
            Dataset.from_tensors(images, labels, classes)
        assert expected in str(caught.value), case
        assert "\n" not in str(caught.value), case


@pytest.mark.smoke
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_float_images_of_8_bit_values_are_converted_exactly(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    data = Dataset.from_tensors((pixels.double() / 255).to(dtype), LABELS)
    assert torch.equal(data.images, pixels)
    assert data.digest == Dataset.from_tensors(pixels, LABELS).digest
    assert "converted to 8 bits" in data.summary()


def test_labels_of_any_number_type_are_converted() -> None:
    expected = Dataset.from_tensors(IMAGES, LABELS)
    for dtype in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float32, torch.float16):
        assert Dataset.from_tensors(IMAGES, LABELS.to(dtype)).digest == expected.digest, dtype
    for given in (LABELS.numpy(), LABELS.tolist(), LABELS[:, None]):
        assert Dataset.from_tensors(IMAGES.numpy(), given).digest == expected.digest, type(given)
    for one_hot in (torch.eye(2)[LABELS], torch.eye(2)[LABELS].long()):
        data = Dataset.from_tensors(IMAGES, one_hot)
        assert data.digest == expected.digest
        assert "one-hot labels were converted" in data.summary()
    for one_hot in (torch.eye(2)[LABELS].bool(), torch.eye(2)[LABELS].half(), np.eye(2)[LABELS].tolist()):
        assert Dataset.from_tensors(IMAGES, one_hot).labels.tolist() == LABELS.tolist()
    assert len(Dataset.from_tensors(IMAGES, torch.eye(5)[LABELS]).classes) == 5, "one for each column"


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", ">i4", "f4", "f2", "O"])
def test_arrays_of_any_number_type_are_labels(dtype: str) -> None:
    given = LABELS.numpy().astype(dtype)
    assert Dataset.from_tensors(IMAGES, given).labels.tolist() == LABELS.tolist()


def test_labels_without_a_zero_are_noted() -> None:
    assert "no image has label 0" in Dataset.from_tensors(IMAGES, LABELS + 1).summary()
    assert "label 0" not in Dataset.from_tensors(IMAGES, LABELS).summary()
    assert "label 0" not in Dataset.from_tensors(IMAGES, LABELS + 1, "abc").summary()


def test_the_order_of_numbered_classes_is_said() -> None:
    names = sorted(map(str, range(11)))
    assert "classes are sorted as text (10 before 2)" in Dataset.from_tensors(IMAGES, LABELS, names).summary()
    assert "sorted" not in Dataset.from_tensors(IMAGES, LABELS, list(map(str, range(11)))).summary()


def test_names_of_classes_are_labels() -> None:
    expected = Dataset.from_tensors(IMAGES, LABELS, ("dog", "cat"))
    for names in (["dog", "cat"] * 2, ("dog", "cat", "dog", "cat"), np.array(["dog", "cat"] * 2)):
        assert Dataset.from_tensors(IMAGES, names, ("dog", "cat")).digest == expected.digest


def test_a_series_is_read_by_position() -> None:
    pandas = pytest.importorskip("pandas")
    shuffled = pandas.Series([0, 1, 1, 0], index=[3, 0, 1, 2])
    assert Dataset.from_tensors(IMAGES, shuffled).labels.tolist() == [0, 1, 1, 0]
    text = pandas.Series(["b", "a", "a", "b"], index=[3, 0, 1, 2])
    assert Dataset.from_tensors(IMAGES, text, "ab").labels.tolist() == [1, 0, 0, 1]


def test_labels_may_lie_anywhere_in_the_named_classes() -> None:
    data = Dataset.from_tensors(IMAGES, LABELS + 100, list(range(1000)))
    assert (len(data.classes), data.labels.tolist()) == (1000, [100, 101, 100, 101])


def test_a_dataset_is_described_in_one_line() -> None:
    data = Dataset.from_tensors(IMAGES, LABELS, name="<a>")
    assert repr(data) == f"Dataset(<a>: 4 images 1×2×2, 2 classes, digest {data.digest})"
    assert data._repr_html_() == f"<code>Dataset(&lt;a&gt;: 4 images 1×2×2, 2 classes, digest {data.digest})</code>"
    assert data.summary() == "<a>: 4 grey images of 2×2 pixels, 2 classes of 2 to 2 images"


def test_subset_keeps_the_order_and_follows_content() -> None:
    split = small()
    part = split.subset([5, 2, 9])
    assert torch.equal(part.images, split.images[[5, 2, 9]])
    assert part.labels.tolist() == [1, 0, 1]
    assert part.digest == small().subset(torch.tensor([5, 2, 9])).digest
    assert len({split.digest, part.digest, split.subset([2, 5, 9]).digest}) == 3
    assert split.subset(range(3, 7)).images.data_ptr() == split.images[3:].data_ptr(), "a consecutive range is a view"
    for wrong in ([20], [-1], [0.5]):
        with pytest.raises(InputError):
            split.subset(wrong)  # type: ignore[arg-type]


def test_the_digest_is_of_pixels_labels_and_classes() -> None:
    other = IMAGES.clone()
    other[0, 0, 0, 0] = 1
    variants = [(IMAGES, LABELS, "ab"), (other, LABELS, "ab"), (IMAGES, 1 - LABELS, "ab"), (IMAGES, LABELS, "ac")]
    digests = [Dataset.from_tensors(*variant).digest for variant in variants]
    assert len(set(digests)) == 4
    assert digests[0] == Dataset.from_tensors(IMAGES.clone(), LABELS.clone(), "ab", name="elsewhere").digest


def test_limit_is_stratified_seeded_and_exact() -> None:
    labels = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    split = Dataset.from_tensors(torch.zeros(100, 1, 1, 1, dtype=torch.uint8), labels)
    assert np.bincount(split.limit(50, 0).labels).tolist() == [45, 4, 1]
    assert np.bincount(split.limit(5, 0).labels).tolist() == [3, 1, 1]
    assert [len(split.limit(n, 0)) for n in (1, 2, 3, 99)] == [1, 2, 3, 99]
    assert split.limit(50, 0).digest == split.limit(50, 0).digest != split.limit(50, 1).digest
    assert split.limit(100, 0) is split
    with pytest.raises(InputError, match="at least 1 image"):
        split.limit(0, 0)
