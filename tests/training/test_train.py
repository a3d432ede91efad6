"""The job `train`: a function that returns a result."""

import copy
import json
import os
from dataclasses import replace

import pytest
import torch
from torch import nn
from training_samples import block_network, blocks, same_weights

from inoculate.artifacts.files import read_json
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.load import load_data
from inoculate.models.loading.load import load_model
from inoculate.training.methods.pgd_at import PGDAT
from inoculate.training.methods.registry import get_method
from inoculate.training.options import TrainingOptions
from inoculate.training.result import Training
from inoculate.training.task import load_training_data
from inoculate.training.train import train

THREAT = Threat("linf", 0.1)
SHORT = TrainingOptions(batch_size=20, limit=40, image_size=8)


@pytest.mark.smoke
def test_a_name_and_a_spec_give_a_trained_classifier():
    seen = []
    found = train("small_cnn", "digits", "fgsm_rs", THREAT, epochs=2, options=SHORT, progress=lambda *a: seen.append(a))
    assert found.method == "fgsm_rs"
    assert not found.model.training
    assert found.model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert [entry["round"] for entry in found.history] == [1, 2, 3, 4]
    assert found.best["val_robust"] == max(entry["val_robust"] for entry in found.history)
    assert seen[-1] == ("train small_cnn on digits", 4, 4)
    assert found.table()["update"] == [1, 2, 3, 4]
    assert "small_cnn, fgsm_rs" in found._repr_html_()


def test_a_folder_holds_what_the_result_holds(tmp_path):
    out = tmp_path / "out"
    options = replace(SHORT, method_options={"steps": 1, "average": 0.9}, fallback="fgsm_rs")
    found = train("small_cnn", "digits", "pgd_at", THREAT, epochs=1, out=out, options=options)
    assert not found.reused
    assert sorted(path.name for path in out.iterdir()) == ["history.json", "model.json", "weights.safetensors"]
    described = read_json(out / "model.json")
    assert described["method"]["steps"] == 1
    assert described["threat"]["eps"] == 0.1
    assert described["fallback"] == "fgsm_rs"
    assert same_weights(load_model(out), found.model)
    again = train("small_cnn", "digits", "pgd_at", THREAT, epochs=1, out=out, options=options)
    assert again.reused
    other = train("small_cnn", "digits", "pgd_at", THREAT, epochs=2, out=out, options=options)
    assert not other.reused
    assert same_weights(load_model(out), other.model)


