import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.training import trainer as loop
from inoculate.training import validation
from inoculate.training.methods.base import standard
from inoculate.training.methods.registry import get_method
from inoculate.training.samples import training_set
from inoculate.training.trainer import Recipe, batch_indices, best_round, fit
from inoculate.training.validation import validate


@pytest.fixture(scope="module")
def split():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    images = torch.randint(0, 90, (120, 1, 8, 8), generator=g)
    images += labels.view(-1, 1, 1, 1) * 60
    return Dataset.from_tensors(images.to(torch.uint8), labels, classes=("a", "b", "c"))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(72, 3)
    )


RECIPE = Recipe(updates=30, rounds=3, batch_size=16, lr=0.01, augment="digits")


def run(split, folder, recipe=RECIPE, **options):
    folder.mkdir(exist_ok=True)
    model = options.pop("model", None) or network()
    samples = training_set("standard", split, (), seed=0)
    history = fit(model, samples, split, standard, recipe, seed=5, folder=folder, **options)
    return model, history


def test_learns_and_restores_the_best_round(split, tmp_path):
    model, history = run(split, tmp_path / "a")
    assert len(history) == 3
    assert history[-1]["update"] == 30
    assert max(h["val_accuracy"] for h in history) > 0.8
    best = history[best_round(history)]
    assert validate(model, split) == pytest.approx((best["val_loss"], best["val_accuracy"]), abs=1e-5)
    assert not model.training


@pytest.mark.parametrize("stop_at", [3, 10, 11, 25, 29])
def test_interrupted_training_ends_with_the_same_weights(split, tmp_path, stop_at):
    expected, _ = run(split, tmp_path / "whole")

    def interrupt(done, total, facts):
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(split, tmp_path / "cut", progress=interrupt)
    # Once a checkpoint is there, the weights come from it, not from the network that is handed in.
    resumed, history = run(split, tmp_path / "cut", model=network(seed=99 if stop_at > 10 else 0))
    assert len(history) == 3
    for a, b in zip(expected.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_an_interrupted_mean_draws_what_an_uninterrupted_one_does(split, tmp_path):
    """Dropout before BatchNorm: the statistics of the mean weights depend on what is dropped."""
    recipe = replace(RECIPE, average=0.9)

    def dropping(seed=0):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.Dropout(0.5), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 3)
        )

    expected, _ = run(split, tmp_path / "whole", recipe, model=dropping())

    def interrupt(done, total, facts):
        if done == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(split, tmp_path / "cut", recipe, model=dropping(), progress=interrupt)
    torch.rand(3)  # another state of the global generator
    resumed, _ = run(split, tmp_path / "cut", recipe, model=dropping(9))
    for a, b in zip(expected.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_one_answer_for_all_is_never_the_best_round():
    """It withstands every attack on the images it is right on; what has learnt something goes before it."""
    constant = {"val_accuracy": 0.11, "val_majority": 0.11, "val_robust": 0.11, "val_loss": 2.3}
    weak, strong = ({**constant, "val_accuracy": 0.9, "val_robust": robust} for robust in (0.05, 0.3))
    assert best_round([constant, weak, constant]) == 1
    assert best_round([weak, constant, strong]) == 2
    assert best_round([constant, {**constant, "val_robust": 0.0}]) == 0


def test_a_damaged_checkpoint_starts_over(split, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / loop.CHECKPOINT).write_bytes(b"PK\x03\x04 nonsense")
    _, history = run(split, tmp_path / "a")
    assert len(history) == 3


def test_global_random_state_is_left_alone(split, tmp_path):
    model = network()
    before = torch.get_rng_state()
    run(split, tmp_path / "a", model=model)
    assert torch.equal(before, torch.get_rng_state())


def test_stops_when_patience_runs_out(split, tmp_path, monkeypatch):
    accuracies = iter([(1.0, 0.9), (1.0, 0.8), (1.0, 0.7), (1.0, 0.6)])
    monkeypatch.setattr(validation, "validate", lambda *a: next(accuracies))
    _, history = run(split, tmp_path / "a", replace(RECIPE, rounds=10, patience=2))
    assert len(history) == 3
    assert best_round(history) == 0


def test_a_diverging_loss_stops_with_a_cure(split, tmp_path):
    model = network()
    model[0].weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"diverged at update 1.*lower lr"):
        run(split, tmp_path / "a", model=model)
    with pytest.raises(InputError, match=r"batch 1 of epoch 1, "):
        run(split, tmp_path / "b", model=model)


def test_a_diverging_loss_names_the_epoch_that_it_is_in(split, tmp_path):
    """Of 120 images in batches of 100, the sixth update begins the sixth hundred: image 500, in the fifth pass."""
    calls = []

    def update(model, optimizer, x, y, *, generator, share=1.0):
        calls.append(share)
        optimizer.step()
        return {"loss": float("nan") if len(calls) == 6 else 1.0, "accuracy": 0.5}

    samples = training_set("standard", split, (), seed=0)
    with pytest.raises(InputError, match=r"diverged at update 6 of 30 \(batch 1 of epoch 5, "):
        fit(network(), samples, split, update, replace(RECIPE, batch_size=100), seed=0, folder=tmp_path)


