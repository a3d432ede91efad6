"""Outputs are matched with the classes of the data by name, and accuracies are those that are known exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from class_samples import lookup, one_hot_data, one_hot_images
from timm.data import ImageNetInfo
from torch import nn

import inoculate as ino
from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.models.build import build_model
from inoculate.models.class_names import imagenet_names, read_class_names, simplified
from inoculate.models.classes import match_classes
from inoculate.models.export.files import write_onnx
from inoculate.models.loading.checkpoints import ModelSpec, save_model
from inoculate.models.loading.load import as_module, load_model

ANIMALS = ("cat", "dog", "emu", "fox")
T = ino.Threat("linf", 0.05)
# ImageNet's numbers of ten classes, as folders are called by their WordNet id, their name, or both
TEN = {"tench": 0, "English_springer": 217, "cassette-player": 482, "chain saw": 491, "church": 497}
TEN |= {"n03394916": 566, "n03417042_garbage_truck": 569, "GAS PUMP": 571, "golfball": 574, "parachute": 701}


def named(model: nn.Module, names: Any) -> nn.Module:
    model.class_names = names
    return model


def evaluated(model: nn.Module, data: Dataset, **options: Any) -> tuple[float, str]:
    """Clean accuracy, and all warnings, which the first screen shows."""
    found = ino.evaluate(model, data, ["fgsm"], [T], options=ino.EvaluationOptions(checks=False, **options))
    assert all("\n" not in warning for warning in found.warnings)
    assert len(found.classes) > int(max(found.per_image[row].predicted.max() for row in found))
    return found[0].accuracy, " | ".join(found.warnings)


def refused(model: nn.Module, data: Dataset, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        match_classes(model, data, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def animals() -> Dataset:
    return one_hot_data(ANIMALS, 10)


@pytest.mark.smoke
def test_given_names_put_the_outputs_in_the_order_of_the_data(animals: Dataset) -> None:
    outputs = [2, 0, 3, 1]  # the output of cat, dog, emu and fox
    names = ["Dog", "FOX", "cat", "e-mu"]
    accuracy, warned = evaluated(lookup(outputs), animals)
    assert accuracy == 0
    assert "right on 0% of 40 images, and on 100% once its outputs are renumbered" in warned
    accuracy, warned = evaluated(lookup(outputs), animals, class_names=names)
    assert accuracy == 1
    assert "put in the order of the data's classes, matched by the given names (0→2, 1→0, 2→3, 3→1)" in warned
    assert evaluated(lookup(range(4)), animals, class_names=ANIMALS) == (1, ""), "the same order"


def test_names_that_a_model_brings_are_used(animals: Dataset) -> None:
    outputs, names = [2, 0, 3, 1], ("dog", "fox", "cat", "emu")
    numbered = {str(index): name for index, name in enumerate(names)}
    carriers: list[Callable[[nn.Module], Any]] = [
        lambda model: setattr(model, "class_names", names),
        lambda model: setattr(model, "config", SimpleNamespace(id2label=dict(enumerate(names)))),
        lambda model: setattr(model, "config", SimpleNamespace(id2label=numbered)),
        lambda model: setattr(model, "pretrained_cfg", {"num_classes": 4, "label_names": list(names)}),
        lambda model: setattr(model[1], "pretrained_cfg", {
            "label_names": list("abcd"), "label_descriptions": dict(zip("abcd", names, strict=True)),
        }),
    ]  # fmt: skip
    for carry in carriers:
        model = lookup(outputs)
        carry(model)
        assert evaluated(model, animals)[0] == 1
        assert evaluated(ino.fast(model), animals)[0] == 1
    silent = lookup(range(4))
    silent.config = SimpleNamespace(id2label={index: f"LABEL_{index}" for index in range(4)})
    assert evaluated(silent, animals) == (1, "")


def test_names_of_the_model_that_are_no_ones_of_the_data_are_told(animals: Dataset) -> None:
    accuracy, warned = evaluated(named(lookup(range(4)), ("Katze", "Hund", "Emu", "Fuchs")), animals)
    assert accuracy == 1
    assert "the model calls output 0 'Katze', the data call class 0 'cat': they are taken to be in the same" in warned
    assert "have no fox" in refused(named(lookup(range(4)), ("dog", "cat", "emu", "wolf")), animals)


@pytest.mark.parametrize("classes", ["all", "subset"])
def test_a_model_of_imagenet_on_ten_of_its_classes(classes: str) -> None:
    data = one_hot_data(tuple(TEN), 5)
    model = lookup(list(TEN.values()), 1000)
    with torch.no_grad():  # a third of the tenches, which have a second white pixel, are taken for goldfish, output 1
        model[1].weight[1, 63] = 9
    images = data.images.clone()
    images[data.labels == 0, 0, 7, 7] = 255
    data = Dataset.from_tensors(images, data.labels, data.classes, data.name)
    accuracy, warned = evaluated(model, data, classes=classes)
    assert accuracy == (0.9 if classes == "all" else 1)
    assert "10 of the model's 1000 outputs are the classes of pixels, matched by ImageNet's WordNet ids" in warned
    assert f"a prediction is the largest of {'all 1000' if classes == 'all' else 'these 10'}" in warned
    assert f"--classes {'subset' if classes == 'all' else 'all'}" in warned


def test_attacks_on_all_outputs_and_on_the_subset_use_these() -> None:
    """Within eps an output that none of the data's classes has can be made the largest, but none of the others."""
    data = one_hot_data(tuple(TEN), 1)
    model = lookup(list(TEN.values()), 1000)
    with torch.no_grad():
        model[1].weight[:, 63] = 0
        model[1].weight[999, 63] = 40
    broken = {}
    for classes in ("all", "subset"):
        options = ino.EvaluationOptions(checks=False, classes=classes)  # type: ignore[arg-type]
        found = ino.evaluate(model, data, ["pgd"], [ino.Threat("linf", 0.15)], options=options)
        broken[classes] = found[1].correct
        others = found.per_image[found[1]].predicted
        assert classes == "subset" or [found.classes[each] for each in others.tolist()] == ["toilet tissue"] * 10
    assert broken == {"all": 0, "subset": 10}