def test_save_and_load_are_inverse(tmp_path):
    found = train("small_cnn", "digits", "fgsm_rs", THREAT, epochs=1, options=SHORT)
    found = replace(found, warnings=("a warning",))
    loaded = Training.load(found.save(tmp_path / "saved"))
    assert same_weights(found.model, loaded.model)
    for name in ("history", "facts", "warnings", "spec", "method", "best"):
        assert getattr(loaded, name) == getattr(found, name), name
    assert "validation accuracy" in repr(loaded)
    assert "<svg" in loaded.report(tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_module_is_copied_and_trained(tmp_path):
    model, data = block_network().train(), blocks()
    before = copy.deepcopy(model.state_dict())
    found = train(model, data, epochs=1, out=tmp_path / "out", options=TrainingOptions(batch_size=20))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not same_weights(found.model, model)
    assert found.spec is None
    assert same_weights(Training.load(tmp_path / "out", block_network(seed=3)).model, found.model)
    with pytest.raises(InputError, match="your own module Sequential"):
        Training.load(tmp_path / "out")
    assert train(model, data, epochs=1, out=tmp_path / "out", options=TrainingOptions(batch_size=20)).reused
    other = block_network(seed=1)
    assert not train(other, data, epochs=1, out=tmp_path / "out", options=TrainingOptions(batch_size=20)).reused


def test_data_may_come_in_any_form():
    data, options = blocks(), TrainingOptions(batch_size=20)
    whole = train("small_cnn", data, epochs=1, options=options)
    pair = train("small_cnn", (data.images, data.labels), epochs=1, options=options)
    assert same_weights(whole.model, pair.model)
    parts = {"train": data.subset(range(80)), "val": data.subset(range(80, 120))}
    assert train("small_cnn", parts, epochs=1, options=options).history[0]["update"] == 4
    with pytest.raises(InputError, match="add the missing part"):
        train("small_cnn", {"train": data}, options=options)


def test_the_test_part_is_never_used():
    parts = load_training_data("digits", TrainingOptions(image_size=8, seed=3), None)
    test = {image.numpy().tobytes() for image in load_data("digits", "test", image_size=8).images}
    for data in parts:
        assert not test & {image.numpy().tobytes() for image in data.images}


def test_methods_may_be_objects():
    by_name = train("small_cnn", blocks(), "pgd_at", THREAT, epochs=1,
                    options=TrainingOptions(batch_size=20, method_options={"steps": 1}))  # fmt: skip
    for method in (PGDAT(steps=1), get_method("pgd_at", steps=1)):
        found = train("small_cnn", blocks(), method, THREAT, epochs=1, options=TrainingOptions(batch_size=20))
        assert found.facts == by_name.facts
        assert same_weights(found.model, by_name.model)
    standard = train("small_cnn", blocks(), "standard", THREAT, epochs=1, options=TrainingOptions(batch_size=20))
    assert "val_robust" not in standard.history[0]


def test_helpers_may_be_folders_or_modules(tmp_path):
    short = TrainingOptions(batch_size=20, method_options={"steps": 1})
    teacher = train("small_cnn", blocks(), epochs=1, out=tmp_path / "teacher", options=TrainingOptions(batch_size=20))
    by_folder, by_module = (
        train("small_cnn", blocks(), "ard", THREAT, epochs=1, options=replace(short, teacher=each))
        for each in (tmp_path / "teacher", teacher.model)
    )
    assert same_weights(by_folder.model, by_module.model)
    ensemble = replace(short, surrogates=(str(tmp_path / "teacher"),))
    assert train("small_cnn", blocks(), "ensemble", THREAT, epochs=1, options=ensemble).method == "ensemble"


def test_another_helper_is_another_training(tmp_path):
    for seed in (0, 1):
        options = TrainingOptions(batch_size=20, seed=seed)
        train("small_cnn", blocks(), epochs=1, out=tmp_path / "teacher", options=options)
        options = TrainingOptions(batch_size=20, method_options={"steps": 1}, teacher=tmp_path / "teacher")
        assert not train("small_cnn", blocks(), "ard", THREAT, epochs=1, out=tmp_path / "out", options=options).reused
        assert train("small_cnn", blocks(), "ard", THREAT, epochs=1, out=tmp_path / "out", options=options).reused


def test_an_interrupted_job_resumes(tmp_path):
    def interrupt(what, done, total):
        if done == 5:
            raise KeyboardInterrupt

    whole = train("small_cnn", blocks(), epochs=2, options=TrainingOptions(batch_size=20, augment="digits"))
    out = tmp_path / "out"
    for epochs in (2, 2):
        with pytest.raises(KeyboardInterrupt):
            train("small_cnn", blocks(), epochs=epochs, out=out, progress=interrupt,
                  options=TrainingOptions(batch_size=20, augment="digits"))  # fmt: skip
        assert not (out / "model.json").exists()
        assert len(list(out.glob(".unfinished-*"))) == 1
    found = train("small_cnn", blocks(), epochs=2, out=out, options=TrainingOptions(batch_size=20, augment="digits"))
    assert same_weights(found.model, whole.model)
    assert not list(out.glob(".unfinished-*"))


def test_a_suspicious_eps_is_a_warning():
    options = TrainingOptions(batch_size=20)
    found = train("small_cnn", blocks(), PGDAT(steps=1), Threat("l2", 20.0), epochs=1, options=options)
    assert any("was 20/255 meant?" in message for message in found.warnings)


def test_outputs_are_protected(tmp_path):
    data, options = blocks(), TrainingOptions(batch_size=20)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "README.md").write_text("A card.")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "weights.safetensors").write_text("another program's")
    for folder, says in [("a", "README.md"), ("b", "not of a model that was trained here")]:
        with pytest.raises(InputError, match=says):
            train("small_cnn", data, epochs=1, out=tmp_path / folder, options=options)
    train("small_cnn", data, epochs=1, out=tmp_path / "teacher", options=options)
    with pytest.raises(InputError, match="which would be lost"):
        train("small_cnn", data, "ard", THREAT, out=tmp_path / "teacher",
              options=replace(options, teacher=tmp_path / "teacher"))  # fmt: skip
    if os.geteuid():  # root may write everywhere
        (tmp_path / "c").mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot write"):
            train("small_cnn", data, out=tmp_path / "c", options=options)


