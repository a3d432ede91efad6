"""Study files are read; mistakes name the line and the cure."""

import pytest
import yaml

from inoculate.core.errors import InputError
from inoculate.data.preprocessing import Preprocessing
from inoculate.study.config import Study
from inoculate.study.load import load_study

GOOD = """\
name: small
datasets:
  digits: {image_size: 32}
models: [resnet18, resnet50]
eps: [0.01, 8/255]
attacks:
  fgsm: {}
  pgd: {steps: 20, images: 10}
training: {epochs: 2}
"""


def write(folder, text):
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_a_study_comes_from_a_file_a_shipped_name_a_mapping_or_is_one(tmp_path):
    study = load_study(write(tmp_path, GOOD))
    assert load_study(str(tmp_path / "study.yaml")) == study
    assert load_study(yaml.safe_load(GOOD)) == study
    assert load_study(study) is study
    assert load_study(study.model_dump()) == study
    assert load_study("demo").name == "demo"
    with pytest.raises(InputError, match="did you mean 'demo'"):
        load_study("demp")
    with pytest.raises(InputError, match=r"study, attacks\.pgd: step -1 is not usable"):
        load_study(yaml.safe_load(GOOD) | {"attacks": {"fgsm": {}, "pgd": {"step": -1}}})
    with pytest.raises(InputError, match="study: unknown key 'modles': did you mean 'models'"):
        load_study(yaml.safe_load(GOOD) | {"modles": []})


def test_fractions_are_read_as_numbers(tmp_path):
    assert load_study(write(tmp_path, GOOD)).eps == (0.01, 8 / 255)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("training: {epochs: 2}", "traning: {epochs: 2}", 9, "did you mean 'training'?"),
        ("training: {epochs: 2}", "training: {epoch: 2}", 9, "did you mean 'epochs'?"),
        ("training: {epochs: 2}", "training: {epochs: two}", 9, "training.epochs"),
        ("training: {epochs: 2}", "training: {epochs: 0}", 9, "training.epochs"),
        ("{image_size: 32}", "{imagesize: 32}", 3, "did you mean 'image_size'?"),
        ("fgsm: {}", "fgms: {}", 7, "did you mean 'fgsm'?"),
        ("{steps: 20, images: 10}", "{step_count: 20}", 8, "key of attack pgd 'step_count' is unknown"),
        ("{steps: 20, images: 10}", "{steps: many}", 8, "whole number"),
        ("{steps: 20, images: 10}", "{steps: 2.5}", 8, "whole number"),
        ("{steps: 20, images: 10}", "{steps: 0}", 8, "whole number"),
        ("{steps: 20, images: 10}", "{step: -0.1}", 8, "step -0.1 is not usable: give a number above 0"),
        ("{steps: 20, images: 10}", "{loss: crossentropy}", 8, "cross_entropy"),
        ("{steps: 20, images: 10}", "{eps: [0.5]}", 8, "not among the study's"),
        ("{steps: 20, images: 10}", "{models: [resnet81]}", 8, "did you mean 'resnet18'?"),
        ("{steps: 20, images: 10}", "{datasets: [digit]}", 8, "did you mean 'digits'?"),
        ("{steps: 20, images: 10}", "{arms: [standrad]}", 8, "did you mean 'standard'?"),
        ("fgsm: {}", "fgsm: {eps: [0.01]}", 7, "crafted everywhere"),
        ("{image_size: 32}", "{training: {epoch: 2}}", 3, "did you mean 'epochs'?"),
        ("{image_size: 32}", "{training: {epochs: 0}}", 3, "epochs"),
        ("training: {epochs: 2}", "seeds: [-1]", 9, "seeds"),
        ("eps: [0.01, 8/255]", "eps: [8]", 5, "did you mean 8/255?"),
        ("eps: [0.01, 8/255]", "eps: [-1]", 5, "not a distance"),
        ("eps: [0.01, 8/255]", "eps: [8/0]", 5, "not a number"),
        ("eps: [0.01, 8/255]", "eps: [0.01, 0.01]", 5, "same value twice"),
        ("eps: [0.01, 8/255]", "eps: []", 5, "eps"),
        ("name: small", "name: small\nsurrogate: resnet34", 2, "surrogate 'resnet34' is unknown"),
        ("name: small", "name: small\narms: [standard, transfered]", 2, "did you mean 'transferred'?"),
        ("name: small", "name: small\narms: [augmented]", 2, "'standard'"),
        ("name: small\n", "", 1, "'name' is missing"),
        ("name: small", "name: small\ntransfer: pgd", 2, "one-step"),
        ("name: small", "name: [small", 2, "not YAML"),
        ("name: small", "name: small\nexplanations: {image: 3}", 2, "did you mean 'images'?"),
        ("name: small", "name: small\nexplanations: {stability: 0}", 2, "explanations.stability"),
        ("name: small", "name: small\nexplanations: {models: [resnet81]}", 2, "did you mean 'resnet18'?"),
        ("name: small", "name: small\nexplanations: {arms: [augmentd]}", 2, "did you mean 'augmented'?"),
    ],
)
def test_mistakes_name_line_and_cure(tmp_path, old, new, line, says):
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        load_study(write(tmp_path, GOOD.replace(old, new)))
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert f"line {line}:" in message