def test_names_of_imagenet() -> None:
    names = imagenet_names(1000)
    assert names is not None
    info = ImageNetInfo()
    for index in range(0, 1000, 7):
        wordnet = info.index_to_label_name(index)
        for spelling in (wordnet, f"{wordnet}-{names.names[index]}", f"{index}.{wordnet}"):
            assert names.outputs_of(spelling) == {index}
        assert index in names.outputs_of(names.names[index].replace(" ", "_").upper())
        assert index in names.outputs_of(info.index_to_description(index))
    assert names.outputs_of("crane") == {134, 517}, "the bird and the machine"
    assert names.outputs_of("crane_bird") == {134}
    assert names.outputs_of("missile") == {657}, "not the projectile, whose other name it is"
    assert names.outputs_of("cat") == names.outputs_of("0") == frozenset()
    assert imagenet_names(10) is None


def test_all_classes_of_imagenet_in_alphabetical_folders_are_put_in_order() -> None:
    names = imagenet_names(1000)
    assert names is not None
    wordnet = ImageNetInfo().label_names()
    data = Dataset.from_tensors(one_hot_images(torch.arange(50)), torch.arange(50), sorted(wordnet))
    model = lookup(range(50), 1000)
    assert match_classes(model, data)[0] is model, "the order of the ids is ImageNet's"
    folders = sorted(name for name in names.names if len(names.outputs_of(name)) == 1)
    some = folders[::20][:50]
    outputs = [next(iter(names.outputs_of(name))) for name in some]
    assert evaluated(lookup(outputs, 1000), one_hot_data(some, 1))[0] == 1


