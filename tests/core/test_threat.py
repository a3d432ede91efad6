from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.core.rng import Draws
from inoculate.core.threat import (
    Threat,
    distance,
    large_eps_warning,
    parse_eps,
    project,
    sample,
    steepest_direction,
    step_to_hyperplane,
)

NORMS = ("linf", "l2", "l1")


def image(*pixels: float) -> Tensor:
    return torch.tensor(pixels, dtype=torch.float32).view(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), (" 1e-2 ", 0.01), ("0", 0.0), ("2 / 255", 2 / 255)]
)
def test_parse_eps_reads_numbers_and_fractions(text: str, value: float) -> None:
    assert parse_eps(text) == value


@pytest.mark.parametrize("text", ["8/0", "abc", "nan", "inf", "", "8/", "/255", "1/2/3", "1..2", "2**8", "0x10", "8,5"])
def test_parse_eps_refuses_the_rest_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_eps(text)
    assert "\n" not in str(caught.value)
    assert repr(text)[1:-1] in str(caught.value)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [-1, -1e-9, math.nan, math.inf, -math.inf])
def test_an_eps_that_is_no_distance_is_refused(norm: str, eps: float) -> None:
    with pytest.raises(InputError) as caught:
        Threat(norm, eps)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_eps_in_units_of_255_is_refused_with_the_fraction_that_was_meant() -> None:
    with pytest.raises(InputError, match="8/255") as caught:
        Threat("linf", 8)
    assert "\n" not in str(caught.value)
    assert Threat("linf", 1.0).eps == 1.0
    assert Threat("linf", 8, low=0, high=255).eps == 8
    assert Threat("l2", 8).eps == 8