def test_batches_walk_through_shuffles_without_repeats():
    seen = torch.cat([batch_indices(10, 4, update, seed=1) for update in range(5)])
    assert sorted(seen[:10].tolist()) == list(range(10))
    assert sorted(seen[10:].tolist()) == list(range(10))
    assert not torch.equal(seen[:10], seen[10:])


@pytest.mark.parametrize(("optimizer", "schedule"), [("adamw", "cosine"), ("sgd", "one-cycle"), ("sgd", "cosine")])
def test_other_optimisers_and_schedules_learn_too(split, tmp_path, optimizer, schedule):
    recipe = replace(RECIPE, optimizer=optimizer, schedule=schedule, lr=0.05 if optimizer == "sgd" else 0.01)
    _, history = run(split, tmp_path / "a", recipe)
    assert max(h["val_accuracy"] for h in history) > 0.6


@pytest.mark.parametrize("updates", [1, 2, 3, 4, 5])
def test_very_short_trainings_work(split, tmp_path, updates):
    _, history = run(split, tmp_path / "a", replace(RECIPE, updates=updates, rounds=1))
    assert history[-1]["update"] == updates


def test_a_compiled_network_is_trained_alike_and_is_itself_again(split, tmp_path, monkeypatch):
    asked, graphs, compile_ = [], [], nn.Module.compile

    def quickly(self, mode):
        assert mode is None  # graphs of kernels are for GPUs
        asked.append(type(self))
        compile_(self, backend=counting)  # the same calls, without a compiler

    def counting(graph, inputs):
        graphs.append(inputs)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", quickly)
    torch._dynamo.reset()
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten()]
    plain = nn.Sequential(*layers, nn.Linear(72, 3))  # of any image size, so that its folded copy can be proven
    compiled, threat = copy.deepcopy(plain), Threat("linf", 0.05)
    for model, wanted in ((plain, False), (compiled, True)):
        folder = tmp_path / str(wanted)
        folder.mkdir()
        recipe = replace(RECIPE, updates=24, rounds=2, compile=wanted, precision="fp32", average=0.9)
        samples, method = training_set("standard", split, (), seed=0), get_method("fgsm_rs").begin(threat)
        fit(model, samples, split, method, recipe, seed=5, folder=folder, threat=threat)
    assert len(asked) == 3  # the network in both rounds, and the folded copy that examples are crafted on
    assert compiled._compiled_call_impl is None
    assert 2 <= len(graphs) <= 4  # a kind of pass is compiled once, not at each of 24 updates
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_network_that_cannot_be_compiled_is_refused_in_one_line(split, tmp_path, monkeypatch):
    def no_compiler(graph, inputs):
        raise RuntimeError("no C++ compiler found\nand a long tale")

    compile_ = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode: compile_(self, backend=no_compiler))
    model = network()
    with pytest.raises(InputError, match=r"compiled here \(no C\+\+ compiler found\): leave compile out") as caught:
        run(split, tmp_path / "a", replace(RECIPE, compile=True), model=model)
    assert "\n" not in str(caught.value)
    assert model._compiled_call_impl is None


@pytest.mark.parametrize("alarmed", [False, True])
def test_a_remedy_starts_from_the_good_weights_and_a_mean_of_its_own(split, tmp_path, monkeypatch, alarmed):
    """The second round ruins the weights; the mean of what follows must not remember them."""
    kept = []

    def update(model, optimizer, x, y, *, generator, share=1.0):
        if share < 1 / 3:
            return standard(model, optimizer, x, y, generator=generator)
        if share < 2 / 3:
            with torch.no_grad():
                model[5].weight[0] += 1
        elif not kept:
            kept.append(model[5].weight.detach().clone())
        return {"loss": 1.0, "accuracy": 0.5}

    if alarmed:
        monkeypatch.setattr(loop, "detect_failures", lambda history: [(2, "ruined")] if len(history) >= 2 else [])
        monkeypatch.setattr(loop, "detect_failure", lambda history: "ruined" if len(history) == 2 else None)
    history = fit(
        network(), training_set("standard", split, (), seed=0), split, update, replace(RECIPE, average=0.9),
        seed=5, folder=tmp_path, threat=Threat("linf", 0.005), fallback=update,
    )  # fmt: skip
    assert history[0]["val_robust"] > history[1]["val_robust"] + 0.2
    mean = torch.load(tmp_path / loop.CHECKPOINT, weights_only=True)["average"]["module.5.weight"]
    assert (kept[0][0].max() < 5) == alarmed
    assert torch.allclose(mean, kept[0], atol=1e-6) == alarmed
