import pytest
import torch

from inoculate.attacks.craft import AdvSet
from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.study.arms import training_set


@pytest.fixture
def split():
    labels = torch.tensor([0] * 6 + [1] * 4)
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 1, 2, 2).contiguous() * 20
    return Dataset.from_tensors(images, labels, classes=("a", "b"))


@pytest.fixture
def adversarial(split):
    direction = torch.full(split.images.shape, 127, dtype=torch.int8)
    return AdvSet(direction, {"eps": None})


def build(arm, split, adversarial, **options):
    return training_set(arm, split, (0.1, 0.2), seed=3, adversarial=adversarial, **options)


def test_standard_is_the_split_itself(split):
    samples = training_set("standard", split, (0.1,), seed=0)
    x, y, original = samples.batch(torch.arange(10))
    assert torch.equal(x, split.images.float() / 255)
    assert torch.equal(y, split.labels)
    assert original.all()


def test_augmented_has_equal_classes(split):
    samples = training_set("augmented", split, (0.1,), seed=0)
    assert torch.bincount(split.labels[samples.image]).tolist() == [4, 4]


@pytest.mark.parametrize("arm", ["transferred", "noise", "duplicates"])
def test_copies_are_as_many_as_originals_when_balanced(arm, split, adversarial):
    samples = build(arm, split, adversarial)
    assert samples.original.tolist() == [True] * 8 + [False] * 8
    assert torch.equal(samples.image[:8], samples.image[8:]), "each original has one copy"


@pytest.mark.parametrize("arm", ["transferred", "noise", "duplicates"])
def test_every_eps_is_appended_when_not_balanced(arm, split, adversarial):
    samples = build(arm, split, adversarial, balance=False)
    assert len(samples) == 10 + 2 * 10


def test_copies_differ_from_originals_by_eps_exactly(split, adversarial):
    samples = build("transferred", split, adversarial, balance=False)
    x, y, _ = samples.batch(torch.arange(30))
    clean = x[:10]
    assert torch.allclose(x[10:20], (clean + 0.1).clamp(0, 1), atol=1e-7)
    assert torch.allclose(x[20:], (clean + 0.2).clamp(0, 1), atol=1e-7)
    assert torch.equal(y[10:20], split.labels)


def test_noise_has_the_size_of_the_attack_and_no_pattern(split):
    samples = build("noise", split, None, balance=False)
    x, _, _ = samples.batch(torch.arange(30))
    shift = ((x[10:20] - x[:10]) / 0.1)[2:]  # in the two darkest images half of the noise is clipped
    assert torch.allclose(shift.abs(), torch.ones_like(shift), atol=1e-5)
    assert shift.min() < 0 < shift.max()


def test_duplicates_are_clean(split):
    samples = build("duplicates", split, None, balance=False)
    x, _, _ = samples.batch(torch.arange(30))
    assert torch.equal(x[10:20], x[:10])


def test_seed_decides_everything(split, adversarial):
    first, again, other = (training_set("noise", split, (0.1, 0.2), seed=s) for s in (1, 1, 2))
    assert torch.equal(first.directions, again.directions)
    assert torch.equal(first.eps, again.eps)
    assert not torch.equal(first.directions, other.directions)


def test_bad_arms_are_one_clear_line(split):
    with pytest.raises(InputError, match="arm 'augment' is unknown"):
        training_set("augment", split, (0.1,), seed=0)
    with pytest.raises(InputError, match="craft them on a surrogate"):
        training_set("transferred", split, (0.1,), seed=0)


def test_examples_of_another_eps_are_refused(split):
    made = AdvSet(torch.full(split.images.shape, 100, dtype=torch.int8), {"eps": 0.1})
    assert len(training_set("transferred", split, (0.1,), seed=0, adversarial=made)) == 16
    with pytest.raises(InputError, match=r"crafted at eps 0\.1"):
        training_set("transferred", split, (0.2,), seed=0, adversarial=made)
