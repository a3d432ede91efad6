"""An interrupted training resumes with the weights of an uninterrupted one."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from training_samples import (
    RECIPE,
    block_network,
    digit_network,
    fit_blocks,
    fit_digits,
    same_weights,
)

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.training.checkpoint import CHECKPOINT
from inoculate.training.methods.registry import get_method

THREAT = Threat("linf", 0.2)


def interrupt_at(update):
    def progress(done, total, metrics):
        if done == update:
            raise KeyboardInterrupt

    return progress


def test_interrupted_training_ends_with_the_same_weights(tmp_path):
    expected, _ = fit_blocks(tmp_path / "whole")
    for stop_at in (3, 10, 11, 25, 29):
        folder = tmp_path / str(stop_at)
        with pytest.raises(KeyboardInterrupt):
            fit_blocks(folder, progress=interrupt_at(stop_at))
        # Once there is a checkpoint, the weights come from it, not from the network that is passed.
        resumed, history = fit_blocks(folder, model=block_network(seed=99 if stop_at > 10 else 0))
        assert len(history) == 3
        assert same_weights(expected, resumed), stop_at


def test_resumed_averaged_weights_draw_as_uninterrupted_ones_do(tmp_path):
    """Dropout before BatchNorm: the statistics of the averaged weights depend on what is dropped."""
    recipe = replace(RECIPE, average=0.9)

    def dropping(seed=0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Conv2d(1, 8, 3, stride=2), nn.Dropout(0.5), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 3)
            )

    expected, _ = fit_blocks(tmp_path / "whole", recipe=recipe, model=dropping())
    with pytest.raises(KeyboardInterrupt):
        fit_blocks(tmp_path / "cut", recipe=recipe, model=dropping(), progress=interrupt_at(25))
    torch.rand(3)  # another state of the global generator
    resumed, _ = fit_blocks(tmp_path / "cut", recipe=recipe, model=dropping(9))
    assert same_weights(expected, resumed)


@pytest.mark.parametrize("name", ["free", "live_surrogate", "pgd_at"])
def test_an_interrupted_adversarial_training_ends_with_the_same_weights(name, tmp_path):
    short = {"steps": 2, "step": 0.7}
    options = {"pgd_at": short, "live_surrogate": {**short, "own_step": 1.0}}.get(name, {})

    def again(folder, **more):
        helpers = (digit_network(3, 8),) if name == "live_surrogate" else ()
        method = get_method(name, **options).begin(THREAT, helpers)
        return fit_digits(folder, method, THREAT, updates=24, batch_size=32, average=0.9, **more)[0]

    expected = again(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        again(tmp_path / "cut", progress=interrupt_at(19))
    assert same_weights(expected, again(tmp_path / "cut", model=digit_network(seed=99)))


def test_a_damaged_checkpoint_starts_over(tmp_path):
    (tmp_path / CHECKPOINT).write_bytes(b"PK\x03\x04 nonsense")
    _, history = fit_blocks(tmp_path)
    assert len(history) == 3


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    fit_blocks(tmp_path)
    with pytest.raises(InputError, match="is of another network"):
        fit_blocks(tmp_path, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
