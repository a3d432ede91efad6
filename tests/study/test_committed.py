"""The committed results of the paper's study come from the committed code and configuration."""

import os
from pathlib import Path

import pytest
import torch

from inoculate.artifacts.rows import read_rows
from inoculate.study.load import load_study
from inoculate.study.run import run_study

COMMITTED = Path(__file__).parents[2] / "results" / "paper" / "results.json"


@pytest.mark.slow
def test_one_cell_of_the_committed_study_is_measured_again(tmp_path):
    root = os.environ.get("INOCULATE_DATA")
    if not root or not (Path(root) / "mnist").is_dir():
        pytest.skip("needs MNIST: set INOCULATE_DATA to a folder that holds mnist/")
    study = load_study("paper")
    small = (
        study.model_dump(exclude={"explanations", "methods"})
        | {"models": ["resnet18"], "arms": ["standard"], "explanations": None}
        | {"datasets": {"mnist": study.datasets["mnist"].model_dump()}, "attacks": {"fgsm": {}}}
        | {"seeds": [0], "seeds_of": {}}
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the committed numbers were made
    try:
        result = run_study(small, out=tmp_path, data_root=root)
    finally:
        torch.set_num_threads(threads)
    committed = {row.key: row for row in read_rows(COMMITTED)}
    assert len(result) == 4
    for row in result:
        assert row.n == committed[row.key].n
        # another processor adds up in another order, and a training carries that on
        assert abs(row.correct - committed[row.key].correct) <= 0.03 * row.n
