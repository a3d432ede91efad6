"""The parts of a study's datasets."""

from dataclasses import replace

import numpy as np
import pytest
from study_samples import tiny

from inoculate.core.errors import InputError
from inoculate.data.sources import find_source
from inoculate.study.load import load_study
from inoculate.study.steps.split import check_split, load_split, save_split


def load(**changes):
    return load_split(load_study(tiny(**changes)), find_source("digits"), "digits", seed=0)


def test_the_parts_are_disjoint_and_the_test_part_is_shuffled():
    data = load()
    assert [len(part) for part in (data.train, data.val, data.test)] == [84, 12, 24]
    indices = np.concatenate([data.parts.train, data.parts.val, data.parts.test])
    assert len(set(indices.tolist())) == 120
    assert not np.array_equal(data.parts.test, np.sort(data.parts.test))
    assert data.train.name == "digits"


def test_the_sources_own_test_split_must_be_there():
    with pytest.raises(InputError, match="official_test: false"):
        load(split={"official_test": True})


def test_another_split_in_the_same_store_is_refused(tmp_path):
    data = load()
    save_split(tmp_path, data)
    check_split(tmp_path, data)
    other = replace(data.parts, train=data.parts.train[::-1].copy())
    for different in (replace(data, parts=other), replace(data, digest="another library's")):
        with pytest.raises(InputError, match="give another output folder"):
            check_split(tmp_path, different)
