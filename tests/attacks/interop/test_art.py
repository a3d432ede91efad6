"""Our models and attacks in ART."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attack_samples import images, small_net
from torch import nn

from inoculate.attacks.apgd import APGD
from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.interop.art import as_art, to_art
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat


def test_to_art() -> None:
    evasion = pytest.importorskip("art.attacks.evasion")
    model, (x, y) = small_net().eval(), images()
    wrapped = to_art(model, Threat("linf", 0.03), (3, 8, 8), 4)
    assert torch.allclose(torch.from_numpy(wrapped.predict(x.numpy())), model(x), atol=1e-6)
    got = torch.from_numpy(evasion.FastGradientMethod(wrapped, eps=0.03).generate(x.numpy(), y.numpy()))
    assert torch.allclose(got, FGSM()(model, x, y, Threat("linf", 0.03)), atol=1e-6)


def test_our_attacks_in_art() -> None:
    pytest.importorskip("art.attacks.evasion")
    model, (x, y) = small_net().eval(), images()
    threat = Threat("l2", 0.5)
    wrapped = to_art(model, threat, (3, 8, 8), 4)
    attack = as_art(BIM(steps=3), threat, wrapped)
    expected = BIM(steps=3)(model, x, y, threat)
    for labels in (y.numpy(), y.numpy()[:, None], np.eye(4, dtype=np.float32)[y.numpy()]):
        assert torch.equal(torch.from_numpy(attack.generate(x.numpy(), labels)), expected)
    assert torch.equal(torch.from_numpy(attack.generate(x.double().numpy(), y.numpy())), expected)
    parts = as_art(BIM(steps=3), threat, wrapped, batch_size=2).generate(x.numpy(), y.numpy())
    torch.testing.assert_close(torch.from_numpy(parts), expected, rtol=0, atol=1e-6)
    predicted = model(x).argmax(1)
    assert torch.equal(torch.from_numpy(attack.generate(x.numpy())), BIM(steps=3)(model, x, predicted, threat))
    targeted = as_art(APGD(target=2), Threat("linf", 0.3), wrapped).generate(x.numpy(), predicted.numpy())
    assert bool((model(torch.from_numpy(targeted)).argmax(1) == 2)[predicted != 2].all())


def test_an_art_classifier_with_preprocessing_of_its_own_is_refused() -> None:
    classification = pytest.importorskip("art.estimators.classification")
    model, (x, y) = small_net().eval(), images()
    wrapped = classification.PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (3, 8, 8), 4, clip_values=(0, 1), preprocessing=(0.5, 0.2), device_type="cpu"
    )
    with pytest.raises(InputError, match="into the network"):
        as_art(BIM(), Threat(), wrapped).generate(x.numpy(), y.numpy())