@pytest.mark.parametrize("kwargs", [{"norm": "l3"}, {"low": 1.0, "high": 0.0}, {"low": 0.5, "high": 0.5}])
def test_an_unknown_norm_or_an_empty_range_is_refused(kwargs: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        Threat(**kwargs)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_projection_literally() -> None:
    x = image(0.5, 0.5, 0.5, 0.9)
    far = x + image(0.3, -0.4, 0.0, 0.0)
    torch.testing.assert_close(project(far, x, Threat("linf", 0.35)), image(0.8, 0.15, 0.5, 0.9))
    # length 0.5, so half of it remains
    torch.testing.assert_close(project(far, x, Threat("l2", 0.25)), image(0.65, 0.3, 0.5, 0.9))
    # 0.3 + 0.4 exceeds 0.5 by 0.2: both entries shrink by 0.1
    torch.testing.assert_close(project(far, x, Threat("l1", 0.5)), image(0.7, 0.2, 0.5, 0.9))
    # eps 0.05: shrinking by 0.35 leaves 0.05 of the larger and nothing of the smaller
    torch.testing.assert_close(project(far, x, Threat("l1", 0.05)), image(0.5, 0.45, 0.5, 0.9))
    # 0.9 + 0.2 is inside the ball but not inside the range
    torch.testing.assert_close(project(x + 0.2, x, Threat("linf", 0.2)), image(0.7, 0.7, 0.7, 1.0))


def test_l1_projection_uses_up_the_ball_at_a_wall() -> None:
    """The last pixel wants 0.6 and has room for 0.1: what it cannot use is left to the others."""
    x = image(0.5, 0.5, 0.5, 0.9)
    far = x + image(0.3, -0.4, 0.0, 0.6)
    torch.testing.assert_close(project(far, x, Threat("l1", 0.6)), image(0.7, 0.2, 0.5, 1.0))
    torch.testing.assert_close(project(far, x, Threat("l1", 0.8)), image(0.8, 0.1, 0.5, 1.0))
    torch.testing.assert_close(project(far, x, Threat("l1", 9.0)), image(0.8, 0.1, 0.5, 1.0))


def test_l1_projection_is_the_nearest_point_of_ball_and_range() -> None:
    """Against bisection on the threshold; also with an eps for each image."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(64, 3, 5, 5, generator=g).double()
    far = x + 2 * torch.randn(x.shape, generator=g).double() * (torch.rand(x.shape, generator=g) < 0.5)
    radius = torch.logspace(-2, 2, 64).double()
    found = project(far, x, Threat("l1", 1.0), radius)
    low, high = torch.zeros(64, 1, 1, 1).double(), torch.full((64, 1, 1, 1), 20.0).double()
    for _ in range(60):
        middle = (low + high) / 2
        delta = ((far - x).sign() * ((far - x).abs() - middle).clamp_min(0) + x).clamp(0, 1) - x
        outside = (delta.abs().flatten(1).sum(1) > radius).view(-1, 1, 1, 1)
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    nearest = ((far - x).sign() * ((far - x).abs() - high).clamp_min(0) + x).clamp(0, 1)
    torch.testing.assert_close(found, nearest, rtol=0, atol=1e-9)
    assert (distance(found, x, "l1") <= radius + 1e-9).all()


def test_steepest_literally() -> None:
    gradient = image(0.0, 3.0, -4.0, 0.0)
    torch.testing.assert_close(steepest_direction(gradient, "linf"), image(0, 1, -1, 0))
    torch.testing.assert_close(steepest_direction(gradient, "l2"), image(0, 0.6, -0.8, 0))
    torch.testing.assert_close(steepest_direction(gradient, "l1"), image(0, 0.75, -1, 0))
    for norm in NORMS:
        assert steepest_direction(image(0, 0, 0, 0), norm).abs().sum() == 0  # type: ignore[arg-type]


def test_distance_literally() -> None:
    x, x_adv = image(0, 0, 0, 0), image(0, 0.3, -0.4, 0)
    assert [round(distance(x_adv, x, n).item(), 6) for n in NORMS] == [0.4, 0.5, 0.7]  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_idempotent_and_leaves_allowed_images_alone(norm: str) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 5, 4, generator=g)
    threat = Threat(norm, 0.4)  # type: ignore[arg-type]
    once = project(x + torch.randn(x.shape, generator=g), x, threat)
    assert distance(once, x, threat.norm).max() <= threat.eps + 1e-6
    assert once.min() >= 0
    assert once.max() <= 1
    torch.testing.assert_close(project(once, x, threat), once, rtol=0, atol=1e-6)
    torch.testing.assert_close(project(x, x, threat), x, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_projection_is_the_nearest_point_of_the_ball(norm: str) -> None:
    """No random point of the ball is nearer (Euclidean) to the projected point than the projection."""
    g = torch.Generator().manual_seed(0)
    x = torch.full((1, 1, 2, 2), 0.5)
    threat = Threat(norm, 0.2)  # type: ignore[arg-type]
    far = x + torch.randn(x.shape, generator=g) * 0.3
    nearest = project(far, x, Threat(norm, 0.2, low=-9, high=9))  # type: ignore[arg-type]
    others = sample(x.expand(20000, 1, 2, 2), threat, Draws(torch.rand(20000, 1, generator=g), g))
    assert (others - far).flatten(1).norm(dim=1).min() >= (nearest - far).norm() - 1e-6
    assert distance(nearest, x, threat.norm).item() == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_is_uniform_in_the_ball(norm: str) -> None:
    """In d dimensions (distance/eps)^d of a uniform point is uniform on [0, 1]; the mean is the centre."""
    x = torch.full((20000, 1, 2, 2), 0.5)
    threat = Threat(norm, 0.1)  # type: ignore[arg-type]
    points = sample(x, threat, Draws(torch.arange(20000.0)[:, None], None))
    share = (distance(points, x, threat.norm) / threat.eps) ** 4
    assert share.max() <= 1 + 1e-4
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert (share < quantile).float().mean().item() == pytest.approx(quantile, abs=0.015)
    assert (points - x).mean(dim=0).abs().max() < 0.002


@pytest.mark.parametrize("norm", NORMS)
def test_a_random_start_stays_in_range_and_is_the_generators_alone(norm: str) -> None:
    x = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    threat = Threat(norm, 0.5)  # type: ignore[arg-type]
    before = torch.get_rng_state()

    def draw(seed: int) -> Tensor:
        return sample(x, threat, Draws(x, torch.Generator().manual_seed(seed)))

    first = draw(1)
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, draw(2))
    assert first.min() >= 0
    assert first.max() <= 1
    assert distance(first, x, threat.norm).max() <= threat.eps + 1e-6
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eps_zero_is_the_identity_and_the_dtype_is_kept(norm: str, dtype: torch.dtype) -> None:
    x = torch.rand(3, 1, 2, 2, dtype=dtype, generator=torch.Generator().manual_seed(0))
    threat = Threat(norm, 0.0)  # type: ignore[arg-type]
    operations: list[Callable[[], Tensor]] = [
        lambda: project(x + 0.3, x, threat),
        lambda: sample(x, threat, Draws(x, None)),
    ]
    for operation in operations:
        torch.testing.assert_close(operation(), x, rtol=0, atol=1e-7)
        assert operation().dtype is dtype


def test_the_way_to_a_plane_literally() -> None:
    """normal · x must grow by 0.3; the second pixel has only 0.1 of room, the third moves down, the last not at all."""
    x = torch.tensor([0.5, 0.9, 0.5, 0.5]).view(1, 1, 2, 2)
    normal, rise = torch.tensor([1.0, 1.0, -1.0, 0.0]).view(1, 1, 2, 2), torch.tensor([0.3])

    def move(norm: str, by: float) -> list[float]:
        threat = Threat(norm, 1.0)  # type: ignore[arg-type]
        return step_to_hyperplane(x, normal, torch.tensor([by]), threat).flatten().tolist()

    assert move("linf", 0.3) == pytest.approx([0.1, 0.1, -0.1, 0], abs=1e-6)
    assert move("linf", 0.5) == pytest.approx([0.2, 0.1, -0.2, 0], abs=1e-6)
    assert move("l2", 0.5) == pytest.approx([0.2, 0.1, -0.2, 0], abs=1e-6)
    assert move("linf", -0.3) == pytest.approx([-0.1, -0.1, 0.1, 0], abs=1e-6)
    assert move("linf", 9.0) == pytest.approx([0.5, 0.1, -0.5, 0], abs=1e-6)  # out of reach: the nearest corner
    steep = torch.tensor([1.0, 3.0, -2.0, 0.0]).view(1, 1, 2, 2)
    one = step_to_hyperplane(x, steep, torch.tensor([0.5]), Threat("l1", 1.0)).flatten().tolist()
    assert one == pytest.approx([0, 0.1, -0.1, 0], abs=1e-6)  # the steepest pixel's room, the rest on the next
    assert step_to_hyperplane(x, normal, 0 * rise, Threat("l2", 1.0)).abs().max() == 0


@pytest.mark.parametrize("norm", NORMS)
def test_the_way_to_a_plane_is_the_shortest_and_equals_the_ports(norm: str) -> None:
    port = pytest.importorskip("pyautoattack.fab_projections", reason="pyautoattack is not installed")
    g = torch.Generator().manual_seed(0)
    x = torch.rand(40, 1, 6, 6, generator=g)
    x = torch.where(torch.rand(x.shape, generator=g) < 0.4, x.round(), x)  # many pixels at the ends, as in digits
    normal = torch.randn(x.shape, generator=g)
    rise = (torch.rand(40, generator=g) - 0.5) * normal.abs().flatten(1).sum(1) * 0.6
    move = step_to_hyperplane(x, normal, rise, Threat(norm, 1.0))  # type: ignore[arg-type]
    assert (x + move).min() >= -1e-6
    assert (x + move).max() <= 1 + 1e-6
    plane = (normal * x).flatten(1).sum(1) + rise
    theirs = getattr(port, f"projection_{norm}")(x.flatten(1), normal.flatten(1), plane).view_as(x)
    reached = ((normal * theirs).flatten(1).sum(1) - rise).abs() < 1e-3
    assert int(reached.sum()) > 20
    ours, peers = (distance(x + m, x, norm)[reached] for m in (move, theirs))  # type: ignore[arg-type]
    torch.testing.assert_close(ours, peers, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((normal * move).flatten(1).sum(1)[reached], rise[reached], rtol=1e-3, atol=1e-3)


def test_large_images_stay_in_the_l2_ball_to_a_millionth():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 224, 200, generator=g)
    inside = project(x + torch.randn(x.shape, generator=g), x, Threat("l2", 1.0, low=-9, high=9))
    assert (inside.double() - x.double()).flatten(1).norm(dim=1).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("norm", "eps", "shape", "doubtful"),
    [
        ("l2", 8, (1, 28, 28), True),  # 29 % of the way
        ("l2", 8, (3, 224, 224), False),
        ("l2", 3, (1, 28, 28), False),
        ("l1", 600, (3, 32, 32), True),
        ("l1", 12, (3, 32, 32), False),
        ("l0", 12, (3, 32, 32), False),
        ("linf", 1, (3, 32, 32), False),  # the largest there is; more is refused
    ],
)
def test_an_eps_that_can_hardly_be_meant_is_doubted(
    norm: str, eps: float, shape: tuple[int, ...], doubtful: bool
) -> None:
    said = large_eps_warning(Threat(norm, eps), shape)  # type: ignore[arg-type]
    assert (said is not None) == doubtful
    if said:
        assert f"{eps}/255" in said
        assert "\n" not in said


def test_a_number_of_pixels_is_whole_and_doubted_where_it_is_large() -> None:
    assert Threat("l0", 10).eps == 10
    with pytest.raises(InputError, match="whole number such as 10") as caught:
        Threat("l0", 8 / 255)
    assert "\n" not in str(caught.value)
    said = large_eps_warning(Threat("l0", 300), (3, 32, 32))
    assert said is not None
    assert "29% of the pixels of a 3×32×32 image" in said


def test_a_random_start_of_few_pixels() -> None:
    """As many pixels as eps allows, in the mean the same for all, with values of the whole range."""
    x = torch.full((4000, 2, 2, 3), 0.5)
    points = sample(x, Threat("l0", 2), Draws(torch.arange(4000.0)[:, None], None))
    assert distance(points, x, "l0").unique().tolist() == [2]
    moved = (points != x).any(dim=1).float().mean(dim=0)
    assert (moved - 2 / 6).abs().max() < 0.03
    values = points[points != 0.5]
    assert values.mean().item() == pytest.approx(0.5, abs=0.01)
    assert values.std().item() == pytest.approx(12**-0.5, abs=0.01)
