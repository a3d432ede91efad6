"""Arms that are trained by a method: trained at equal cost, measured, and found again."""

import pytest
from study_samples import run

from inoculate.report.run import read_run
from inoculate.study.load import load_study
from inoculate.study.steps.fit import recipe_of
from inoculate.training.monitors import detect_failures

STUDY = {
    "name": "methods",
    "datasets": {"digits": {"image_size": 8, "augment": "none"}},
    "models": ["small_cnn"],
    "arms": {
        "standard": {},
        "duplicates": {},
        "pgd_at": {"steps": 2, "step": 0.7},
        "short": {"method": "pgd_at", "steps": 2, "step": 0.7, "length": 0.5},
        "gentle": {"method": "trades", "steps": 1, "step": 1, "beta": 2, "eps": 0.02, "awp": 0.005},
        "free": {"replays": 3},
        "ensemble": {},
        "rslad": {"steps": 1, "step": 1},
        "live_surrogate": {"steps": 1, "step": 1},
        "robust_source": {"method": "ensemble", "own": False, "surrogates": ["small_cnn"], "surrogate_arm": "pgd_at"},
    },
    "surrogate": "small_cnn",
    "eps": [0.05, 0.1],
    "attacks": {"fgsm": {}, "pgd": {"steps": 3, "images": 20, "arms": ["standard", "gentle"]}},
    "training": {"epochs": 2, "budget": "passes", "passes": 6, "rounds": 2, "batch_size": 16, "lr": 0.005},
    "explanations": False,
    "limit": 80,
}
PASSES = {"duplicates": 1, "pgd_at": 3, "gentle": 1 + 2 + 1 / 3 + 2, "free": 3, "ensemble": 3, "live_surrogate": 4}


def changed(arm, **options):
    arms = STUDY["arms"] | {arm: STUDY["arms"][arm] | options}
    return STUDY | {"arms": arms}


def test_every_method_is_an_arm_of_equal_cost(tmp_path):
    result, _ = run(tmp_path, STUDY)
    assert {row.arm for row in result} == set(STUDY["arms"])
    histories = {cell["arm"]: cell["history"] for cell in result.manifest["cells"] if cell["kind"] == "fit"}
    updates = {arm: history[-1]["update"] for arm, history in histories.items()}
    for arm, history in histories.items():
        assert ("val_robust" in history[-1]) == (arm not in ("standard", "duplicates")), arm
    for arm, each in PASSES.items():
        assert updates[arm] == pytest.approx(6 * updates["standard"] / each, abs=1), arm
    assert updates["short"] == pytest.approx(updates["pgd_at"] / 2, abs=1)
    _, again = run(tmp_path, STUDY)
    assert not again.made
    _, recorder = run(tmp_path, changed("gentle", beta=3))
    assert {cell.arm for cell in recorder.made} == {"gentle"}
    _, recorder = run(tmp_path, changed("pgd_at", steps=3))
    assert {cell.arm for cell in recorder.made} == {"pgd_at", "rslad", "robust_source"}, "with a new teacher or source"


def test_the_section_training_becomes_a_recipe():
    config = load_study(STUDY).training.model_copy(update={"max_updates": 9, "rounds": None})
    recipe = recipe_of(config, 100, "digits")
    assert (recipe.updates, recipe.rounds, recipe.batch_size, recipe.lr) == (9, 2, 16, 0.005)
    assert recipe_of(config.model_copy(update={"max_updates": None}), 100, "none").updates == 2 * 7


def test_a_failure_does_not_shorten_an_arm(tmp_path):
    """Examples that hardly change the images: label leaking, for which `train` would stop."""
    weak = {"method": "fgsm_rs", "step": 0.01, "random_start": False}
    training = {"epochs": 12, "rounds": 6, "batch_size": 16, "lr": 0.01}
    study = STUDY | {
        "arms": {"standard": {}, "weak": weak},
        "eps": [0.3],
        "attacks": {"fgsm": {}},
        "training": training,
    }
    run(tmp_path, study | {"limit": 160})
    history = read_run(tmp_path).histories("digits")["small_cnn", "weak"]
    assert detect_failures(history)[0][0] < len(history) == 6
    assert history[-1]["update"] == 12 * 7
