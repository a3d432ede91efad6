"""Learning rate, augmentation and validation rounds of a hardening."""

from __future__ import annotations

from dataclasses import replace

from inoculate.data.augment import augmenter, default_policy
from inoculate.data.dataset import Dataset
from inoculate.hardening.data import HardeningData
from inoculate.hardening.schedule import TRAINING_SHARE, Schedule
from inoculate.training.recipe import Recipe
from inoculate.training.validation import passes

PEAK_LR, PEAK_LR_PLAIN = 2e-3, 5e-3  # the second for small_cnn, which has no BatchNorm
TRAINED_LR_FACTOR = 0.1
AUGMENT_FROM_EPOCHS = 5  # images that are seen less often are hardly memorised
ROUNDS_PER_EPOCH, MAX_ROUNDS = 2, 40


def peak_lr(lr: float | None, *, plain: bool, trained: bool) -> float:
    """The peak learning rate: as given, or the default for the network, a tenth of it where it comes trained."""
    return lr or (PEAK_LR_PLAIN if plain else PEAK_LR) * (TRAINED_LR_FACTOR if trained else 1)


def check_augment(augment: str, images: Dataset) -> None:
    """Raise `InputError` for an unknown augmentation."""
    if augment != "auto":
        augmenter(augment, images.image_size)


def resolve_augment(augment: str, images: Dataset, epochs: float) -> str:
    """The augmentation policy; `auto` is `shifts` for colour images that are seen several times, otherwise `none`."""
    if augment != "auto":
        return augment
    photos = images.channels == 3 and default_policy(images.name) != "digits"
    return "shifts" if photos and epochs >= AUGMENT_FROM_EPOCHS else "none"


def make_recipe(schedule: Schedule, data: HardeningData, base: Recipe, *, timed: bool) -> Recipe:
    """The recipe of a schedule: `base` (batch size, learning rate, augmentation) with two validation rounds an epoch.

    With a time budget (`timed`) there are only as many rounds as the share of it that is left for validation allows.
    """
    epochs = schedule.updates * base.batch_size / len(data.train)
    rounds = min(schedule.updates, MAX_ROUNDS, round(ROUNDS_PER_EPOCH * epochs))
    recipe = replace(base, updates=schedule.updates)
    if timed:
        round_passes = passes(len(data.val), recipe.val_images) / base.batch_size
        affordable = (1 - TRAINING_SHARE) * schedule.updates * schedule.method.passes / round_passes
        rounds = min(rounds, int(affordable))
    return schedule.method.adapt(replace(recipe, rounds=max(1, rounds)))
