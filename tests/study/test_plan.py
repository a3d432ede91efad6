"""The plan: which cells, in which order, and what each depends on."""

import pytest
from study_samples import tiny

from inoculate.artifacts.store import Store
from inoculate.core.errors import InputError
from inoculate.study.cell import ANY_SURROGATE, Cell
from inoculate.study.load import load_study
from inoculate.study.plan import plan
from inoculate.study.shipped import shipped_studies
from inoculate.study.specs import Specs

SHIPPED = shipped_studies()
STUDY = tiny(
    datasets={"digits": {"image_size": 32}},
    models=["resnet18", "resnet50"],
    attacks={"fgsm": {}, "pgd": {"images": 10}},
)


def planned(**changes):
    return plan(load_study(STUDY | changes))


@pytest.mark.smoke
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_study_is_planned_with_each_cell_after_those_it_depends_on(name):
    study = load_study(name)
    cells = plan(study)
    assert cells.datasets == tuple(study.datasets)
    assert len(set(cells)) == len(cells), "no step is planned twice"
    done = set()
    for cell in cells:
        assert set(cells.dependencies[cell]) <= done, cell
        done.add(cell)


def test_paper_study_holds_what_the_paper_did():
    study = load_study("paper")
    assert set(study.datasets) == {"mnist", "cifar10", "cats_vs_dogs"}
    assert study.models == ("resnet18", "resnet50", "resnet101")
    assert set(study.arms) == {"standard", "augmented", "transferred", "noise", "duplicates"}
    assert study.eps == (0.01, 0.02, 0.03)


def test_an_arm_may_train_some_of_the_networks_only():
    arms = {"standard": {}, "pgd_at": {"models": ["resnet18"]}, "rslad": {"models": ["resnet50"]}}
    cells = planned(surrogate="resnet18", arms=arms, explanations={"images": 1})
    assert {(c.model, c.arm) for c in cells if c.arm != "standard"} == {("resnet18", "pgd_at"), ("resnet50", "rslad")}
    student = Cell("fit", "digits", 0, "resnet50", "rslad")
    assert cells.dependencies[student] == (Cell("fit", "digits", 0, "resnet18", "pgd_at"),)
    swapped = {"standard": {}, "pgd_at": {"models": ["resnet50"]}}
    rslad = {"teacher": "resnet50", "models": ["resnet18"]}
    cells = planned(surrogate="resnet18", arms={**swapped, "rslad": rslad})
    student = Cell("fit", "digits", 0, "resnet18", "rslad")
    assert cells.dependencies[student] == (Cell("fit", "digits", 0, "resnet50", "pgd_at"),)
    for wrong, says in (
        ({**swapped, "rslad": {}}, "arm 'rslad' learns from resnet18 of arm 'pgd_at': add it to the models"),
        ({**swapped, "ensemble": {"surrogate_arm": "pgd_at"}}, "learns from resnet18 of arm 'pgd_at'"),
        ({"standard": {}, "pgd_at": {"models": ["resnet81"]}}, "network of pgd_at 'resnet81' is unknown"),
        ({"standard": {}, "pgd_at": {}, "rslad": {"teacher": "resnet81"}}, "teacher of rslad 'resnet81' is unknown"),
    ):
        with pytest.raises(InputError, match=says):
            planned(surrogate="resnet18", arms=wrong)


def test_a_slow_network_may_have_some_of_the_seeds_only():
    cells = planned(surrogate="resnet18", seeds=[0, 1, 2], seeds_of={"resnet50": [1]})
    assert {cell.seed for cell in cells if cell.model == "resnet50"} == {1}
    assert {cell.seed for cell in cells if cell.model == "resnet18"} == {0, 1, 2}
    both = {"models": ["resnet50", "resnet18"]}
    cells = planned(surrogate="resnet18", seeds=[0, 1], seeds_of={"resnet50": [1]}, explanations=both)
    assert {cell.model for cell in cells if cell.kind == "explain"} == {"resnet18"}, "those of the first seed"
    with pytest.raises(InputError, match="other networks learn from resnet50"):
        planned(surrogate="resnet18", seeds=[0, 1], seeds_of={"resnet50": [1]}, arms=["standard", "ensemble"])
    for given, says in (
        ({"resnet50": [3]}, "seed 3 of resnet50 is not among the study's"),
        ({"resnet18": [0]}, "other networks learn from resnet18: it needs every seed"),
        ({"resnet81": [0]}, "did you mean"),
    ):
        with pytest.raises(InputError, match=says):
            planned(surrogate="resnet18", seeds=[0, 1, 2], seeds_of=given)


def test_order_and_counts():
    cells = list(planned())
    fits = [cell for cell in cells if cell.kind == "fit"]
    assert len(fits) == 2 * 5
    assert [cell.arm for cell in fits[:2]] == ["standard", "standard"]
    chosen = next(i for i, cell in enumerate(cells) if cell.kind == "surrogate")
    transferred = next(i for i, cell in enumerate(cells) if cell.arm == "transferred")
    crafted = next(i for i, cell in enumerate(cells) if cell.kind == "craft" and cell.part == "train")
    assert chosen < crafted < transferred