def test_missing_file_and_empty_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="holds none"):
        load_study(write(tmp_path, ""))


def test_a_list_of_names_takes_every_default(tmp_path):
    study = load_study(write(tmp_path, GOOD + "arms: [standard, fgsm_rs, trades]\n"))
    assert study.arms == ("standard", "fgsm_rs", "trades")
    assert study.methods["trades"].method == "trades"
    assert Study.model_validate(study.model_dump()) == study


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ("[standard, trade]", "did you mean 'trades'"),
        ("{standard: {}, trades: {bta: 1}}", "did you mean 'beta'"),
        ("{standard: {}, mine: {method: pgd}}", "method 'pgd' is unknown"),
        ("{standard: {}, fgsm_rs: {eps: 8}}", "did you mean 8/255"),
        ("{standard: {epochs: 3}}", "has no options"),
        ("{standard: {}, fgsm_rs: {length: 2}}", r"line \d\d: arms.fgsm_rs.length"),
        ("{standard: {}, fgsm_rs: {lenght: 0.5}}", "key of arm fgsm_rs 'lenght' is unknown: did you mean 'length'"),
        ("{standard: {}, rslad: {}, pgd_at: {}}", "teacher_arm of rslad"),
        ("{standard: {}, ensemble: {surrogate_arm: pgd_at}, pgd_at: {}}", "surrogate_arm of ensemble"),
        ("{standard: {}, ensemble: {surrogates: [resnet99]}}", "surrogate of ensemble"),
        ("{standard: {}, pgd_at: {}, rslad: {}}", "name it with surrogate"),
        ("[fgsm_rs]", "must hold 'standard'"),
    ],
)
def test_mistakes_in_arms_are_named(tmp_path, arms, says):
    with pytest.raises(InputError, match=says):
        load_study(write(tmp_path, GOOD + f"arms: {arms}\n"))


def test_a_dataset_says_how_its_images_are_read():
    study = {"name": "s", "models": ["resnet18"], "surrogate": "resnet18", "eps": [0.1], "attacks": {"fgsm": {}}}
    keys = {"crop": 0.875, "crop_mode": "squash", "interpolation": "bicubic", "value_range": [0, 4095], "channels": 3}
    read = load_study({**study, "datasets": {"digits": keys}}).datasets["digits"].preprocessing
    assert read == Preprocessing(32, 3, None, 0.875, "squash", "bicubic", (0.0, 4095.0))
    for wrong, says in (
        ({"crop": 224}, "crop 224 is not the fraction"),
        ({"resize": 16}, "resize 16 is less than the 32 pixels"),
        ({"resize": 64, "crop": 0.5}, "leave one out"),
        ({"interpolation": "cubic"}, "datasets.digits.interpolation"),
    ):
        with pytest.raises(InputError, match=says):
            load_study({**study, "datasets": {"digits": wrong}})
