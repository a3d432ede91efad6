from __future__ import annotations

import numpy as np
import pytest
import torch

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset, partition, undersample


def small(n: int = 20, classes: int = 2) -> Dataset:
    images = torch.arange(n * 4, dtype=torch.uint8).reshape(n, 1, 2, 2)
    return Dataset.from_tensors(images, torch.arange(n) % classes)


def test_from_tensors_keeps_what_it_is_given() -> None:
    split = Dataset.from_tensors(torch.zeros(3, 3, 4, 5, dtype=torch.uint8), torch.tensor([0, 1, 0]), ("cat", "dog"))
    assert (len(split), split.channels, split.image_size, split.classes) == (3, 3, (4, 5), ("cat", "dog"))
    assert split.labels.dtype == torch.int64


IMAGES = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
LABELS = torch.tensor([0, 1, 0, 1])
BAD = {
    "float": (IMAGES.float(), LABELS, None, "round()"),
    "nan": (IMAGES.float() * torch.nan, LABELS, None, "NaN"),
    "int": (IMAGES.int(), LABELS, None, "uint8"),
    "3 dimensions": (IMAGES[:, 0], LABELS, None, "N×C×H×W"),
    "length": (IMAGES, LABELS[:3], None, "4 labels"),
    "empty": (IMAGES[:0], LABELS[:0], None, "no images"),
    "negative": (IMAGES, LABELS - 1, None, "-1"),
    "too large": (IMAGES, LABELS + 1, ("a", "b"), "outside 0..1"),
    "float labels": (IMAGES, LABELS.float(), None, "integers"),
    "one class": (IMAGES, LABELS * 0, None, "2 classes"),
    "channels": (torch.zeros(4, 2, 2, 3, dtype=torch.uint8), LABELS, None, "permute"),
}


@pytest.mark.parametrize("case", BAD)
def test_from_tensors_says_in_one_line_what_is_wrong(case: str) -> None:
    images, labels, classes, told = BAD[case]
    with pytest.raises(InputError) as caught:
        Dataset.from_tensors(images, labels, classes)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_subset_keeps_the_order_and_follows_content() -> None:
    split = small()
    part = split.subset([5, 2, 9])
    assert torch.equal(part.images, split.images[[5, 2, 9]])
    assert part.labels.tolist() == [1, 0, 1]
    assert part.digest == small().subset(torch.tensor([5, 2, 9])).digest
    assert len({split.digest, part.digest, split.subset([2, 5, 9]).digest}) == 3
    assert split.subset(range(3, 7)).images.data_ptr() == split.images[3:].data_ptr(), "a consecutive run is a view"
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
    with pytest.raises(InputError, match="--limit"):
        split.limit(0, 0)


@pytest.mark.parametrize("counts", [[3, 3], [700, 200, 100], [4, 50], [14] * 100, [3, 997], [5, 0, 6]])
def test_partition_is_disjoint_complete_and_holds_every_class(counts: list[int]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = partition(labels, seed=3)
    assert np.array_equal(np.sort(np.concatenate([parts.train, parts.val, parts.test])), np.arange(len(labels)))
    for part in (parts.train, parts.val, parts.test):
        assert set(labels[part]) == set(labels)
    again, other = partition(torch.from_numpy(labels), seed=3), partition(labels, seed=4)
    assert np.array_equal(parts.test, again.test)
    assert np.array_equal(parts.val, again.val)
    assert len(labels) < 10 or not np.array_equal(parts.test, other.test)


def test_partition_is_70_10_20_in_every_class() -> None:
    labels = np.repeat([0, 1], [700, 300])
    parts = partition(labels, seed=0)
    assert [np.bincount(labels[p]).tolist() for p in (parts.train, parts.val, parts.test)] == [
        [490, 210],
        [70, 30],
        [140, 60],
    ]


def test_partition_keeps_the_official_test_images() -> None:
    labels = np.arange(100) % 2
    mask = np.arange(100) >= 80
    parts = partition(labels, seed=0, test_mask=mask)
    assert parts.test.tolist() == list(range(80, 100))
    assert (len(parts.train), len(parts.val)) == (70, 10)
    assert not set(parts.test) & set(np.concatenate([parts.train, parts.val]))


def test_partition_names_a_class_that_is_too_small() -> None:
    with pytest.raises(InputError, match=r"class 'dog' has 2 images.*at least 3"):
        partition(np.array([0, 0, 0, 1, 1]), seed=0, classes=("cat", "dog"))
    with pytest.raises(InputError, match="class 1 has 1 image,"):
        partition(np.array([0, 0, 1, 1]), seed=0, test_mask=np.array([False, False, False, True]))


def test_undersample_balances_to_the_smallest_class_present() -> None:
    labels = np.array([0] * 9 + [2] * 4 + [3] * 6)
    rows = undersample(labels, 0)
    assert np.bincount(labels[rows]).tolist() == [4, 0, 4, 4]
    assert np.array_equal(rows, undersample(labels, 0))
    assert not np.array_equal(rows, undersample(labels, 1))
