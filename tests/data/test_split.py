from __future__ import annotations

import numpy as np
import pytest
import torch

from inoculate.core.errors import InputError
from inoculate.data.split import partition, stratified_sample, undersample


def test_a_stratified_sample_has_one_of_each_class_where_it_can() -> None:
    labels = np.array([0] * 90 + [1] * 8 + [2] * 2)
    assert np.bincount(labels[stratified_sample(labels, 50, seed=0)]).tolist() == [45, 4, 1]
    assert np.bincount(labels[stratified_sample(labels, 5, seed=0)]).tolist() == [3, 1, 1]
    assert [len(stratified_sample(labels, n, seed=0)) for n in (1, 2, 3, 99)] == [1, 2, 3, 99]


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
