"""The training loop: it learns, ends early where it should, and names what went wrong."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_samples import RECIPE, block_network, blocks, fit_blocks

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.training.batches import batch_indices
from inoculate.training.methods.base import standard
from inoculate.training.methods.registry import get_method
from inoculate.training.monitors import best_round
from inoculate.training.recipe import updates_in
from inoculate.training.validation import clean_accuracy


@pytest.mark.smoke
def test_learns_and_restores_the_best_round(tmp_path):
    model, history = fit_blocks(tmp_path)
    assert len(history) == 3
    assert history[-1]["update"] == 30
    assert max(entry["val_accuracy"] for entry in history) > 0.8
    best = history[best_round(history)]
    assert clean_accuracy(model, blocks()) == pytest.approx((best["val_loss"], best["val_accuracy"]), abs=1e-5)
    assert not model.training


def test_global_random_state_is_unchanged(tmp_path):
    before = torch.get_rng_state()
    fit_blocks(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def idle(model, optimizer, x, y, *, generator, progress=1.0, samples=None):
    """The network never changes, so that no round is better than the first."""
    optimizer.step()
    return {"loss": 1.0, "accuracy": 0.5}


@pytest.mark.parametrize(("rounds", "patience", "made"), [(10, 2, 7), (10, 1, 6), (3, 2, 3), (6, 3, 6), (2, 1, 2)])
def test_ends_when_patience_runs_out_in_the_second_half(tmp_path, rounds, patience, made):
    """Five of ten rounds do not count: their learning rate is high, and validation accuracy jumps."""
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    _, history = fit_blocks(tmp_path, idle, replace(RECIPE, rounds=rounds, patience=patience), fixed)
    assert len(history) == made
    assert best_round(history) == 0


def test_a_diverging_loss_is_an_error_that_says_what_to_do(tmp_path):
    model = block_network()
    model[0].weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"diverged at update 1 .*batch 1 of epoch 1, .*lower lr; there is no earlier"):
        fit_blocks(tmp_path, model=model)


def test_a_diverging_loss_names_the_epoch(tmp_path):
    """Of 120 images in batches of 100, the sixth update begins with image 500, in the fifth epoch."""
    calls = []

    def diverges(model, optimizer, x, y, *, generator, progress=1.0, samples=None):
        calls.append(progress)
        optimizer.step()
        return {"loss": float("nan") if len(calls) == 6 else 1.0, "accuracy": 0.5}

    with pytest.raises(InputError, match=r"diverged at update 6 of 30 \(batch 1 of epoch 5, "):
        fit_blocks(tmp_path, diverges, replace(RECIPE, batch_size=100))


def test_too_little_memory_is_an_error_that_says_what_to_do(tmp_path):
    def method(model, optimizer, x, y, *, generator, progress=1.0, samples=None):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(InputError, match="not enough memory to train on 16 images at once: use a smaller batch size"):
        fit_blocks(tmp_path, method, replace(RECIPE, batch_size=16))


def test_a_divergence_names_the_last_good_weights(tmp_path):
    def diverges(model, optimizer, x, y, *, generator, progress=1.0, samples=None):
        metrics = standard(model, optimizer, x, y, generator=generator)
        return {**metrics, "loss": float("nan")} if progress > 0.6 else metrics

    with pytest.raises(InputError, match=r"update 20 of 30 \(batch 5 of epoch 3.*lr .*update 10.*best.safetensors"):
        fit_blocks(tmp_path, diverges)
    assert (tmp_path / "best.safetensors").is_file()


def test_a_divergence_in_the_last_update_of_a_round_is_found(tmp_path):
    def breaks(model, optimizer, x, y, *, generator, progress=1.0, samples=None):
        metrics = standard(model, optimizer, x, y, generator=generator)
        if progress > 0.96:
            next(model.parameters()).data.fill_(float("nan"))
        return metrics

    with pytest.raises(InputError, match=r"diverged by update 30: .*nan; lower lr; .*update [12]0.*best.safetensors"):
        fit_blocks(tmp_path, breaks)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["history"][-1]["update"] == 20


def test_batches_follow_shuffles_without_repeats():
    seen = torch.cat([batch_indices(10, 4, update, seed=1) for update in range(5)])
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert not torch.equal(seen[:10], seen[10:])


def test_epochs_are_passes_over_the_images():
    for epochs, images, updates in [(2, 128, 2), (2, 64, 1), (1, 24, 1), (3, 280, 7), (10, 43_750, 3418)]:
        assert updates_in(epochs, images, 128) == updates, (epochs, images)


def test_other_optimisers_and_schedules_learn_too(tmp_path):
    for optimizer, schedule, lr in [("adamw", "cosine", 0.01), ("sgd", "one-cycle", 0.05), ("sgd", "cosine", 0.05)]:
        recipe = replace(RECIPE, optimizer=optimizer, schedule=schedule, lr=lr)
        _, history = fit_blocks(tmp_path / f"{optimizer} {schedule}", recipe=recipe)
        assert max(entry["val_accuracy"] for entry in history) > 0.6, (optimizer, schedule)


def test_very_short_trainings_work(tmp_path):
    for updates in range(1, 6):
        _, history = fit_blocks(tmp_path / str(updates), recipe=replace(RECIPE, updates=updates, rounds=1))
        assert history[-1]["update"] == updates


def test_a_compiled_network_is_trained_alike_and_restored(tmp_path, monkeypatch):
    compiled_classes, graphs, compile_ = [], [], nn.Module.compile

    def without_compiler(self, mode):
        assert mode is None  # graphs of kernels are for GPUs
        compiled_classes.append(type(self))
        compile_(self, backend=counting)  # the same calls, without a compiler

    def counting(graph, inputs):
        graphs.append(inputs)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", without_compiler)
    torch._dynamo.reset()
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    plain = nn.Sequential(*layers, nn.Linear(72, 3))  # of any image size, so that its folded copy can be verified
    compiled, threat = copy.deepcopy(plain), Threat("linf", 0.05)
    for model, wanted in ((plain, False), (compiled, True)):
        recipe = replace(RECIPE, updates=24, rounds=2, compile=wanted, precision="fp32", average=0.9)
        fit_blocks(tmp_path / str(wanted), get_method("fgsm_rs").begin(threat), recipe, model, threat=threat)
    assert len(compiled_classes) == 3  # the network in both rounds, and the folded copy that examples are crafted on
    assert compiled._compiled_call_impl is None
    assert 2 <= len(graphs) <= 4  # a kind of pass is compiled once, not at each of 24 updates
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_network_that_cannot_be_compiled_is_refused_in_one_line(tmp_path, monkeypatch):
    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler found\nand a long tale")

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: compile_(self, backend=no_compiler))
    model = block_network()
    with pytest.raises(InputError, match=r"compiled here \(no C\+\+ compiler found\): leave compile out") as caught:
        fit_blocks(tmp_path, recipe=replace(RECIPE, compile=True), model=model)
    assert "\n" not in str(caught.value)
    assert model._compiled_call_impl is None
