"""Small images, cheap AutoAttack and one hardened network for all tests of this room."""

from contextlib import contextmanager
from importlib.util import find_spec

import pytest

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.registry import ATTACKS
from inoculate.core.threat import Threat
from inoculate.data.load import load_data
from inoculate.hardening.harden import harden
from inoculate.hardening.options import HardeningOptions

THREAT = Threat("linf", 0.1)
QUICK = {"image_size": 12, "limit": 160, "test_images": 16, "batch_size": 40, "epochs": 2}


@contextmanager
def cheap_autoattack():
    """Every attack of the ensemble, with a small budget."""
    with pytest.MonkeyPatch.context() as patch:
        for name, version in (("autoattack", "standard"), ("autoattack_binary", "binary")):
            patch.setitem(ATTACKS, name, AutoAttack(version, steps=5, targets=2, queries=20))
        yield


@pytest.fixture(scope="module", autouse=True)
def _cheap_autoattack():
    with cheap_autoattack():
        yield


@pytest.fixture(scope="session")
def quick_harden():
    """`harden` on a few small digits: the first argument is the model, keyword arguments change job or options."""

    def run(
        model="small_cnn",
        data="digits",
        threat=THREAT,
        *,
        budget="10m",
        method="fgsm_rs",
        out=None,
        progress=None,
        **changes,
    ):
        options = HardeningOptions(**{**QUICK, **changes})
        return harden(model, data, threat, budget=budget, method=method, out=out, options=options, progress=progress)

    return run


@pytest.fixture(scope="session")
def hardened(tmp_path_factory, quick_harden):
    """A small_cnn hardened with PGD-2, saved, with model.onnx where onnxruntime is installed."""
    onnx = all(find_spec(name) for name in ("onnx", "onnxruntime"))
    out = tmp_path_factory.mktemp("hardened") / "out"
    with cheap_autoattack():
        return quick_harden(out=out, onnx=onnx, method="pgd_at", method_options={"steps": 2, "average": 0.9})


@pytest.fixture(scope="session")
def digits():
    """1,258 grey digits of 12×12 pixels."""
    return load_data("digits", "train", image_size=12)
