from pathlib import Path

import pytest

from inoculate.core.errors import InputError
from inoculate.study.load import load_study
from inoculate.study.plan import plan

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))

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


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.name)
def test_every_shipped_study_is_read_and_planned(path):
    study = load_study(path)
    cells = plan(study)
    assert {c.dataset for c in cells} == set(study.datasets)
    assert len(set(cells)) == len(cells), "no step is planned twice"


def test_paper_study_holds_what_the_paper_did():
    study = load_study(next(p for p in STUDIES if p.name == "paper.yaml"))
    assert set(study.datasets) == {"mnist", "cifar10", "cats_vs_dogs"}
    assert study.models == ("resnet18", "resnet50", "resnet101")
    assert set(study.arms) == {"standard", "augmented", "transferred", "noise", "duplicates"}
    assert study.eps == (0.01, 0.02, 0.03)


@pytest.mark.parametrize(
    ("eps", "attacks", "transfer", "says"),
    [
        ("[0.01]", "fgsm: {}\n  pgd: {steps: 3}", "pgd", None),
        ("[0.01]", "fgsm: {}\n  mifgsm: {}", "mifgsm", None),
        ("[0.01, 0.02]", "fgsm: {}\n  pgd: {steps: 3}", "pgd", "for one eps only"),
        ("[0.01]", "pgd: {steps: 3}", "pgd", "add a one-step attack"),
        ("[0.01]", "fgsm: {}\n  fab_t: {}", "fab_t", "does not use up its eps"),
    ],
)
def test_several_steps_can_be_transferred_where_there_is_one_eps(tmp_path, eps, attacks, transfer, says):
    text = GOOD.replace("[0.01, 8/255]", eps).replace("fgsm: {}\n  pgd: {steps: 20, images: 10}", attacks)
    path = write(tmp_path, text + f"transfer: {transfer}\n")
    if says is None:
        assert {c.part for c in plan(load_study(path)) if c.kind == "craft" and c.attack == transfer} == {"train"}
        return
    with pytest.raises(InputError, match=says) as caught:
        load_study(path)
    assert "\n" not in str(caught.value)


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
        ("fgsm: {}", "fgms: {}", 6, "did you mean 'fgsm'?"),
        ("{steps: 20, images: 10}", "{step_count: 20}", 6, "key of attack pgd 'step_count' is unknown"),
        ("{steps: 20, images: 10}", "{steps: many}", 6, "whole number"),
        ("{steps: 20, images: 10}", "{steps: 2.5}", 6, "whole number"),
        ("{steps: 20, images: 10}", "{steps: 0}", 6, "whole number"),
        ("{steps: 20, images: 10}", "{step: -0.1}", 6, "step length"),
        ("{steps: 20, images: 10}", "{loss: crossentropy}", 6, "cross_entropy"),
        ("{steps: 20, images: 10}", "{eps: [0.5]}", 6, "not among the study's"),
        ("{steps: 20, images: 10}", "{models: [resnet81]}", 6, "did you mean 'resnet18'?"),
        ("{steps: 20, images: 10}", "{datasets: [digit]}", 6, "did you mean 'digits'?"),
        ("{steps: 20, images: 10}", "{arms: [standrad]}", 6, "did you mean 'standard'?"),
        ("fgsm: {}", "fgsm: {eps: [0.01]}", 6, "made everywhere"),
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
        ("name: small", "name: [small", 1, "not YAML"),
        ("name: small", "name: small\nexplanations: {image: 3}", 2, "did you mean 'images'?"),
        ("name: small", "name: small\nexplanations: {drift: 0}", 2, "explanations.drift"),
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
    if line > 1 and "name: small\n" not in old:
        assert "line" in message


def test_missing_file_and_empty_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="holds none"):
        load_study(write(tmp_path, ""))


def test_plan_order_and_counts(tmp_path):
    cells = plan(load_study(write(tmp_path, GOOD)))
    fits = [c for c in cells if c.kind == "fit"]
    assert len(fits) == 2 * 5
    assert [c.arm for c in fits[:2]] == ["standard", "standard"]
    chosen = next(i for i, c in enumerate(cells) if c.kind == "surrogate")
    transferred = next(i for i, c in enumerate(cells) if c.arm == "transferred")
    crafted = next(i for i, c in enumerate(cells) if c.kind == "craft" and c.part == "train")
    assert chosen < crafted < transferred


def test_plan_of_one_dataset(tmp_path):
    study = load_study(write(tmp_path, GOOD.replace("  digits: {image_size: 32}", "  digits: {}\n  mnist: {}")))
    assert {c.dataset for c in plan(study, "mnist")} == {"mnist"}


def test_a_dataset_overrides_training_and_an_attack_is_narrowed(tmp_path):
    text = GOOD.replace("{image_size: 32}", "{training: {epochs: 7, lr: 0.1}}").replace(
        "images: 10", "eps: [8/255], models: [resnet50], arms: [standard, noise]"
    )
    study = load_study(write(tmp_path, text))
    own = study.training_for("digits")
    assert (own.epochs, own.lr, own.batch_size) == (7, 0.1, study.training.batch_size)
    assert tuple(study.eps_for(study.attacks[name]) for name in ("pgd", "fgsm")) == ((8 / 255,), (0.01, 8 / 255))
    where = [(c.model, c.arm) for c in plan(study) if c.kind == "evaluate" and c.attack == "pgd"]
    assert where == [("resnet50", "standard"), ("resnet50", "noise")]


def test_explanations_can_be_left_out_or_narrowed(tmp_path):
    def explained(text):
        cells = plan(load_study(write(tmp_path, GOOD + text)))
        return [(cell.model, cell.arm) for cell in cells if cell.kind == "explain"]

    usual = [(model, arm) for model in ("resnet18", "resnet50") for arm in ("standard", "augmented", "transferred")]
    assert explained("") == explained("explanations: true\n") == explained("seeds: [0, 1]\n") == usual
    assert explained("explanations: false\n") == []
    assert explained("explanations: {models: [resnet18], arms: [noise]}\n") == [("resnet18", "noise")]
    amounts = load_study(write(tmp_path, GOOD + "explanations: {images: 2, search: 9}\n")).explanations.amounts
    assert (amounts.images, amounts.search, amounts.drift) == (2, 9, 32)
