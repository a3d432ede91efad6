from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attack_samples import CASES, IN_NORMS, RADII, RANDOM, for_every, images, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.bim import BIM
from inoculate.attacks.craft import AdvSet, craft, perturb
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.pgd import PGD
from inoculate.attacks.sweep import sweep
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.threat import Norm, Threat
from inoculate.data.dataset import Dataset

EPSILONS = (0.03, 0.01, 8 / 255, 0.0)


def counted(model: nn.Module) -> list[int]:
    """The batch sizes that went through `model` from now on."""
    sizes: list[int] = []
    model.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
    return sizes


def split(n: int = 20, channels: int = 3) -> Dataset:
    g = seeded(0)
    shots = torch.randint(0, 256, (n, channels, 8, 8), generator=g, dtype=torch.uint8)
    return Dataset.from_tensors(shots, torch.arange(n) % 4, name="noise")


@for_every([(FGSM(), 1), (OneStepTarget("least_likely"), 2), (OneStepTarget("random"), 2)])
def test_one_gradient_serves_every_eps(attack: FGSM | OneStepTarget, passes: int) -> None:
    model, (x, y) = small_net(), images()
    sizes = counted(model)
    assert len(list(sweep(attack, model, x, y, Threat(), EPSILONS, generator=seeded(0)))) == 4
    assert sizes == [6] * passes  # the second pass of a targeted attack finds the target


def test_other_attacks_are_run_per_eps() -> None:
    model, (x, y) = small_net(), images()
    sizes = counted(model)
    list(sweep(BIM(steps=3), model, x, y, Threat(), EPSILONS))
    assert sizes == [6] * 12


@for_every([case for case in IN_NORMS if case[1] != "l1"])
def test_a_sweep_equals_the_attack_at_each_eps(name: str, norm: Norm) -> None:
    model, (x, y), attack = small_net(), images(), CASES[name].attack
    epsilons = [scale * RADII[norm] for scale in (1.0, 1 / 3 if norm == "l0" else 0.25, 2.0, 0.0)]
    swept = list(sweep(attack, model, x, y, Threat(norm, RADII[norm]), epsilons, generator=seeded(0)))
    assert [eps for eps, _ in swept] == epsilons  # in the order given
    for eps, x_adv in swept:  # the same random numbers at every eps
        single = attack(model, x, y, Threat(norm, eps), generator=seeded(0))
        if CASES[name].minimal:  # the sweep has the nearest image found, the attack the first one within eps
            assert torch.equal(model(x_adv).argmax(1) == y, model(single).argmax(1) == y)
        else:
            assert torch.equal(x_adv, single)
        assert torch.equal(x_adv, x) == (eps == 0)