class WithFeatures(nn.Module):
    """Returns logits and features in train mode."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3)

    def forward(self, x):
        logits = self.layer(x.flatten(1))
        return (logits, x) if self.training else logits


def test_a_module_may_return_more_than_logits():
    found = train(WithFeatures(), blocks(), "fgsm_rs", THREAT, epochs=1, options=TrainingOptions(batch_size=20))
    assert found.best["val_accuracy"] > 0


MISTAKES = [
    (
        {"model": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3)), "options": {"batch_size": 1}},
        "BatchNorm needs several images",
    ),
    ({"model": nn.Sequential(nn.Flatten(), nn.Linear(9, 3))}, "cannot be trained on batches of 20 images"),
    ({"model": "resnet18:factory"}, "builds a new timm network or small_cnn"),
    ({"model": "smal_cnn"}, "small_cnn"),
    ({"model": 3}, "give an nn.Module or a network's name"),
    ({"model": nn.Flatten()}, "requires a gradient"),
    ({"method": "pgdat"}, "did you mean 'pgd_at'"),
    ({"method": "pgd_at", "threat": Threat("linf", 0.0)}, "no attack"),
    ({"epochs": 0}, "epochs 0"),
    ({"options": {"batch_size": 0}}, "batch_size 0"),
    ({"options": {"lr": -1.0}}, "above 0"),
    ({"options": {"precision": "fp16"}}, "precision 'fp16' is unknown"),
    ({"options": {"stem": "large"}}, "stem 'large' is unknown"),
    ({"options": {"augment": "auto"}}, "unknown augmentation"),
    ({"options": {"accumulate": 3}}, "multiple of 3"),
    ({"options": {"method_options": {"steps": 1}}}, "has no options"),
    ({"options": {"teacher": "folder"}}, "takes no teacher"),
    ({"options": {"fallback": "pgd_at"}}, "not monitored"),
    ({"options": {"tracker": "tensorboard"}}, "give one with out"),
    ({"method": "rslad"}, "needs a robust teacher"),
    ({"model": WithFeatures(), "options": {"stem": "small"}}, "leave stem out"),
    ({"data": {"train": "digits", "val": "digits"}}, "the part 'train' is given as 'digits'"),
    ({"method": "pgd_at", "threat": ["linf"]}, "is none: give one such as"),
]


def test_mistakes_are_refused_before_anything_is_trained(tmp_path):
    for changes, says in MISTAKES:
        given = {"model": "small_cnn", "data": blocks(), **changes}
        with pytest.raises(InputError, match=says) as caught:
            train(**{**given, "options": TrainingOptions(**{"batch_size": 20, **changes.get("options", {})})})
        assert "\n" not in str(caught.value), changes


def test_results_are_json(tmp_path):
    found = train("small_cnn", blocks(), "trades", THREAT, epochs=1,
                  options=TrainingOptions(batch_size=20, method_options={"steps": 1}))  # fmt: skip
    assert json.loads(json.dumps([found.facts, found.history])) == [found.facts, found.history]


def test_a_batch_holds_at_most_all_images() -> None:
    large, whole = (
        train(
            "small_cnn", {"train": blocks(), "val": blocks()}, epochs=1, options=TrainingOptions(batch_size=size)
        ).model
        for size in (10**6, 120)
    )
    same = zip(large.state_dict().values(), whole.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same)