def test_what_cannot_be_matched_is_refused_with_the_way_on(animals: Dataset) -> None:
    big = lookup(range(4), 1000)
    assert "no name of pixels (cat, dog, emu, fox) is one of ImageNet's" in refused(big, animals)
    assert "--class-names" in refused(big, animals)
    assert "have no emu, fox: rename these" in refused(big, one_hot_data(("tench", "goldfish", "emu", "fox"), 2))
    assert "class 'crane' of pixels may be output 134 (crane bird) or 517 (crane): call it by" in refused(
        big, one_hot_data(("crane", "tench"), 2)
    )
    both = one_hot_data(("tench", "n01440764"), 2)
    assert "classes 'tench' and 'n01440764' of pixels are both output 0" in refused(big, both)
    told = refused(lookup(range(5)), animals)
    assert "the model knows 5 classes and the data has 4: if one is for the background, declare --outputs" in told
    assert told.endswith("else name the outputs with --class-names")
    assert "the model knows 3 classes and the data has 4: label 3 of image 3 has no output" in refused(
        lookup(range(3)), animals
    )
    assert "knows 3 classes (cat, dog, emu)" in refused(named(lookup(range(3)), ANIMALS[:3]), animals)
    assert "5 class names are given and the model has 4 outputs" in refused(
        lookup(range(4)), animals, class_names=[*ANIMALS, "gnu"]
    )
    assert "the given names have no fox" in refused(lookup(range(4)), animals, class_names=[*ANIMALS[:3], "wolf"])
    assert "name output 7, but the model has outputs 0..3" in refused(lookup(range(4)), animals, class_names={7: "cat"})
    assert "all, subset" in refused(lookup(range(4)), animals, classes="some")


def test_labels_from_one_are_called_so() -> None:
    data = Dataset.from_tensors(one_hot_images(torch.arange(30) % 10), torch.arange(30) % 10 + 1)
    assert "the labels of tensors run from 1 to 10: number them from 0, labels - 1" in refused(lookup(range(10)), data)
    with pytest.raises(InputError, match="labels - 1"):
        ino.evaluate(lookup(range(10)), data, ["fgsm"], [T])


def test_a_background_output_is_left_out_by_names(animals: Dataset) -> None:
    model = lookup([1, 2, 3, 4])
    background = dict(enumerate(ANIMALS, start=1))
    assert evaluated(model, animals, class_names=background, classes="subset")[0] == 1
    assert evaluated(model, animals, class_names=["background", *ANIMALS])[0] == 1


def test_unnamed_labels_are_matched_by_their_numbers() -> None:
    """Digits without a nine have nine classes; the names `0` to `9` say which outputs these are."""
    data = Dataset.from_tensors(one_hot_images(torch.arange(27) % 9), torch.arange(27) % 9)
    assert evaluated(lookup(range(10)), data, class_names=[str(digit) for digit in range(10)])[0] == 1


def test_models_of_another_kind_are_matched_too(animals: Dataset) -> None:
    class InPlace(nn.Module):
        """Edits its input and returns a dictionary of half precision."""

        def __init__(self) -> None:
            super().__init__()
            self.network = lookup([2, 0, 3, 1])

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.network(x.mul_(2).div_(2))}

    names, network = ["dog", "fox", "cat", "emu"], lookup([2, 0, 3, 1])
    half = lookup([2, 0, 3, 1]).half()
    for model in (InPlace(), network.train(), half, lambda x: network(x), torch.nn.DataParallel(network)):
        assert evaluated(model, animals, class_names=names)[0] == 1  # type: ignore[arg-type]
    assert "returns dict" in evaluated(InPlace(), animals, class_names=names)[1]


def test_transfer_explain_and_minimal_eps_match_each_model(animals: Dataset) -> None:
    models = {
        "same": lookup(range(4)),
        "other": named(lookup([2, 0, 3, 1]), ("dog", "fox", "cat", "emu")),
        "more": named(lookup([5, 4, 0, 1]), ("emu", "fox", "gnu", "owl", "dog", "cat")),
    }
    options = ino.TransferOptions(name="fgsm")
    found = ino.transfer(models, animals, "fgsm", [T], options=options)
    assert [row.accuracy for row in found.rows[:3]] == [1, 1, 1]
    assert set(found.matrix()["more"].values()) == {1.0}
    assert any(warning.startswith("more: 4 of the model's 6 outputs") for warning in found.warnings)
    assert bool((ino.minimal_eps(models["more"], animals) > 0).all())
    few = ino.Amounts(images=2, stability=2, fragility=2, steps=2, search=2)
    explained = ino.explain(models["more"], animals, "fgsm", T, amounts=few)
    assert explained.facts["classes"] == [*ANIMALS, "gnu", "owl"]
    assert [each["label"] for each in explained.facts["images"]] == [
        each["clean"]["predicted"] for each in explained.facts["images"]
    ]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