@for_every(RANDOM)
def test_a_sweep_depends_on_its_generator_alone(name: str) -> None:
    model, (x, y), attack, norm = small_net(), images(16), CASES[name].attack, CASES[name].norms[0]
    epsilons = (2, 1, 5, 0) if norm == "l0" else EPSILONS

    def once(seed: int) -> torch.Tensor:
        threat = Threat(norm, RADII[norm])
        return torch.stack([a for _, a in sweep(attack, model, x, y, threat, epsilons, generator=seeded(seed))])

    before = torch.get_rng_state()
    assert torch.equal(once(1), once(1))
    assert not torch.equal(once(1), once(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_threat_gives_norm_and_range() -> None:
    model, (x, y) = small_net(), images()
    threat = Threat("linf", 0.5, low=-1, high=2)
    ((_, x_adv),) = sweep(FGSM(), model, x, y, threat, [0.2])
    assert x_adv.min() < -0.1
    assert x_adv.max() > 1.1


def test_bad_input_is_refused_before_any_work() -> None:
    model, (x, y) = small_net(), images()
    sizes = counted(model)
    with pytest.raises(InputError, match="8/255"):
        list(sweep(FGSM(), model, x, y, Threat(), (0.01, 8)))
    with pytest.raises(InputError, match="outside the threat's range"):
        list(sweep(FGSM(), model, x * 255, y, Threat(), (0.01,)))
    assert sizes == []


@for_every([FGSM(), OneStepTarget("least_likely")])
def test_the_stored_direction_of_a_one_step_attack_is_exact_at_every_eps(attack: FGSM | OneStepTarget) -> None:
    model, data = small_net(), split()
    stored = craft(attack, model, data, Threat(), batch_size=7)
    assert stored.direction.dtype is torch.int8
    assert set(stored.direction.unique().tolist()) <= {-127, 0, 127}
    assert stored.zero_fraction == 0
    x = to_float(data.images)
    for eps in (0.01, 0.02, 0.03, 8 / 255, 1.0):
        expected = attack(model, x, data.labels, Threat("linf", eps))
        torch.testing.assert_close(stored.images(x, torch.arange(20), eps), expected, rtol=0, atol=1e-7)


def test_images_are_found_by_their_row_and_eps_may_differ_per_sample() -> None:
    model, data = small_net(), split()
    stored = craft(FGSM(), model, data, Threat())
    rows = torch.tensor([7, 3, 19])
    x = to_float(data.images[rows])
    got = stored.images(x, rows, torch.tensor([0.01, 0.0, 0.03]))
    for i, eps in enumerate((0.01, 0.0, 0.03)):
        one = FGSM()(model, x[i : i + 1], data.labels[rows[i : i + 1]], Threat("linf", eps))
        torch.testing.assert_close(got[i : i + 1], one, rtol=0, atol=1e-7)


def test_perturb_literally() -> None:
    x = torch.tensor([0.5, 0.5, 0.5, 0.99]).view(1, 1, 2, 2)
    q = torch.tensor([127, -127, 0, 127], dtype=torch.int8).view(1, 1, 2, 2)
    expected = torch.tensor([0.6, 0.4, 0.5, 1.0]).view(1, 1, 2, 2)
    torch.testing.assert_close(perturb(x, q, 0.1), expected, rtol=0, atol=1e-7)


def test_other_attacks_are_rounded_inside_the_ball_and_keep_their_eps() -> None:
    model, data, threat = small_net(), split(), Threat("linf", 0.03)
    stored = craft(PGD(steps=3), model, data, threat, seed=5)
    x, rows = to_float(data.images), torch.arange(20)
    x_adv = stored.images(x, rows, 0.03)
    assert (x_adv - x).abs().max() <= 0.03 + 1e-6
    assert len(stored.direction.unique()) > 50
    again = craft(PGD(steps=3), model, data, threat, seed=5)
    assert torch.equal(stored.direction, again.direction)
    assert not torch.equal(stored.direction, craft(PGD(steps=3), model, data, threat, seed=6).direction)
    with pytest.raises(InputError, match="no version at eps") as caught:
        stored.images(x, rows, 0.02)
    assert "\n" not in str(caught.value)
    exact = craft(BIM(steps=3), model, data, threat)
    expected = BIM(steps=3)(model, x, data.labels, threat)
    torch.testing.assert_close(exact.images(x, rows, 0.03), expected, rtol=0, atol=0.03 / 127 / 2 + 1e-6)


def test_images_without_gradient_are_counted() -> None:
    data = split(8, channels=1)
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    nn.init.zeros_(dead[1].weight)
    assert craft(FGSM(), dead, data, Threat()).zero_fraction == 1


def test_a_set_survives_saving(tmp_path: Path) -> None:
    model, data = small_net(), split()
    stored = craft(OneStepTarget("random"), model, data, Threat(), seed=3, batch_size=8)
    stored.save(tmp_path)
    loaded = AdvSet.load(tmp_path)
    assert torch.equal(loaded.direction, stored.direction)
    assert loaded.provenance.items() >= stored.provenance.items()
    assert loaded.provenance["split"] == data.digest
    assert loaded.provenance["options"] == {"target": "random", "loss": "cross_entropy", "eot": 1}
    x = to_float(data.images)
    rows = torch.arange(20)
    assert torch.equal(loaded.images(x, rows, 0.02), stored.images(x, rows, 0.02))


def test_any_callable_can_craft() -> None:
    def brighten(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: object = None) -> Tensor:
        return (x + threat.eps).clamp(0, 1)

    data = split()
    stored = craft(brighten, small_net(), data, Threat("linf", 0.1))
    assert stored.provenance["attack"] == "brighten"
    assert stored.provenance["options"] == {}
    x = to_float(data.images)
    torch.testing.assert_close(
        stored.images(x, torch.arange(20), 0.1), (x + 0.1).clamp(0, 1), rtol=0, atol=0.1 / 127 / 2 + 1e-6
    )


@for_every(["l2", "l1"])
def test_only_linf_directions_can_be_stored(norm: Norm) -> None:
    with pytest.raises(InputError, match="linf") as caught:
        craft(FGSM(), small_net(), split(), Threat(norm, 0.5))
    assert "\n" not in str(caught.value)


def test_crafting_reports_its_progress_and_leaves_the_model_alone() -> None:
    model = small_net().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    seen: list[tuple[str, int, int]] = []
    craft(FGSM(), model, split(), Threat(), batch_size=8, progress=lambda *said: seen.append(said))
    assert seen == [("craft", 8, 20), ("craft", 16, 20), ("craft", 20, 20)]
    assert model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
