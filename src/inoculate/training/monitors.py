"""Alarms: what the history of a training says before its end result would."""

from __future__ import annotations

import math
from collections.abc import Sequence

History = Sequence[dict[str, float]]

FALL = 0.5  # a robust accuracy below this part of its best, while training accuracy has not fallen, is a collapse
LEAST = 0.1  # and at least so many points below it,
SURE = 2.5  # and so many standard errors: a robust accuracy on few images jumps about
GAIN = 0.1  # of what one answer for all leaves wrong: from there on a network has learnt something
LEAK = 0.25  # a robust accuracy below this part of the training accuracy on adversarial images is a leak,
LONG = 50  # if for so many updates: at first mean weights and BatchNorm's running statistics lag behind


def detect_failure(history: History) -> str | None:
    """What went wrong in the last round, in words; None if nothing did, or the training was not adversarial.

    `accuracy` in a round is that on the training examples as the method crafts them, `val_robust` that under PGD on
    `val_n` validation images. *Catastrophic overfitting* (Wong et al. 2020, section 5.4): the first does not fall and
    the second does, suddenly. *Label leaking* (Kurakin et al. 2017, section 4.2): the first is high, the second never
    was. A round that began while eps was growing (`strength` below 1) cannot tell the second, and a network that knows
    few training images by heart looks alike: `train_robust`, PGD accuracy on as many training images, tells them apart.
    The first needs a network that had learnt more than one answer for all (`val_majority`).
    """
    if not history or "val_robust" not in history[-1]:
        return None
    last = history[-1]
    best = max(history, key=selection_key)
    fallen = best["val_robust"] - last["val_robust"]
    error = math.sqrt(best["val_robust"] * (1 - best["val_robust"]) / last["val_n"])
    sudden = last["val_robust"] < FALL * best["val_robust"] and fallen > max(LEAST, SURE * error)
    if is_above_baseline(best) and sudden and last["accuracy"] >= best["accuracy"]:
        return (
            f"catastrophic overfitting by update {last['update']:.0f}: accuracy on its own training examples went from "
            f"{best['accuracy']:.0%} to {last['accuracy']:.0%}, while under PGD on validation images it fell from "
            f"{best['val_robust']:.0%} to {last['val_robust']:.0%}"
        )
    if may_leak_labels(history) and last.get("train_robust", 0.0) < LEAK * last["accuracy"]:
        return (
            f"label leaking by update {last['update']:.0f}: {last['accuracy']:.0%} accuracy on its own training "
            f"examples and {last['val_robust']:.0%} under PGD on validation images: the examples give the answer away"
        )
    return None


def is_above_baseline(entry: dict[str, float]) -> bool:
    """Whether the network of a round had learnt more than one answer for all."""
    guess = entry.get("val_majority", 0.0)
    return entry["val_accuracy"] > guess + GAIN * (1 - guess)


def selection_key(entry: dict[str, float]) -> tuple[bool, float, float]:
    """By what rounds of adversarial training are compared; one answer for all withstands much and is worth nothing."""
    return is_above_baseline(entry), entry["val_robust"], entry["val_accuracy"]


def may_leak_labels(history: History) -> bool:
    """Whether the last `LONG` updates look like label leaking, as far as validation images can tell."""
    most = max(each["val_robust"] for each in history)
    since = history[-1]["update"]
    for number in reversed(range(len(history))):
        each = history[number]
        high = each["accuracy"] > max(0.5, each["val_accuracy"] * 0.8)
        if not high or most >= LEAK * each["accuracy"] or each.get("strength", 1.0) < 1:
            break
        since = history[number - 1]["update"] if number else 0
    return history[-1]["update"] - since >= LONG


def detect_failures(history: History) -> list[tuple[int, str]]:
    """Every alarm of a whole training: the round's number from 1, and the message."""
    found = ((number, detect_failure(history[:number])) for number in range(1, len(history) + 1))
    return [(number, message) for number, message in found if message]