@pytest.mark.parametrize("classes", ["all", "subset"])
def test_the_fast_copy_of_a_matched_network_gives_its_logits(classes: Any) -> None:
    network = build_model("test_resnet", classes=1000).eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    data = Dataset.from_tensors(images, torch.arange(4), ("tench", "goldfish", "n03000684", "parachute"))
    scripted = as_module(torch.jit.trace(network, torch.rand(1, 3, 32, 32)))
    for model in (network, scripted):
        matched, _ = match_classes(model, data, classes=classes)
        x = images / 255
        torch.testing.assert_close(matched(x)[:, :4], model(x)[:, [0, 1, 491, 701]])
        torch.testing.assert_close(ino.fast(matched)(x), matched(x))
        assert matched(x).shape[1] == (1000 if classes == "all" else 4)
        x_adv = ino.PGD(steps=2)(matched, x, data.labels, T, generator=torch.Generator().manual_seed(0))
        assert float((x_adv - x).abs().max()) == pytest.approx(T.eps, abs=1e-6)


def test_matching_again_changes_nothing(animals: Dataset) -> None:
    model = named(lookup([5, 4, 0, 1]), ("emu", "fox", "gnu", "owl", "dog", "cat"))
    for classes, count in (("all", 6), ("subset", 4)):
        once = match_classes(model, animals, classes=classes)  # type: ignore[arg-type]
        assert len(once[1].classes) == count
        assert match_classes(*once) == once
        assert torch.equal(once[1].labels, animals.labels)
        assert next(once[0].parameters()) is model[1].weight, "not copied"  # type: ignore[index]


