"""What decides the weights of a hardening: its fingerprint tells runs apart."""

import shutil

from torch import nn

from inoculate.core.threat import Threat
from inoculate.hardening.options import HardeningOptions
from inoculate.hardening.task import load_task

THREAT = Threat("linf", 0.1)


def spec_of(model="small_cnn", data="digits", threat=THREAT, method="fgsm_rs", budget="10m", **options):
    options = {"image_size": 12, "limit": 40, "test_images": 16, **options}
    return load_task(model, data, threat, method, budget, HardeningOptions(**options), None).spec


def test_whatever_decides_the_weights_is_in_the_fingerprint():
    base = spec_of()
    assert spec_of() == base
    changes = (
        {"threat": Threat("linf", 0.2)}, {"threat": Threat("l2", 0.1)}, {"method": "pgd_at"}, {"method": None},
        {"budget": "11m"}, {"epochs": 3}, {"lr": 0.1}, {"batch_size": 7}, {"augment": "none"}, {"seed": 1},
        {"normalize": "0.5/0.2"}, {"fallback": "pgd_at"}, {"limit": 41}, {"test_images": 17}, {"image_size": 14},
        {"method_options": {"step": 0.5}}, {"model": nn.Sequential(nn.Flatten(), nn.Linear(144, 10))},
    )  # fmt: skip
    for change in changes:
        assert spec_of(**change) != base, change


def test_a_changed_teacher_of_the_same_name_is_another_run(hardened, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(hardened.folder, teacher)
    first = spec_of(method="ard", teacher=teacher)
    assert spec_of(method="ard", teacher=teacher) == first
    description = teacher / "model.json"
    description.write_text(description.read_text() + "\n")
    assert spec_of(method="ard", teacher=teacher) != first
