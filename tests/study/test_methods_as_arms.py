"""Arms that are trained by a method: written as names or with options, trained, measured, and found again."""

import json

import pytest
from test_config import GOOD, write
from test_run import Notes

from inoculate.artifacts.store import Store
from inoculate.core.errors import InputError
from inoculate.study.load import load_study
from inoculate.study.plan import plan
from inoculate.study.run import Run
from inoculate.training import trainer as fit

STUDY = """\
name: methods
datasets:
  digits: {image_size: 12, augment: none}
models: [small_cnn]
arms:
  standard: {}
  duplicates: {}
  pgd_at: {steps: 2, step: 0.7}
  short: {method: pgd_at, steps: 2, step: 0.7, length: 0.5}
  gentle: {method: trades, steps: 1, step: 1, beta: 2, eps: 0.02, awp: 0.005}
  free: {replays: 3}
  ensemble: {}
  rslad: {steps: 1, step: 1}
  live_surrogate: {steps: 1, step: 1}
  robust_source: {method: ensemble, own: false, surrogates: [small_cnn], surrogate_arm: pgd_at}
surrogate: small_cnn
eps: [0.05, 0.1]
attacks:
  fgsm: {}
  pgd: {steps: 3, images: 20, arms: [standard, gentle]}
training: {epochs: 2, budget: passes, passes: 6, rounds: 2, batch_size: 16, lr: 0.005}
limit: 120
"""


def run_study(folder, text):
    study, notes = load_study(write(folder, text)), Notes()
    run = Run(study, Store(folder / "store"))
    run.go(notes, plan(study))
    return run, notes


def test_every_method_is_an_arm_of_equal_cost(tmp_path):
    run, notes = run_study(tmp_path, STUDY)
    assert {row.arm for row in run.rows} == set(run.study.arms)
    updates = {}
    for cell in notes.made:
        if cell.kind == "fit":
            history = json.loads((run.artefact(cell) / "history.json").read_text())
            updates[cell.arm] = history[-1]["update"]
            assert ("val_robust" in history[-1]) == (cell.arm in run.study.methods)
    base = updates["standard"]
    passes = {"duplicates": 1, "pgd_at": 3, "gentle": 1 + 2 + 1 / 3 + 2, "free": 3, "ensemble": 3, "live_surrogate": 4}
    for arm, each in passes.items():
        assert updates[arm] == pytest.approx(6 * base / each, abs=1), arm
    assert updates["short"] == pytest.approx(updates["pgd_at"] / 2, abs=1)
    _, again = run_study(tmp_path, STUDY)
    assert not again.made
    _, changed = run_study(tmp_path, STUDY.replace("beta: 2", "beta: 3"))
    assert {cell.arm for cell in changed.made} == {"gentle"}
    _, taught = run_study(tmp_path, STUDY.replace("pgd_at: {steps: 2", "pgd_at: {steps: 3"))
    assert {cell.arm for cell in taught.made} == {"pgd_at", "rslad", "robust_source"}, "with a new teacher or source"


def test_an_alarm_does_not_shorten_an_arm(tmp_path, monkeypatch):
    """All arms make equal numbers of updates; validation chooses weights from before a collapse."""
    monkeypatch.setattr(fit, "detect_failures", lambda history: [(1, "robust accuracy fell")] if history else [])
    before, after = STUDY[: STUDY.index("arms:")], STUDY[STUDY.index("\nsurrogate:") :].replace("gentle", "fgsm_rs")
    run, notes = run_study(tmp_path, before + "arms: {standard: {}, fgsm_rs: {}}" + after)
    (cell,) = [cell for cell in notes.made if cell.kind == "fit" and cell.arm == "fgsm_rs"]
    history = json.loads((run.artefact(cell) / "history.json").read_text())
    assert [entry["round"] for entry in history] == [1, 2]


def test_a_list_of_names_takes_every_default(tmp_path):
    study = load_study(write(tmp_path, GOOD + "arms: [standard, fgsm_rs, trades]\n"))
    assert study.arms == ("standard", "fgsm_rs", "trades")
    assert study.methods["trades"].method == "trades"
    assert type(study).model_validate(study.model_dump()) == study


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
def test_mistakes_are_named(tmp_path, arms, says):
    with pytest.raises(InputError, match=says):
        load_study(write(tmp_path, GOOD + f"arms: {arms}\n"))