def test_files_of_names(tmp_path: Path, animals: Dataset) -> None:
    outputs, names = [2, 0, 3, 1], ["dog", "fox", "cat", "emu"]
    forms: dict[str, str] = {
        "lines.txt": "\ufeffdog\r\nfox\n\ncat\nemu\n",
        "list.json": json.dumps(names),
        "index.json": json.dumps(dict(enumerate(names))),
        "keras.json": json.dumps({i: [f"n{i:08}", name] for i, name in enumerate(names)}),
        "numbers.json": json.dumps({name: i for i, name in enumerate(names)}),
        "config.json": json.dumps({"id2label": dict(enumerate(names)), "model_type": "vit"}),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        assert evaluated(lookup(outputs), animals, class_names=tmp_path / name)[0] == 1, name
        assert evaluated(lookup(outputs), animals, class_names=str(tmp_path / name))[0] == 1, name
    for text, says in (
        ('{"a": []}', "neither a list nor"),
        ("[1, ", "are not JSON"),
        ("[]", "0 class names are given"),
    ):
        (tmp_path / "bad.json").write_text(text)
        assert says in refused(lookup(outputs), animals, class_names=tmp_path / "bad.json")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\xff\xfe")
    for file in ("none.txt", "image.png", "."):
        with pytest.raises(InputError, match="cannot be read"):
            read_class_names(tmp_path / file)


def test_names_that_an_onnx_file_keeps(tmp_path: Path, animals: Dataset) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    names = ["dog", "fox", "cat", "emu"]
    write_onnx(lookup([2, 0, 3, 1]), tmp_path / "plain.onnx", (1, 8, 8))
    for key, text in (
        ("names", str(dict(enumerate(names)))),
        ("class_names", json.dumps(names)),
        ("names", "__import__"),
    ):
        kept = onnx.load(tmp_path / "plain.onnx")
        onnx.helper.set_model_props(kept, {key: text})
        onnx.save(kept, tmp_path / "named.onnx")
        model, data = match_classes(load_model(tmp_path / "named.onnx"), animals)
        x, y = data.images / 255, data.labels
        assert float((model(x).argmax(1) == y).float().mean()) == (0 if text == "__import__" else 1)


def test_names_of_a_trained_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = one_hot_data(("emu", "cat"), 4)
    spec = ModelSpec("small_cnn", ("cat", "dog", "Emu"), 1, 8)
    save_model(tmp_path, spec.build(), spec)
    for model in (tmp_path, load_model(tmp_path)):
        found = ino.evaluate(model, data, ["fgsm"], [T], options=ino.EvaluationOptions(checks=False))
        assert found.classes == ("emu", "cat", "dog")
        assert any("2 of the model's 3 outputs are the classes of pixels" in warning for warning in found.warnings)


def test_a_pretrained_head_is_kept_where_it_knows_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the network would get a new, random head of as many outputs as the data have classes."""
    made = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **options: made(name, **options))
    for classes, outputs in ((("tench", "n01443537"), 1000), (("cat", "dog"), 2)):
        data = Dataset.from_tensors(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.arange(2), classes)
        model = load_model("test_resnet", data, pretrained=True)
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, outputs)


def test_a_random_head_and_one_answer_are_told_on_the_first_screen() -> None:
    torch.manual_seed(0)
    data = one_hot_data(tuple("abcdefghij"), 10)
    random_head = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert "its head may be random" in evaluated(random_head, data)[1]
    constant = lookup(range(10))
    constant[1].bias = nn.Parameter(torch.arange(10) * 9.0)  # type: ignore[index, union-attr]
    assert "one answer for all 100 clean images, class 9 (j)" in evaluated(constant, data)[1]
    assert evaluated(lookup(range(10)), data) == (1, "")
    found = ino.transfer({"good": lookup(range(10)), "bad": random_head}, data, "fgsm", [T])
    assert ["bad: the model is at chance level" in warning for warning in found.warnings] == [True]


def test_labels_of_any_form_are_measured_alike() -> None:
    y = torch.arange(40) % 4
    x = one_hot_images(y)
    pairs = torch.utils.data.TensorDataset(x, torch.eye(4)[y])
    forms: list[Any] = [(x, y.int()), (x, y.float()), (x, torch.eye(4)[y]), (x.numpy(), y.tolist()), pairs]
    for form in (*forms, torch.utils.data.DataLoader(pairs, 8)):
        found = ino.evaluate(lookup(range(4)), form, ["fgsm"], [T], options=ino.EvaluationOptions(checks=False))
        assert (found[0].accuracy, found.warnings) == (1, [])
        assert ino.transfer({"a": lookup(range(4))}, form, "fgsm", [T])[0].accuracy == 1
    soft, negative = torch.full((40, 4), 0.25), y - 1
    jobs: list[Callable[[Any], Any]] = [
        lambda data: ino.evaluate(lookup(range(4)), data, ["fgsm"], [T]),
        lambda data: ino.transfer({"a": lookup(range(4))}, data, "fgsm", [T]),
        lambda data: ino.train("small_cnn", data, epochs=1),
        lambda data: ino.harden(lookup(range(4)), data, T, options=ino.HardeningOptions(epochs=1)),
        lambda data: ino.explain(lookup(range(4)), data, "fgsm", T),
    ]
    for job in jobs:
        for labels, says in ((soft, "not one-hot"), (negative, "label -1 of image 0"), (y[:39], "40 images need 40")):
            with pytest.raises(InputError, match=says):
                job((x, labels))


def test_case_separators_and_leading_zeros_make_no_difference() -> None:
    assert simplified("Great_White-Shark") == simplified("great white  shark")
    assert simplified("007") == simplified("7") != simplified("70")
    assert simplified("犬") == "犬"
    assert simplified("+") == "+"
    assert simplified("STRASSE") == simplified("straße")