def test_dependencies_are_the_cells_whose_artefacts_a_cell_is_made_from():
    standard = {model: Cell("fit", "digits", 0, model) for model in STUDY["models"]}
    choice = Cell("surrogate", "digits", 0, attack="fgsm")
    examples = Cell("craft", "digits", 0, ANY_SURROGATE, part="train", attack="fgsm")
    retrained = Cell("fit", "digits", 0, "resnet50", "transferred")
    clean = Cell("evaluate", "digits", 0, "resnet50", "transferred", attack="none")
    own, other = (Cell("craft", "digits", 0, model, part="test", attack="fgsm") for model in ("resnet50", "resnet18"))
    attacked = Cell("evaluate", "digits", 0, "resnet50", "transferred", attack="fgsm")
    replayed, transferred = (
        Cell("evaluate", "digits", 0, "resnet50", "transferred", attack="fgsm", reading=reading)
        for reading in ("replayed", "surrogate")
    )
    for surrogate, trained_on, transfers in (
        ("most_vulnerable", {examples}, {choice, own, other}),
        ("resnet18", {Cell("craft", "digits", 0, "resnet18", part="train", attack="fgsm")}, {other}),
    ):
        found = planned(surrogate=surrogate).dependencies
        assert found[standard["resnet50"]] == ()
        assert set(found[retrained]) == trained_on
        assert set(found[clean]) == {retrained}
        assert set(found[attacked]) == {retrained, clean}
        assert set(found[replayed]) == {retrained, clean, own}
        assert set(found[transferred]) == {retrained, clean} | transfers
        if surrogate == "most_vulnerable":
            assert set(found[choice]) == set(standard.values())
            assert set(found[examples]) == {choice, *standard.values()}


def test_teachers_and_surrogates_of_methods_are_dependencies():
    arms = {"standard": {}, "pgd_at": {}, "rslad": {}, "ensemble": {"surrogates": ["resnet50"]}}
    found = planned(arms=arms, surrogate="resnet18").dependencies
    assert found[Cell("fit", "digits", 0, "resnet50", "rslad")] == (Cell("fit", "digits", 0, "resnet18", "pgd_at"),)
    assert found[Cell("fit", "digits", 0, "resnet18", "ensemble")] == (Cell("fit", "digits", 0, "resnet50"),)


def test_plan_of_one_dataset():
    study = load_study(STUDY | {"datasets": {"digits": {}, "mnist": {}}})
    assert {cell.dataset for cell in plan(study, "mnist")} == {"mnist"}


@pytest.mark.parametrize(
    ("eps", "attacks", "transfer", "says"),
    [
        ([0.01], {"fgsm": {}, "pgd": {"steps": 3}}, "pgd", None),
        ([0.01], {"fgsm": {}, "mifgsm": {}}, "mifgsm", None),
        ([0.01, 0.02], {"fgsm": {}, "pgd": {"steps": 3}}, "pgd", "for one eps only"),
        ([0.01], {"pgd": {"steps": 3}}, "pgd", "add a one-step attack"),
        ([0.01], {"fgsm": {}, "fab_t": {}}, "fab_t", "does not use up its eps"),
    ],
)
def test_several_steps_can_be_transferred_where_there_is_one_eps(eps, attacks, transfer, says):
    if says is None:
        cells = planned(eps=eps, attacks=attacks, transfer=transfer)
        assert {cell.part for cell in cells if cell.kind == "craft" and cell.attack == transfer} == {"train"}
        return
    with pytest.raises(InputError, match=says) as caught:
        planned(eps=eps, attacks=attacks, transfer=transfer)
    assert "\n" not in str(caught.value)


def test_a_dataset_overrides_training_and_an_attack_is_restricted():
    pgd = {"eps": ["8/255"], "models": ["resnet50"], "arms": ["standard", "noise"]}
    own = {"digits": {"training": {"epochs": 7, "lr": 0.1}}}
    study = load_study(STUDY | {"datasets": own, "attacks": {"fgsm": {}, "pgd": pgd}})
    training = study.training_for("digits")
    assert (training.epochs, training.lr, training.batch_size) == (7, 0.1, study.training.batch_size)
    assert (study.eps_for("pgd"), study.eps_for("fgsm")) == ((8 / 255,), (0.02, 8 / 255))
    where = [(cell.model, cell.arm) for cell in plan(study) if cell.kind == "evaluate" and cell.attack == "pgd"]
    assert where == [("resnet50", "standard"), ("resnet50", "noise")]


def test_explanations_can_be_left_out_or_restricted():
    def explained(**changes):
        return [(cell.model, cell.arm) for cell in planned(**changes) if cell.kind == "explain"]

    usual = [(model, arm) for model in ("resnet18", "resnet50") for arm in ("standard", "augmented", "transferred")]
    assert explained(explanations=True) == explained(explanations={}, seeds=[0, 1]) == usual
    assert explained(explanations=False) == []
    assert explained(explanations={"models": ["resnet18"], "arms": ["noise"]}) == [("resnet18", "noise")]
    amounts = load_study(STUDY | {"explanations": {"images": 2, "search": 9}}).explanations.amounts
    assert (amounts.images, amounts.search, amounts.stability) == (2, 9, 32)


def test_a_network_that_starts_from_a_file_is_another_one_when_the_file_changes(tmp_path):
    weights = tmp_path / "weights.safetensors"
    study = load_study(STUDY | {"weights": {"resnet18": str(weights)}})
    specs = Specs(study, Store(tmp_path))
    fits = {cell.model: cell for cell in plan(study) if cell.kind == "fit" and cell.arm == "standard"}
    absent = specs.of(fits["resnet18"])
    weights.write_bytes(b"one")
    one = specs.of(fits["resnet18"])
    weights.write_bytes(b"two")
    assert len({repr(spec) for spec in (absent, one, specs.of(fits["resnet18"]))}) == 3
    assert "weights" not in specs.of(fits["resnet50"])
    with pytest.raises(InputError, match="did you mean 'resnet18'"):
        load_study(STUDY | {"weights": {"resnet81": str(weights)}})
